"""Making a network ready to train: its optimizer, loss and metrics."""

import keras

from common.training.cpu_speedups import train_faster
from losses import follow_steps, get_loss, training_metrics


def compile_network(model, optimizer, rate, loss, jit):
    """Compile a network for training.

    Args:
        model: keras.Model.
        optimizer, rate: as in `make_optimizer`.
        loss: as in `losses.get_loss`.
        jit: whether to compile with XLA, or with the compiler of PyTorch.
    """
    model.compile(
        optimizer=make_optimizer(optimizer, rate),
        loss=get_loss(loss),
        metrics=training_metrics(),
        jit_compile=jit,
    )
    model.optimizer.build(model.trainable_variables)  # else within the first step, which is then traced twice
    prepare_steps(model)


def prepare_steps(model):
    """What a compiled network needs before it is trained, also one that was loaded; nothing of it is in its file."""
    follow_steps(model)
    train_faster(model)


def make_optimizer(setting, rate=None):
    """Optimizer of a setting.

    Args:
        setting: name, or dict with "name" and settings of its own, as `OPTIMIZER` of train.py.
        rate: learning rate, which a rate among the settings goes before; None takes that of Keras.

    Raises:
        ValueError: for a name or a setting that there is not.
    """
    setting = {"name": setting} if isinstance(setting, str) else dict(setting)
    if "name" not in setting:
        raise ValueError(f'{setting} has no name; expected for instance {{"name": "sgd", "momentum": 0.9}}')
    name = setting.pop("name").lower()
    rate = {} if rate is None else {"learning_rate": rate}
    return keras.optimizers.get({"class_name": name, "config": rate | setting})
