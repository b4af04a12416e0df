"""Training, validation and test sets belong together: they were divided together, and share no case."""

from pathlib import Path

from common.errors import InputError
from common.slices.hdf5 import open_hdf5
from common.slices.hdf5_text import text_of


def refuse_mixed_divisions(training, validation):
    """Raise InputError if the sets in the folder of the training set, a test set too, are of several divisions."""
    folder = Path(training.path).parent
    test = folder / "test.h5"
    divisions = {Path(dataset.path): dataset.division for dataset in (validation, training)}
    if training.division and test.is_file() and test not in divisions:
        with open_hdf5(test) as file:
            divisions[test] = str(text_of(file.attrs.get("division", "")))
    for path, division in divisions.items():
        if path.parent == folder and division and training.division and division != training.division:
            raise InputError(
                f"{path}: of another division than {training.path} (packing was interrupted, or files were mixed), so "
                "they may share cases; pack them again with 3_pack_hdf5.py --replace"
            )


def refuse_shared_cases(training, validation):
    """Raise InputError if a case is in both sets, unless it is the only one: its slices look alike."""
    same_origin = Path(training.path).parent == Path(validation.path).parent
    ours, theirs = (dataset.case_keys(by_name=same_origin) for dataset in (training, validation))
    both = ours & theirs
    if both and len(ours | theirs) > 1:
        raise InputError(
            f"{validation.path}: contains cases of {training.path} (found {len(both)}, such as {min(both)}); "
            "split by case"
        )
