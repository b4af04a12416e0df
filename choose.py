"""Choose ensemble, flips, cleaning and threshold for predict.py on out-of-fold predictions.

    python choose.py --cross-validations runs/20260102-030405_unet_folds

Reads   CROSS_VALIDATIONS: folders of train.py --fold all; with several, it may average them
Writes  choice.json, for predict.py --run, and choice.csv, the scores, both into the first folder
Takes   as long as predicting every slice eight times, or volume nine times, with each checkpoint
Expect  a table of scores; the choice is often only slightly better than the baseline

Scores each combination on the cases that each fold did not train on. Chooses models first, then
flips, then cleaning; each only if it raises the mean Dice over cases. For one class, then a
threshold, only if it raises it by more than one standard error.
"""

from typing import Annotated

from annotated_types import Len

from common import setting_types as types
from common.settings import apply_command_line, require_folder

CROSS_VALIDATIONS: str | Annotated[list[types.PathName], Len(1)] = ""
# cross-validation folder of train.py --fold all, or a list of them
MODEL: str = ""  # your own network file of CROSS_VALIDATIONS, so that its copies may run
#   Code in them runs only if it equals this file.
TRUST_RUN: bool = False  # True: run any code that they contain; only if you trust their source
CLEANINGS: list[types.Cleaning] = [{}, {"share": 1}, {"share": 0.1}, {"smallest": 50}, {"fill": True}, {"median": 5}]
# values of CLEAN of predict.py to choose from; none is always tried
#   {} is no cleaning.
WORKERS: types.Workers = ""  # "": this machine; a number of processes; or a Dask scheduler
#   Such as "tcp://10.0.0.1:8786", for several machines: see docs/scaling.md.

settings = apply_command_line(globals())

import pandas as pd

from common.claims import claimed
from common.devices import import_keras
from common.files import whole_file
from common.streams import print_lines
from common.tables import write_table
from common.training.cross_validation import fold_numbers
from common.training.trained_models import CrossValidation
from common.training.trust import trust_command
from common.workers import start_workers


def main():
    trust_command(settings)
    folders = settings.CROSS_VALIDATIONS
    folders = folders if isinstance(folders, list) else [folders]
    for folder in folders:
        require_folder(folder, "CROSS_VALIDATIONS")
    cleanings = settings.CLEANINGS if {} in settings.CLEANINGS else [{}, *settings.CLEANINGS]
    import_keras()
    # imports Keras, which takes seconds; so check the input first
    from common.evaluation.selection import choose, find_threshold

    first = CrossValidation(folders[0])
    report_missing(first)
    with claimed(first.choice_file), claimed(first.combinations_file):  # removes what a kill left of either
        with start_workers(settings.WORKERS) as workers:
            choice, table = choose(folders, cleanings, workers=workers)
            with whole_file(first.combinations_file) as unfinished:
                write_table(unfinished, table)
            threshold, dice, at_half = find_threshold(**choice, workers=workers) or (None, None, None)
        first.write_choice(**choice, threshold=threshold)
    print_table(table)
    if threshold:
        print(f"threshold {threshold:g}, chosen on the same predictions: Dice {dice:.4f} ({at_half:.4f} at 0.5)")
    print(f"wrote {first.choice_file}; predict.py --run {first} uses it")


def report_missing(folds):
    """Print which folds next to TRAIN of a CrossValidation have no model."""
    train = folds.settings.get("TRAIN") if folds.exists else None
    if not train:
        return
    trained = {run.name for run in folds.runs()}
    missing = [f"fold{number}" for number in fold_numbers(train) if f"fold{number}" not in trained]
    if missing:
        said = f"choosing without these cases; to train them: python train.py --fold all --mode resume --run {folds}"
        print(f"note: {' and '.join(missing)} of {folds} not trained: {said}", flush=True)


def print_table(table):
    """Print the baseline, the eight best combinations, and the chosen one."""
    shown = pd.concat([table.head(1), table.nlargest(8, "dice"), table[table["chosen"] == "yes"]]).drop_duplicates()
    print(f"baseline, the eight best of {len(table)} combinations, and the chosen one")
    print_lines(shown.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
