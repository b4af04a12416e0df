"""Make a small synthetic data set: axial chest slices with the heart as mask. No patient data.

Writes  CASES/case01/x/0001.png, y/0001.png and case.json, and so on, for steps 1 and 2
Takes   about three seconds for 8 cases of 12 slices of 200x200

The slices look like CT in a soft-tissue window. The heart is hardly brighter than muscle and no
brighter than liver and great vessels, so gray values alone do not find it. Over the whole set, the
best threshold reaches a Dice of about 0.3, and the best band between two thresholds 0.4. A U-net
reaches 0.98 on unseen cases. The first and last slices of a case show no heart. The same SEED
makes the same files.
"""

import sys
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- output
CASES: types.PathName = "data/sample"  # output folder for the case folders
REPLACE: bool = False  # True: overwrite a data set made by this script

# --- size
COUNT: Annotated[int, Ge(1), Le(99)] = 8  # number of cases, 1 to 99
SLICES: Annotated[int, Ge(6), Le(99)] = 12  # slices per case, 6 to 99, from the aortic arch down to the upper abdomen
SIZE: Annotated[int, Ge(64), Le(512)] = 200  # side length of the slices in pixels, 64 to 512; always 360 mm
SEED: types.Seed = 1  # random seed, 0 or more; case 3 is the same for every COUNT

settings = apply_command_line(globals())

from functools import partial

import numpy as np

from common.errors import SettingError
from common.parallel import progress
from common.replacing import refuse_existing, whole_folder
from common.slices.cases import CaseRecord, Imported, fill_case
from common.slices.images import encode_png
from common.slices.phantom import FIELD, draw_slice, invent_patient
from common.words import number_of

SOURCE = "synthetic, make_sample.py"


def main():
    root = Path(settings.CASES)
    check_settings(root)
    slices = f"{number_of(settings.SLICES, 'slice')}, {settings.SIZE}x{settings.SIZE}"
    print(
        f"drawing {number_of(settings.COUNT, 'synthetic case')} of {slices}, into {settings.CASES}",
        flush=True,
    )
    spacing = [FIELD / settings.SIZE, FIELD / settings.SIZE]
    make_record = partial(CaseRecord, f"{SOURCE}, seed {settings.SEED}", settings.SIZE, spacing=spacing)
    with whole_folder(root, settings.REPLACE) as folder:
        for number in progress(range(1, settings.COUNT + 1), settings.COUNT, "drawing"):
            case = folder / f"case{number:02d}"
            case.mkdir()
            fill_case(case, [Imported(draw_case(number))], make_record)
    slices = number_of(settings.COUNT * settings.SLICES, "slice")
    print(f"wrote {number_of(settings.COUNT, 'case')}, {slices} with masks, to {settings.CASES}")


def check_settings(root):
    if not root.name:
        raise SettingError(f"CASES: expected the name of a new folder (found {settings.CASES!r})")
    refuse_existing(root, settings.REPLACE)


def draw_case(number):
    """Yield each slice and mask of a case as PNG bytes, with its entry for case.json."""
    rng = np.random.default_rng([settings.SEED, number])
    patient = invent_patient(rng)
    side = settings.SIZE
    for i in range(settings.SLICES):
        image, mask = draw_slice(patient, (i + 0.5) / settings.SLICES, side, rng)
        entry = {"image": None, "mask": None, "image_size": [side, side], "box": [0, 0, side, side]}
        yield encode_png(image), encode_png(mask), entry


if __name__ == "__main__":
    main()
