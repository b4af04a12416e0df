"""Models that did not train on a volume, for scores of one step, or of both together, on the cases of all folds."""

from common.errors import InputError
from common.training.run_folder import Run
from common.words import number_of

LISTED = 3  # volumes in a message


def models_of_volumes(models, names):
    """For each volume, the models that had it in their validation set.

    Args:
        models: result of `common.training.trained_models.find_volume_models`, such as both steps in folds.
        names: names of the volumes, as 3_pack_volumes.py named their cases.

    Returns:
        dict of name to such a dict of models, ordered so that volumes with the same models follow each other.

    Raises:
        InputError: if a volume is in no validation set of a step, or one is missing or damaged.
    """
    from common.training.sets import open_set  # imports Keras, which must be imported quietly first

    files = [file for of_step in models.values() for file in of_step.files]
    validated = {file: set(open_set(Run(file.parent).validation_set, memory_gb=0).names) for file in files}
    found = {}
    for name in names:
        found[name] = {
            step: of_step._replace(files=[file for file in of_step.files if name in validated[file]])
            for step, of_step in models.items()
        }
    for step in models:
        if missing := [name for name, of_volume in found.items() if not of_volume[step].files]:
            listed = ", ".join(missing[:LISTED]) + ", ..." * (len(missing) > LISTED)
            raise InputError(
                f"OUT_OF_FOLD: {number_of(len(missing), 'volume')} in no validation set of the step {step!r} "
                f"({listed}); pass all folds of each step, and the volumes that were packed"
            )
    return dict(sorted(found.items(), key=lambda item: str([of_step.files for of_step in item[1].values()])))
