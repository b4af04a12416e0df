"""Work that is done aside, in a thread, while training goes on; and copies of a network, to save there."""

from concurrent.futures import ThreadPoolExecutor

import keras


class Aside:
    """A thread that does one job at a time.

    Python waits for a job under way before it ends, also after an error or a Ctrl-C.
    """

    def __init__(self):
        self.thread, self.job = ThreadPoolExecutor(1, "aside"), None

    def start(self, function, *arguments):
        """Start a job, once the one before is done; raises what that one raised."""
        self.wait()
        self.job = self.thread.submit(function, *arguments)

    def wait(self):
        """Wait until nothing is under way; raises what the job raised."""
        if self.job:
            try:
                self.job.result()
            finally:  # after a Ctrl-C meanwhile, the job is still to be waited for
                self.job = None if self.job.done() else self.job


def copy_network(model):
    """A copy of a compiled network and its optimizer in the memory of the processor, which can be saved while the
    network trains; with `copy_state` it is brought up to date.

    Returns:
        keras.Model; the network itself where it is of a kind that Keras does not clone.
    """
    try:
        with keras.device("cpu:0"):
            copy = keras.models.clone_model(model)
            copy.compile_from_config(model.get_compile_config())
    except (NotImplementedError, TypeError, ValueError):
        return model
    alike = [v.shape for v in _state(copy)] == [v.shape for v in _state(model)]
    return copy if alike else model


def copy_state(model, copy):
    """Give a copy of `copy_network` the weights and the state of the optimizer that the network has now."""
    for ours, theirs in zip(_state(model), _state(copy), strict=True):
        theirs.assign(keras.ops.convert_to_numpy(ours))


def _state(model):
    return [*model.variables, *model.optimizer.variables]
