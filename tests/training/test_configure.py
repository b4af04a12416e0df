"""Settings in force: what a run is started with stays, and settings.json says why each value is what it is."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, TINY_UNET, run_here, training

from common.command_line import flags_of
from common.errors import SettingError
from common.files import write_json
from common.settings import Settings
from common.training.configure import configure, configure_folds

EDITING_NETWORK = """
from pathlib import Path

for path in (Path({train!r}), Path({losses!r})):  # as somebody who edits files while the run starts
    path.write_text("BATCH_SIZE = 'half a line", encoding="utf-8")

from models.unet import build_model
"""


@pytest.mark.slow
def test_a_script_that_is_edited_while_a_run_starts_changes_nothing(packed, tmp_path):
    root = tmp_path / "toolkit"
    for name in ("models", "losses", "common"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", root)
    train, losses = root / "train.py", root / "losses" / "pixel.py"
    own = tmp_path / "editing.py"
    own.write_text(EDITING_NETWORK.format(train=str(train), losses=str(losses)), encoding="utf-8")
    settings = training(packed, tmp_path / "runs", MODEL=own, EPOCHS=1)
    done = subprocess.run(
        [sys.executable, train, *flags_of(settings)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "half a line" in train.read_text() and "half a line" in losses.read_text()
    (run,) = (tmp_path / "runs").iterdir()
    for name in ("train.py", "losses/pixel.py", "models/unet.py", "common/settings.py"):
        assert (run / "code" / name).read_bytes() == (ROOT / name).read_bytes()
    recorded = json.loads((run / "settings.json").read_text())
    assert recorded["BATCH_SIZE"] == settings["BATCH_SIZE"] and recorded["EPOCHS"] == 1


def test_settings_json_says_why_each_value_is_what_it_is(packed, tmp_path):
    first = {"EARLY_STOP": 7, "MODEL_SETTINGS": TINY_UNET}
    (tmp_path / "first.json").write_text(json.dumps(first))
    sets = {name: packed["packed"] / f"{name.lower()}.h5" for name in ("TRAIN", "VALIDATION")}
    run_here("train.py", "--settings", tmp_path / "first.json", **sets, RUNS=tmp_path / "runs", EPOCHS=1)
    (run,) = (tmp_path / "runs").iterdir()
    recorded = json.loads((run / "settings.json").read_text())
    reasons = recorded["reasons"]
    assert reasons.keys() == recorded.keys() - {"reasons", "format"}
    assert reasons["EPOCHS"] == "flag --epochs" and reasons["SEED"] == "constant in train.py"
    assert reasons["LOSS"].startswith("chosen for the training set: Dice over the batch")
    assert reasons["MODEL"] == "MODEL_SETTINGS without MODEL are for the U-net"
    assert reasons["EARLY_STOP"] == f"settings file {tmp_path / 'first.json'}"
    assert reasons["OPTIMIZER"] == reasons["BATCH_SIZE"] == "recommended for unet"
    assert reasons["PRECISION"].startswith("auto: ") and reasons["JIT"].startswith("auto: ")
    again = run_here("train.py", "--settings", run / "settings.json", RUNS=tmp_path / "again")
    assert "finished 1 epoch; best validation Dice" in again.stdout
    (second,) = (tmp_path / "again").iterdir()
    values = [json.loads((folder / "settings.json").read_text()) for folder in (run, second)]
    assert [v.pop("RUNS") for v in values] == [str(tmp_path / "runs"), str(tmp_path / "again")]
    assert values[0].pop("reasons") != values[1].pop("reasons") and values[0] == values[1]


def test_configuring_makes_a_new_object_and_leaves_the_given_one():
    given = Settings.of("train.py", MODEL="unet", LEARNING_RATE=0.5)
    before = dict(given.values)
    configured = configure(given)
    assert dict(given.values) == before and given.BATCH_SIZE is None
    assert configured.BATCH_SIZE == 8 and configured.LEARNING_RATE == 0.5 and configured.OPTIMIZER == "nadam"


def test_the_graph_of_the_schedule_says_how_many_epochs():
    settings = Settings.of("train.py", SCHEDULE="graph", SCHEDULE_SETTINGS={"points": [[0, 1e-3], [12, 1e-4]]})
    assert configure(settings).EPOCHS == 12


def test_own_settings_of_a_network_are_checked_by_its_own_types():
    for values in ({"features": "a"}, {"depth": 50}, {"features": [1]}, {"dropout": 1.0}, {"color": 3}):
        with pytest.raises(SettingError, match="MODEL_SETTINGS: "):
            configure(Settings.of("train.py", MODEL_SETTINGS=values))


def test_folds_share_what_is_chosen_for_the_first(monkeypatch):
    asked = []

    def choose(settings, *sets):
        asked.append((settings.FOLD, settings.TRAIN))
        return {"LOSS": ("dice", "a reason"), "MODEL": ("unet", "another")}

    monkeypatch.setattr("common.training.configure.find_folds", lambda path: [2, 3])
    monkeypatch.setattr("common.training.configure.open_sets", lambda settings: (None, None))
    monkeypatch.setattr("common.training.configure.choose_missing", choose)
    settings = configure_folds(Settings.of("train.py", FOLD="all", TRAIN="sets/train.h5"))
    assert asked == [(2, str(Path("sets", "fold2", "train.h5")))]
    assert (settings.FOLD, settings.TRAIN) == ("all", "sets/train.h5")
    assert (settings.MODEL, settings.LOSS) == ("unet", "dice") and settings.BATCH_SIZE is None
    assert settings.reasons["LOSS"] == "chosen for the training set: a reason"
    with pytest.raises(SettingError, match="MODEL_SETTINGS: "):
        configure_folds(Settings.of("train.py", FOLD="all", MODEL_SETTINGS={"encoder": "resnet50"}))


def refused(message, run, **given):
    with pytest.raises(SettingError) as caught:
        configure_folds(Settings.of("train.py", MODE="resume", RUN=str(run), **given))
        configure(Settings.of("train.py", MODE="resume", RUN=str(run), **given))
    assert message in str(caught.value)


def test_a_resumed_run_takes_no_setting_that_its_checkpoint_decides(trained):
    run, _ = trained
    changed = {
        "MODEL": "deeplab_v3plus",
        "MODEL_SETTINGS": {"features": 3},
        "LOSS": "dice",
        "OPTIMIZER": {"name": "nadam", "weight_decay": 0.1},
        "PRECISION": "mixed_bfloat16",
        "FOLD": 1,
        "AS_PUBLISHED": True,
    }
    for name, value in changed.items():
        refused(f"{name}: cannot change in a resumed run (found {value!r}, expected ", run, **{name: value})
    refused(f"RUNS: a resumed run stays in its folder ({run.parent}); leave it out", run, RUNS="elsewhere")
    same = {
        "MODEL": "unet",
        "MODEL_SETTINGS": {"features": TINY_UNET["features"]},
        "OPTIMIZER": {"name": "nadam"},
        "PRECISION": "auto",
        "JIT": "auto",
        "FOLD": None,
        "RUNS": str(run.parent),
        "EPOCHS": 3,
    }
    recorded = Settings.of("train.py").with_recorded(run / "settings.json")
    settings = configure(Settings.of("train.py", MODE="resume", RUN=str(run), **same))
    assert settings.EPOCHS == 3 and settings.LOSS == recorded.LOSS and settings.MODEL == "unet"


def test_a_resumed_cross_validation_takes_its_own_settings_alone(tmp_path):
    folds = tmp_path / "folds"
    folds.mkdir()
    write_json(folds / "cross_validation.json", Settings.of("train.py", FOLD="all", EPOCHS=3).as_json())
    refused("EPOCHS: cannot change in a resumed run (found 4, expected 3 as in", folds, FOLD="all", EPOCHS=4)
    refused("SEED: cannot change in a resumed run (found 2, expected 1 as in", folds, FOLD="all", SEED=2)
    same = Settings.of("train.py", MODE="resume", RUN=str(folds), FOLD="all", EPOCHS=3, RUNS=str(tmp_path))
    assert configure_folds(same) is same
