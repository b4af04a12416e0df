"""tune.py, run as a user runs it: a search that is killed and shared, trials that fail or are stopped, bad input."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import h5py
import optuna
import pandas as pd
import pytest
from drawings import make_cases
from filelock import FileLock
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial
from running import ROOT, assert_refused, leftovers, run_here, run_script

from common.command_line import flags_of
from common.errors import InputError, SettingError
from common.settings import Settings
from common.slices.images import read_image
from common.training.trained_models import CrossValidation
from common.training.training_log import Log
from common.tuning import results
from common.tuning import study as tuning
from common.tuning.check_values import check_settings
from common.tuning.spaces import choose_settings, settings_with_every_value


def search(packed, study, **settings):
    """Settings of a small search; half of its trials fail, since 24 pixels cannot be halved seven times."""
    return {
        "TRAIN": str(packed["packed"] / "train.h5"),
        "VALIDATION": str(packed["packed"] / "validation.h5"),
        "STUDY": str(study),
        "MODELS": ["unet"],
        "MODEL_SETTINGS": {"unet": {"features": 2, "depth": [1, 7], "dropout": 0.0}},
        "LOSSES": ["bce+dice"],
        "AUGMENTATION": {},
        "PRECISIONS": ["float32"],
        "OTHERS": {"BATCH_SIZE": 3},
        "TRIALS": 3,
        "EPOCHS": 1,
        "SAMPLER": "random",
        **settings,
    }


def start(settings, root=ROOT, **environment):
    command = [sys.executable, str(root / "tune.py"), *flags_of(settings)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | environment, **pipes)


def wait_until(process, true):
    while not true():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def trials_of(study):
    return tuning.open_study(Path(study), {}, (), None, None).get_trials()


def begun(study):
    return len(list(study.glob("runs/trial-*")))


def begin(settings):
    """Study of a search, begun without asking train.py about each value."""
    recorded = json.loads(json.dumps(Settings.of("tune.py", **settings).as_json()))
    return tuning.open_study(Path(settings["STUDY"]), recorded, (), lambda: None, None)


def seed_with_one_failure(settings):
    """A seed with which the second trial of three has a depth that 24 pixels cannot be halved to."""
    settings = Settings.of("tune.py", **settings)
    for seed in range(100):
        study = optuna.create_study()
        for _ in range(3):
            choose = partial(choose_settings, settings)
            tuning.add_trial(study, lambda seed: RandomSampler(seed=seed), seed, choose, study.get_trials())
        if [trial.params["unet depth"] for trial in study.get_trials()] == [1, 7, 1]:
            return seed
    raise AssertionError


# --- a search


@pytest.mark.slow
def test_a_search_killed_twice_and_finished_by_two_processes(packed, tmp_path):
    study = tmp_path / "study"
    settings = search(packed, study)
    settings["SEED"] = seed_with_one_failure(settings)
    first = start(settings)
    wait_until(first, lambda: list(study.glob("runs/trial-000/2*/settings.json")))
    kill(first)
    second = start(settings)
    wait_until(second, (study / "runs" / "trial-001" / "output.txt").exists)
    time.sleep(random.random())
    kill(second)
    assert not (study / "best_settings.json").exists(), "what is not complete must not look so"
    pair = [start(settings), start(settings)]
    outs = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outs
    assert all("best trials:" in out and "trials: 3; 2 complete, 1 failed" in out for out, _ in outs)

    trials = trials_of(study)
    assert [(trial.number, trial.state.name) for trial in trials] == [(0, "COMPLETE"), (1, "FAIL"), (2, "COMPLETE")]
    assert sorted(path.name for path in (study / "runs").iterdir()) == ["trial-000", "trial-001", "trial-002"]
    for trial in trials:
        folders = [path for path in tuning.trial_folder(study, trial.number).iterdir() if path.is_dir()]
        if trial.state == TrialState.FAIL:
            assert not folders and "unet: expected features >= 1, depth >= 1" in trial.user_attrs["reason"]
        else:
            assert [study / trial.user_attrs["run"]] == folders
            log = pd.read_csv(folders[0] / "training_log.csv")
            assert list(log["epoch"]) == [1] and trial.value == log["val_dice"].max() == trial.intermediate_values[1]
            assert (folders[0] / "report.html").exists() and any((folders[0] / "tensorboard").iterdir())
    assert not leftovers(study)

    table = pd.read_csv(study / "trials.csv")
    assert list(table["state"]) == ["complete", "complete", "failed"] and table["dice"][0] >= table["dice"][1]
    assert {"unet depth", "LEARNING_RATE", "run", "minutes"} <= set(table) and "unet: expected" in table["reason"][2]
    assert read_image(study / "importance.png").std() > 5
    run_here("train.py", "--settings", study / "best_settings.json", RUNS=tmp_path / "runs")
    ours = pd.read_csv(next(tmp_path.glob("runs/2*/training_log.csv")))
    theirs = pd.read_csv(study / table["run"][0] / "training_log.csv")
    assert ours["val_dice"].equals(theirs["val_dice"]), "the same settings and seed give the same scores"

    before = {name: (study / name).read_bytes() for name in ("best_settings.json", "trials.csv")}
    (study / "best_settings.json").unlink()
    assert "finished trials: 3 of 3" in run_here("tune.py", "--settings", study / "settings.json").stdout
    assert {name: (study / name).read_bytes() for name in before} == before and len(trials_of(study)) == 3


@pytest.mark.slow
def test_a_trial_that_does_poorly_is_stopped(packed, tmp_path):
    settings = search(packed, tmp_path / "study", EPOCHS=1000, PATIENCE=1, TRIALS=3, LEARNING_RATE=[1e-9])
    settings["MODEL_SETTINGS"] = {"unet": {"features": 2, "depth": 1}}
    study = begin(settings)
    for _ in range(2):
        study.add_trial(create_trial(value=0.99, intermediate_values=dict.fromkeys(range(1, 1000), 0.99)))
    out = start(settings).communicate()[0]
    trial = study.get_trials()[2]
    assert trial.state == TrialState.PRUNED and 1 <= len(trial.intermediate_values) < 999
    assert "trial 2, stopped early: validation Dice" in out
    folder = tuning.trial_folder(tmp_path / "study", 2)
    assert "stopped after epoch" in (folder / "output.txt").read_text(), "train.py ended as by Ctrl-C"
    assert (study.get_trials()[2].user_attrs["run"]) and not leftovers(folder)


@pytest.mark.slow
def test_folds_and_several_sets(tmp_path):
    """Trials on both folds of two data sets, of slices of 24 and of 32 pixels."""
    sets = {}
    for name, size in (("a", 24), ("b", 32)):
        cases = make_cases(tmp_path / name / "cases", cases=4, slices=2, size=size)
        lists = tmp_path / name / "lists"
        run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=lists, FOLDS=2, TEST_SHARE=0.25)
        for fold in (1, 2):
            where = tmp_path / name / "packed" / f"fold{fold}"
            run_here("preprocess/3_pack_hdf5.py", LISTS=lists / f"fold{fold}", PACKED=where)
        sets[name] = [str(tmp_path / name / "packed" / f"{which}.h5") for which in ("train", "validation")]
    train, validation = map(list, zip(*sets.values(), strict=True))
    settings = search({"packed": tmp_path}, tmp_path / "study", TRAIN=train, VALIDATION=validation, FOLDS="all")
    settings |= {"TRIALS": 2, "MODEL_SETTINGS": {"unet": {"features": 2, "depth": 1}}, "EPOCHS": 2, "SEED": 3}
    settings |= {"LEARNING_RATE": [1e-3], "PRUNER": "none"}
    out = run_script("tune.py", **settings).stdout
    assert "mean of 2 folds" in out
    trials = trials_of(tmp_path / "study")
    assert {trial.params["TRAIN"] for trial in trials} == set(train), "a trial repeats no other, so both are searched"
    for trial in trials:
        folds = CrossValidation(tuning.trial_folder(tmp_path / "study", trial.number))
        bests = [run.log.best("dice")[0] for run in folds.runs()]
        assert len(bests) == 2 and trial.value == pytest.approx(sum(bests) / 2)
        assert [Path(run.settings["TRAIN"]).parent.name for run in folds.runs()] == ["fold1", "fold2"]
        side = 24 if trial.params["TRAIN"] == train[0] else 32
        assert {run.data.size for run in folds.runs()} == {side}
        assert set(trial.intermediate_values) == {1, 2, 3, 4}
    best = max(trials, key=lambda trial: trial.value)
    recorded = json.loads((tmp_path / "study" / "best_settings.json").read_text())
    assert (recorded["FOLD"], recorded["TRAIN"]) == ("all", best.params["TRAIN"])
    assert pd.read_csv(tmp_path / "study" / "trials.csv")["dice"][0] == pytest.approx(best.value)
    assert read_image(tmp_path / "study" / "importance.png").std() > 5
    assert "finished trials: 2 of 2" in run_here("tune.py", **settings).stdout


def test_the_score_of_folds_is_a_mean_that_pruners_can_compare():
    study = optuna.create_study()
    study.add_trial(create_trial(state=TrialState.RUNNING))
    live = optuna.trial.Trial(study, 0)
    live.set_user_attr("folds", 2)

    class Ended:
        poll = staticmethod(lambda: 0)

    logs = {1: [0.2, 0.6, 0.4], 2: [float("nan"), 0.1, 0.3]}
    for fold, before in ((1, []), (2, [0.6])):
        rows = [{"epoch": i, "val_dice": dice} for i, dice in enumerate(logs[fold], 1)]
        run = mock.Mock(log=mock.Mock(rows=rows))
        with mock.patch.object(tuning, "find_run", return_value=run), mock.patch.object(tuning, "_read_rows") as read:
            read.side_effect = lambda run: run.log.rows
            list(tuning.follow_training(live, Ended, Path("trial"), 3, fold, before))
    (trial,) = study.get_trials()
    assert trial.intermediate_values == pytest.approx({1: 0.2, 2: 0.6, 3: 0.6, 5: 0.35, 6: 0.45})
    assert results.best_epoch(trial) == (pytest.approx(0.45), 6)
    assert results.score_as_text(trial) == "0.4500, mean of 2 folds"


def test_ranges_are_continuous_or_whole():
    ranges = {
        "AUGMENTATION": {"rotation": {"low": 0, "high": 114}, "noise": {"low": 1e-3, "high": 0.1, "log": True}},
        "MODEL_SETTINGS": {"unet": {"features": {"low": 8, "high": 64, "step": 8}}},
    }
    given = Settings.of("tune.py", MODELS=["unet"], LOSSES=["bce"], LEARNING_RATE=None, **ranges)
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    found = [choose_settings(given, study.ask()) for _ in range(60)]
    rotations = [settings["AUGMENTATION"]["rotation"] for settings in found]
    assert len(set(rotations)) == 60 and 0 < min(rotations) < 10 and 100 < max(rotations) < 114
    assert sum(settings["AUGMENTATION"]["noise"] < 1e-2 for settings in found) > 15, "half of them, on a log scale"
    assert {settings["MODEL_SETTINGS"]["features"] for settings in found} == set(range(8, 65, 8))
    every = settings_with_every_value(partial(choose_settings, given))
    assert {settings["AUGMENTATION"].get("rotation") for settings in every} == {None, 114}
    assert {settings["MODEL_SETTINGS"]["features"] for settings in every} == {8, 64}


# --- many processes, with a train.py that takes no time

STUB = """
from common.settings import apply_command_line
TRAIN = ""
VALIDATION = ""
RUNS = "runs"
MODE = "new"
RUN = ""
MODEL = "unet"
MODEL_SETTINGS = {}
LOSS = ""
AUGMENTATION = {}
PRECISION = ""
LEARNING_RATE: float | None = None
MAX_MINUTES: float | None = None
BATCH_SIZE = 1
EPOCHS = 1
SEED = 1
settings = apply_command_line(globals())

import os, signal, time
from pathlib import Path
from common.files import write_json, whole_file
from common.replacing import whole_folder

once = Path(__file__).with_name("once")
if not once.exists():
    once.touch()
    os.kill(os.getpid(), signal.SIGTERM)  # as when the machine is shut down
run = Path(settings.RUN) if settings.MODE == "resume" else Path(settings.RUNS, time.strftime("%Y%m%d-%H%M%S_unet"))
if settings.MODE == "new":
    with whole_folder(run) as part:
        write_json(part / "settings.json", settings.as_json())
busy = os.open(run / "busy", os.O_CREAT | os.O_EXCL)
try:
    log = run / "training_log.csv"
    lines = log.read_text().splitlines() if log.exists() else ["epoch,val_dice,seconds"]
    while len(lines) <= 5:
        time.sleep(0.1)
        lines.append(f"{len(lines)},{len(lines) / 10},0.1")
        with whole_file(log) as part:
            part.write_text("\\n".join(lines))
finally:
    os.close(busy)
    os.remove(run / "busy")
"""


@pytest.fixture
def stub(tmp_path):
    """Copy of the project in which training takes a moment, and fails where another one is at the same run."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "common", root / "common", ignore=shutil.ignore_patterns("__pycache__", "coreml"))
    shutil.copy(ROOT / "tune.py", root)
    (root / "train.py").write_text(STUB)
    return root


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not have")
def test_a_new_search_in_a_folder_with_an_odd_name_by_two_at_once(packed, tmp_path):
    """The name has a byte of Latin-1, an emoji, codes that clear a terminal and a line feed; the locale has ASCII."""
    folder = tmp_path / os.fsdecode(b"caf\xe9 \xf0\x9f\x98\x80 \x1b[2J\nend")
    shutil.copytree(packed["packed"], folder)
    settings = search({"packed": folder}, folder / "study", TRIALS=2)
    settings["MODEL_SETTINGS"] = {"unet": {"features": 2, "depth": 1}}
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    pair = [start(settings, **plain), start(settings, **plain)]
    outs = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outs
    assert [trial.state for trial in trials_of(folder / "study")] == [TrialState.COMPLETE] * 2
    for out, err in outs:
        assert "Traceback" not in err and "\x1b" not in out + err
        assert out.count("\\x1b[2J\\nend/study") == 3, out
    assert not leftovers(tmp_path)


@pytest.mark.slow
def test_ctrl_c_and_kills_at_random_moments(packed, tmp_path, stub):
    folder = tmp_path / "study"
    settings = search(packed, folder, TRIALS=8, EPOCHS=5)
    begin(settings)
    process = start(settings, stub)
    wait_until(process, lambda: list(folder.glob("runs/trial-*/2*/training_log.csv")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == -signal.SIGINT and "Traceback" not in err
    assert (
        "stopped; run the same command to continue the interrupted trial" in out and "tune.py: stopped by Ctrl-C" in err
    )
    assert out.count("trial 0 was ended by signal 15") == 1, "and is begun again"
    with FileLock(tuning.trial_folder(folder, 0) / "training.lock", timeout=0):
        pass  # the training has ended
    for _ in range(2):
        pair = [start(settings, stub), start(settings, stub)]
        before = begun(folder)
        wait_until(pair[0], lambda before=before: begun(folder) > before)
        time.sleep(random.random())
        for process in pair:
            kill(process)
    pair = [start(settings, stub), start(settings, stub)]
    outs = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outs
    trials = trials_of(folder)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8
    assert len({json.dumps(trial.params) for trial in trials}) == 8
    for trial in trials:
        (run,) = tuning.trial_folder(folder, trial.number).glob("[!.]*/")
        assert list(pd.read_csv(run / "training_log.csv")["epoch"]) == [1, 2, 3, 4, 5]
        assert trial.value == 0.5 and set(trial.intermediate_values) == {1, 2, 3, 4, 5}
    assert len(pd.read_csv(folder / "trials.csv")) == 8 and (folder / "best_settings.json").exists()


def test_when_all_fail_the_message_says_why(packed, tmp_path, stub):
    (stub / "train.py").write_text("import sys; sys.exit('train.py: error: the loss of epoch 1 is nan: lower it')")
    settings = search(packed, tmp_path / "study", TRIALS=2)
    begin(settings)
    process = start(settings, stub)
    _, err = process.communicate()
    assert (
        process.returncode == 1 and "no trial was completed (trials: 2;" in err and "the loss of epoch 1 is nan" in err
    )
    (stub / "train.py").write_text("import sys; sys.exit('train.py: error: the disk is full while writing x')")
    process = start(settings | {"TRIALS": 3}, stub)
    _, err = process.communicate()
    assert process.returncode == 1 and "the disk is full" in err
    assert trials_of(tmp_path / "study")[2].state == TrialState.RUNNING, "a full disk is not the trial's fault"


def test_a_trial_that_never_gets_on_is_given_up():
    study = optuna.create_study()
    study.add_trial(create_trial(state=TrialState.RUNNING))
    live = optuna.trial.Trial(study, 0)

    def starts(count):
        return [tuning.count_start(live, study.get_trials()[0]) for _ in range(count)]

    assert starts(4) == [True] * 4
    live.report(0.5, 1)
    assert starts(6) == [True] * 5 + [False]


def test_why_a_training_failed_in_one_line(tmp_path):
    def reason(text, status=1):
        (tmp_path / "output.txt").write_text(text)
        return tuning.failure_reason(tmp_path / "output.txt", status)

    assert reason("epoch 1\ntrain.py: error: LOSS: unknown\n") == "LOSS: unknown"
    assert reason("OOM when allocating tensor").startswith("out of memory")
    assert reason("zooms by 0.1\nTraceback\nValueError: no such zoom") == "ValueError: no such zoom"
    assert reason("", -9) == "ended by signal 9, as the system does when memory runs out"
    assert reason("") == "train.py exited with status 1 and no message"


def test_the_best_trials_have_a_dice_for_each_class():
    """In the best epoch of each run; the mean over several runs."""

    def run(*rows):
        rows = [{"epoch": k, "val_dice": dice} | more for k, (dice, more) in enumerate(rows, 1)]
        return SimpleNamespace(data=None, class_names=lambda data: ["liver", "tumor"], log=Log(rows))

    one = run((0.5, {"val_dice_1": 0.7, "val_dice_2": 0.3}), (0.4, {"val_dice_1": 0.8, "val_dice_2": 0.0}))
    other = run((0.6, {"val_dice_1": 0.9, "val_dice_2": 0.3}))
    assert results.dice_by_class([one]) == "liver 0.7000, tumor 0.3000"
    assert results.dice_by_class([one, other]) == "liver 0.8000, tumor 0.3000"
    assert results.dice_by_class([run((0.5, {}))]) == results.dice_by_class([]) == ""


def test_what_mattered_is_found_also_where_most_trials_came_to_nothing():
    spaces = {
        "LEARNING_RATE": optuna.distributions.FloatDistribution(1e-4, 1, log=True),
        "LOSS": optuna.distributions.CategoricalDistribution(("mse", "dice")),
    }

    def trials(scores):
        for number, score in enumerate(scores):
            params = {"LEARNING_RATE": 10 ** (-number / 4), "LOSS": ("mse", "dice")[number % 2]}
            yield create_trial(params=params, distributions=spaces, value=score, intermediate_values={1: score})

    for scores in ([0.9, 0.8, 0.7] + 9 * [0.0], [0.9 - number / 20 for number in range(12)]):
        shares = results.importances(list(trials(scores)))
        assert list(shares) == ["LEARNING_RATE", "LOSS"] and shares["LEARNING_RATE"] > 0.6
    for scores in ([0.9, 0.8], 12 * [0.0], [0.5, *(11 * [0.0])], []):
        assert results.importances(list(trials(scores))) == {}


# --- bad input


def test_a_value_that_train_does_not_take_is_refused_before_the_search(packed, tmp_path):
    settings = search(packed, tmp_path / "study", OTHERS={"OPTIMIZER": ["adam", "adamm"]})
    assert_refused("tune.py", "OPTIMIZER", "adamm", status=2, run=run_script, **settings)
    assert not (tmp_path / "study").exists()


def test_bad_settings(packed, tmp_path):
    def refused(*words, **settings):
        assert_refused("tune.py", *words, status=2, **search(packed, tmp_path / "study", **settings))
        assert not (tmp_path / "study").exists()

    refused("MODELS", "a list of at least 1 value, each", "(found [])", MODELS=[])
    refused("LOSSES: duplicate value (found 'mse' twice)", LOSSES=["mse", "mse"])
    refused("PRECISIONS", "(found [16])", PRECISIONS=[16])
    refused("LEARNING_RATE", "[lowest, highest]", "(found [0.1, 0.001])", LEARNING_RATE=[0.1, 0.001])
    refused("LEARNING_RATE", LEARNING_RATE=[0.0, 0.1])
    refused("MODEL_SETTINGS: unknown network (found 'unett')", MODEL_SETTINGS={"unett": {}})
    refused("MODEL_SETTINGS: unet: expected a dict of settings (found [1])", MODEL_SETTINGS={"unet": [1]})
    refused("AUGMENTATION: flip: expected a list with at least one value (found [])", AUGMENTATION={"flip": []})
    for wrong in ({"low": 3, "high": 1}, {"low": 0, "high": 1, "log": True}, {"low": 0.5, "high": 3, "step": 1}):
        refused("AUGMENTATION: rotation: expected low < high", AUGMENTATION={"rotation": wrong})
    refused("VALIDATION: expected one set for each of TRAIN (found a list of 2 and one path)", TRAIN=["a.h5", "b.h5"])
    refused("TRAIN: duplicate value", TRAIN=["a.h5", "a.h5"], VALIDATION=["a.h5", "b.h5"])
    refused("OTHERS: setting not allowed (found EPOCHS", OTHERS={"EPOCHS": 3})
    refused("SAMPLER", "(found 'grid')", SAMPLER="grid")
    refused("TRIALS", "at least 1 (found 0)", TRIALS=0)
    refused("MINUTES", "above 0", "(found 0.0)", MINUTES=0.0)


def test_a_study_that_is_damaged_or_another_one(packed, tmp_path):
    settings = search(packed, tmp_path / "study")
    study = tmp_path / "study"
    begin(settings)
    database = (study / "study.db").read_bytes()

    def refused(*words, **changed):
        assert_refused("tune.py", *words, **settings | changed)

    refused("the study was created with LOSSES ['bce+dice']", "(found ['mse'])", "--settings", LOSSES=["mse"])
    for content in (b"", b"no database", database[: len(database) // 2], database[:100] + bytes(len(database) - 100)):
        (study / "study.db").write_bytes(content)
        refused(study / "study.db", "cannot be used as a study of tune.py (", "another --study")
    (study / "study.db").write_bytes(database)
    (study / "settings.json").write_text("{")
    refused("settings.json: damaged")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    refused("contains thesis.txt but no study.db", STUDY=str(tmp_path / "other"))
    refused("is a file", STUDY=str(tmp_path / "other" / "thesis.txt"))


def test_a_search_without_data_is_refused(packed, tmp_path):
    def refused(*words, **settings):
        given = Settings.of("tune.py", **search(packed, tmp_path / "study", **settings))
        values = settings_with_every_value(partial(choose_settings, given))
        (tmp_path / "values.json").write_text(json.dumps(values))
        with pytest.raises(InputError) as raised:
            check_settings(tmp_path / "values.json")
        assert all(word in str(raised.value) for word in words), raised.value

    refused("gone.h5: file does not exist", TRAIN=str(tmp_path / "gone.h5"))
    refused(f"{tmp_path}: expected a file (found a folder)", TRAIN=str(tmp_path))
    refused("nowhere.py: network file does not exist", MODELS=["unet", "nowhere.py"])
    refused("AUGMENTATION", "rotate", AUGMENTATION={"rotate": [0, 3]})
    refused("unknown setting EPOCH", OTHERS={"EPOCH": 3})
    refused("BATCH_SIZE", "(found 0)", OTHERS={"BATCH_SIZE": [2, 0]})
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["pixels"] = 1
    refused("expected datasets x and y", TRAIN=str(tmp_path / "empty.h5"))


def test_values_for_packed_volumes_are_checked_by_the_rules_for_volumes(decathlon, tmp_path):
    sets = {name.upper(): str(decathlon / "whole" / f"{name}.h5") for name in ("train", "validation")}
    given = sets | {"MODEL": "unet3d", "MODEL_SETTINGS": {"features": 2}, "LOSS": "bce+dice", "LEARNING_RATE": 0.001}
    given |= {"AUGMENTATION": {"rotation": 5, "flip": "x"}, "BATCH_SIZE": 1, "PRECISION": "float32", "EPOCHS": 1}
    file = tmp_path / "settings.json"

    def check(**changes):
        file.write_text(json.dumps([given, given | changes]))
        check_settings(file)

    check(MODEL="se_resunet3d", CROP=[8, 8, 8], BATCH_SIZE=2, FOREGROUND=0.3)
    for words, changes in (
        ("LOSS: .*is for slices only", {"LOSS": "hausdorff+dice"}),
        ("AUGMENTATION: unknown key 'brightness' for volumes", {"AUGMENTATION": {"brightness": 0.1}}),
        ("BATCH_SIZE: expected 1 for whole volumes", {"BATCH_SIZE": 2}),
        ("MODEL.*not for volumes", {"MODEL": "unet"}),
    ):
        with pytest.raises(SettingError, match=words):
            check(**changes)
