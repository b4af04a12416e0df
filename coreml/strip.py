"""A copy of a trained model without its optimizer, in a run folder with only what later scripts read."""

import shutil

import numpy as np

from common.errors import InputError
from common.files import file_digest, write_json
from common.public_settings import without_own_paths
from common.replacing import whole_folder
from common.training.run_folder import Run
from common.training.trained_models import load_network
from common.training.trust import own_files, trusted_copy

STRIPPED = "stripped"  # name of the folder


def strip_run(run, source, folder, replace):
    """Write a run folder with a model without its optimizer, which is two thirds of a file trained with Adam.

    It contains settings, state, log and calibration too, and code of your own if the model needs it, but no paths of
    this machine. Predictions are the same; training cannot be resumed.

    Args:
        run: `common.training.run_folder.Run`; empty for a single .keras file.
        source: Path of the .keras file in it.
        folder: Path of the folder to write STRIPPED into.
        replace: whether to replace an existing one.

    Returns:
        bytes of the new .keras file and of `source`.

    Raises:
        InputError: if the weights read back are not the same.
    """
    network = load_network(source)
    with whole_folder(folder / STRIPPED, replace) as unfinished:
        copy = Run(unfinished)
        for own in own_files(run.settings.get("MODEL", "")):
            code = trusted_copy(run.code_folder, own, "MODEL")
            copy.code_folder.mkdir(exist_ok=True)
            shutil.copyfile(code, copy.code_folder / code.name)
        if run.exists:
            write_json(copy.settings_file, without_own_paths(run.settings))
        for file in (run.state_file, run.log_file):
            if file.is_file():
                shutil.copyfile(file, unfinished / file.name)
        stripped = unfinished / source.name
        network.save(stripped)
        calibration = run.calibration_of(source)
        if calibration:
            calibration.model_copy(update={"model": file_digest(stripped)}).write_to(copy.calibration_file)
        written = load_network(stripped)
        pairs = zip(written.get_weights(), network.get_weights(), strict=True)
        if not all(np.array_equal(*pair) for pair in pairs):
            raise InputError(f"{source}: weights differ after writing; run again, and check the disk")
        return stripped.stat().st_size, source.stat().st_size
