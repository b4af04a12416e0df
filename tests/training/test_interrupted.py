"""What an interrupted run_pipeline.py had begun: which training the next one continues, skips or restarts."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from common.errors import InputError
from common.files import write_json
from common.slices.hdf5_text import write_texts
from common.training.interrupted import (
    RECORD,
    Begun,
    identity_of_training,
    is_complete,
    settings_of_training,
    settings_to_resume,
    with_whole_paths,
)
from common.training.run_folder import Run
from common.training.run_records import SliceData
from common.training.trained_models import CrossValidation
from common.training.training_log import Log


@pytest.fixture
def work(tmp_path):
    """A WORK folder with sets of two folds."""
    for folder in ("packed", "packed/fold1", "packed/fold2"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("train.h5", "validation.h5", "test.h5"):
            pack(tmp_path / folder / name, f"{folder} {name}")
    return tmp_path


def pack(path, case, source="", **attributes):
    """Write a packed set of one slice."""
    with h5py.File(path, "w") as file:
        file["x"] = file["y"] = np.zeros((1, 8, 8, 1), np.uint8)
        write_texts(file, "case", [case])
        write_texts(file, "source", [source])
        file.attrs.update({"classes": 1} | attributes)


def wanted(work, plan=None, **values):
    sets = {"TRAIN": work / "packed" / "train.h5", "VALIDATION": work / "packed" / "validation.h5"}
    return settings_of_training(plan, {**sets, "EPOCHS": 5, **values})


def make_run(work, name, settings):
    """A Run that was interrupted after its first epoch."""
    run = Run(work / "runs" / name)
    write_json(run.settings_file, settings)
    log = Log([{"epoch": 1, "val_dice": 0.5, "val_iou": 0.5, "seconds": 30.0}])
    log.write(run.log_file)
    run.write_state(log, 5, None, {}, SliceData(), {})
    return run


def test_the_training_with_the_same_sets_and_settings_is_continued(work, capsys):
    settings = wanted(work, MAX_MINUTES=2.0)
    make_run(work, "0_unet", settings)  # of an earlier pipeline
    assert Begun(work).find_run("training", settings) is None
    Begun(work).begin("training", settings)
    assert Begun(work).find_run("training", settings) is None, "killed before it had a folder"
    make_run(work, "1_other", settings | {"TRAIN": "other.h5"})  # by the user
    run = make_run(work, "2_unet", settings)
    assert Begun(work).find_run("final training", settings) is None
    found = Begun(work).find_run("training", settings)
    assert str(found) == str(run) and not is_complete(found) and not capsys.readouterr().out
    assert settings_to_resume(found) == {"MODE": "resume", "RUN": found, "MAX_MINUTES": 1.5}
    run.write_state(run.log, 5, "finished", {}, SliceData(), {})
    run.examples_file.touch()
    assert is_complete(found)
    write_json(run.settings_file, settings | {"VALIDATION": ""})
    assert not is_complete(found), "its last files can be missing"


@pytest.mark.parametrize("changed", ["setting", "plan", "set", "fold"])
def test_other_sets_or_settings_are_trained_from_the_start(work, capsys, changed):
    write_json(work / "plan.json", {"LOSS": "dice"})
    Begun(work).begin("training", wanted(work, work / "plan.json"))
    make_run(work, "1_unet", wanted(work, work / "plan.json"))
    pack(work / "packed" / "test.h5", "other cases to test")
    assert Begun(work).find_run("training", wanted(work, work / "plan.json"))
    if changed == "plan":
        write_json(work / "plan.json", {"LOSS": "bce"})
    elif changed != "setting":
        pack(work / "packed" / {"set": "train.h5", "fold": "fold2/validation.h5"}[changed], "other")
    more = {"EPOCHS": 6} if changed == "setting" else {}
    assert Begun(work).find_run("training", wanted(work, work / "plan.json", **more)) is None
    assert capsys.readouterr().out.count("restarting the training: its data or settings have changed") == 1


def test_another_working_folder_changes_nothing(work, monkeypatch):
    """Nor does what it changes in the sets: the paths of the slices, and recorded settings."""
    digests = set()
    for folder, sets in ((work, "packed"), (work.parent, work / "packed"), (work / "runs", "../packed")):
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        pack(work / "packed" / "train.h5", "a", f"{sets}/0001.png", settings=f"{sets}")
        values = {"TRAIN": Path(sets, "train.h5"), "VALIDATION": "", "RUNS": Path(sets, "..", "runs"), "EPOCHS": 5}
        digests.add(identity_of_training(settings_of_training(None, with_whole_paths(values))))
    assert len(digests) == 1
    with h5py.File(work / "packed" / "train.h5", "a") as file:
        file["y"][0, 0, 0] = 255
    assert identity_of_training(settings_of_training(None, with_whole_paths(values))) not in digests


def test_a_cross_validation_is_continued(work):
    settings = wanted(work, FOLD="all")
    Begun(work).begin("training", settings)
    (work / "runs" / "1_unet_folds").mkdir(parents=True)
    assert Begun(work).find_run("training", settings) is None, "killed before it had its settings"
    folds = CrossValidation(work / "runs" / "1_unet_folds")
    write_json(folds.settings_file, settings)
    found = Begun(work).find_run("training", settings)
    assert str(found) == str(folds) and not is_complete(found)
    assert settings_to_resume(found) == {"MODE": "resume", "RUN": found, "FOLD": "all"}
    folds.folds_file.touch()
    assert is_complete(found)


def test_a_plan_is_kept_for_the_same_sets_and_time(work):
    packed = work / "packed"
    (packed / "plan.json").write_text("{}")
    assert not Begun(work).is_planned("training", packed, 8)
    Begun(work).planned("training", packed, 8)
    assert Begun(work).is_planned("training", packed, 8)
    assert not Begun(work).is_planned("training", packed, 9) and not Begun(work).is_planned("final", packed, 8)
    pack(packed / "train.h5", "other")
    assert not Begun(work).is_planned("training", packed, 8)
    Begun(work).planned("training", packed, 8)
    (packed / "plan.json").unlink()
    assert not Begun(work).is_planned("training", packed, 8)


def test_the_record_goes_when_all_is_done_and_a_damaged_one_is_refused(work):
    Begun(work).end()
    Begun(work).begin("training", wanted(work))
    Begun(work).end()
    assert not (work / RECORD).exists()
    for content, problem in (("{", "not a JSON file"), ('{"plans": 1}', "plans: "), ('{"format": 2}', "newer version")):
        (work / RECORD).write_text(content)
        with pytest.raises(InputError, match=f"{RECORD}: .*{problem}"):
            Begun(work)
    (work / RECORD).write_text(json.dumps({"trainings": {"training": {"identity": "a", "before": ["../x"]}}}))
    assert Begun(work).find_run("training", wanted(work)) is None
