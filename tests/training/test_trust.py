"""Code of strangers: a run folder, a settings file or a checkpoint runs only what the user trusts."""

import json
import os
import shutil
import zipfile

import keras
import numpy as np
import pytest
from drawings import change_config
from running import assert_refused, run_here, training

import losses
from common.errors import InputError
from common.settings import Settings
from common.training import trust
from common.training.checkpoints import read_checkpoint
from common.training.configure import configure
from common.training.run_folder import Run
from common.training.trained_models import load_network

EVIL = "open({marker!r}, 'w').close()\nfrom models.unet import build_model\ndef loss(a, b): return b[:, 0, 0, 0]\n"
NOT_NAMED = "code that your command does not refer to"


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch):
    monkeypatch.setenv(trust.VARIABLE, "")


@pytest.fixture
def marker(tmp_path):
    """File that the code of the stranger writes."""
    return tmp_path / "ran"


@pytest.fixture
def stranger(trained, tmp_path, marker):
    """Function that makes a run folder of a stranger with code for some settings."""

    def make(**settings):
        run = tmp_path / "stranger"
        shutil.copytree(trained[0], run)
        recorded = json.loads((run / "settings.json").read_text()) | settings
        (run / "settings.json").write_text(json.dumps(recorded))
        (run / "code" / "evil.py").write_text(EVIL.format(marker=str(marker)))
        return run

    return make


def test_no_script_runs_the_network_of_a_stranger(stranger, packed, tmp_path, marker, monkeypatch):
    run = stranger(MODEL="evil.py", TRUST_RUN=True)
    case = packed["cases"] / "case01"
    commands = {
        "predict.py": {"RUN": run, "INPUT": case, "OUTPUT": tmp_path / "out"},
        "convert_coreml.py": {"RUN": run, "OUTPUT": tmp_path / "m.mlmodel"},
        "export.py": {"RUN": run, "OUTPUT": tmp_path / "export", "FORMATS": ["litert"]},
    }
    for script, settings in commands.items():
        assert_refused(script, "evil.py", NOT_NAMED, "--trust-run", **settings)
    resume = {"MODE": "resume", "RUN": run, "EPOCHS": 3}
    assert_refused("train.py", "evil.py", NOT_NAMED, **resume)
    assert_refused("train.py", "evil.py", NOT_NAMED, **training(packed, tmp_path / "r", MODE="retrain", RUN=run))
    for settings in ("settings.json", "other.json"):  # a settings file of a stranger says that he is to be trusted
        (run / "other.json").write_text(json.dumps({"MODEL": str(run / "code" / "evil.py"), "TRUST_RUN": True}))
        shutil.copy(run / "code" / "evil.py", tmp_path / "evil.py")
        monkeypatch.chdir(tmp_path)
        assert_refused(
            "train.py", NOT_NAMED, run=lambda *a, s=settings, **k: run_here(a[0], "--settings", run / s, **k)
        )
    shutil.copytree(run, tmp_path / "folds" / "fold1")
    shutil.copytree(run, tmp_path / "folds" / "fold2")
    (tmp_path / "folds" / "cross_validation.json").write_text(json.dumps({"TRAIN": str(packed["packed"] / "train.h5")}))
    assert_refused("choose.py", "evil.py", NOT_NAMED, CROSS_VALIDATIONS=tmp_path / "folds")
    assert not marker.exists()
    run_here("predict.py", **commands["predict.py"], MODEL=run / "code" / "evil.py")
    assert marker.exists()


def test_the_same_of_a_loss_and_of_paths_elsewhere(stranger, marker):
    run = stranger(LOSS="/anywhere/evil.py+dice")
    with pytest.raises(InputError, match=NOT_NAMED):
        configure(Settings.of("train.py", MODE="resume", RUN=str(run)))
    (run / "code" / "evil.py").rename(run / "evil.py")
    for path in (str(run / "evil.py"), "../evil.py", "C:\\evil.py"):
        (run / "settings.json").write_text(json.dumps({"MODEL": "unet", "LOSS": path}))
        with pytest.raises(InputError, match=r"code.evil\.py: file does not exist"):
            configure(Settings.of("train.py", MODE="resume", RUN=str(run)))
    assert not marker.exists()


def test_a_checkpoint_runs_no_file_by_its_path(stranger, marker):
    run = stranger()
    evil = str(run / "code" / "evil.py")

    def name_it(config):
        config["compile_config"]["loss"]["config"]["terms"] = evil

    change_config(run / "last.keras", name_it)
    with pytest.raises(InputError, match=NOT_NAMED):
        read_checkpoint(Run(run))

    def hide_it(config):
        loss = keras.saving.serialize_keras_object(losses.get_loss("dice"))
        loss["config"]["terms"] = evil
        config["config"]["layers"][1]["config"]["kernel_regularizer"] = loss

    change_config(run / "best_dice.keras", hide_it)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_network(run / "best_dice.keras")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"class_name": "Lambda", "module": "keras.layers", "config": {}}, "Lambda can run code"),
        ({"class_name": "TFSMLayer", "module": "keras.layers", "config": {"filepath": "x"}}, "TFSMLayer can run code"),
        ({"class_name": "StringLookup", "module": "keras.layers", "config": {}}, "can read other files"),
        ({"class_name": "Popen", "module": "subprocess", "config": {"args": "id"}}, "contains Popen of subprocess"),
        ({"class_name": "get_file", "module": "keras.utils", "config": {}}, "keras.utils.get_file, which is no layer"),
        ({"class_name": "X", "module": "kerasx", "config": {}}, "contains X of kerasx"),
    ],
)
def test_a_model_of_strange_classes_is_not_loaded(stranger, layer, words):
    run = stranger()
    change_config(run / "last.keras", lambda config: config["config"]["layers"][1]["config"].update(x=layer))
    for read in (lambda: load_network(run / "last.keras"), lambda: read_checkpoint(Run(run))):
        with pytest.raises(InputError, match=words):
            read()


def test_a_model_file_contains_nothing_else(stranger):
    run = stranger()
    whole = (run / "last.keras").read_bytes()
    for name, content in (("../../evil.py", b"1"), ("assets/a.txt", b"1"), ("run_state.json", b" " * 2 * 10**8)):
        (run / "last.keras").write_bytes(whole)
        with zipfile.ZipFile(run / "last.keras", "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)
        with pytest.raises(InputError, match=f"not as train.py writes it .contains '{name}'"):
            load_network(run / "last.keras")


def test_compiled_code_next_to_a_file_is_not_run(tmp_path, marker):
    """Python prefers a .pyc with the time and size of the file, whatever it contains."""
    import py_compile

    import models
    from losses import own

    good = f"from models.unet import build_model\ndef loss(a, b): return b[:, 0, 0, 0]\n{'#' * 200}\n"
    evil = EVIL.format(marker=str(marker))
    evil += "#" * (len(good) - len(evil) - 1) + "\n"
    path = tmp_path / "mine.py"
    path.write_text(evil)
    py_compile.compile(str(path), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    path.write_text(good)
    models.find_network(str(path))
    own.find_loss(str(path))
    assert not marker.exists()


def test_what_a_command_trusts(tmp_path, monkeypatch):
    (tmp_path / "my.py").write_text("a = 1\n")
    (tmp_path / "net.py").write_text("a = 2\n")
    settings = Settings.of("train.py", LOSS=f"dice+{tmp_path}/my.py", MODEL=f"{tmp_path}/net.py")
    assert trust.own_files(["unet", "a.py+b.py"]) == ["a.py", "b.py"] and trust.own_files("bce+dice") == []
    flags = f"--model {tmp_path}/net.py --loss dice+{tmp_path}/my.py"
    assert trust.flags_to_trust(settings).split() == flags.split()
    assert trust.flags_to_trust(Settings.of("train.py")) == ""
    trust.trust_command(settings)
    assert len(set(os.environ[trust.VARIABLE].split(","))) == 2
    monkeypatch.setenv(trust.VARIABLE, "")
    recorded = settings.replace("settings file a.json", MODEL=settings.MODEL)
    with pytest.raises(InputError, match=rf"net.py: {NOT_NAMED} \(settings file a.json\).*--model"):
        trust.trust_command(recorded)
    trust.trust_command(recorded.replace("settings file a.json", MODEL="unet", TRUST_RUN=True))
    assert os.environ[trust.VARIABLE] != trust.EVERYTHING
    trust.trust_command(recorded.replace("flag --trust-run", TRUST_RUN=True))
    assert os.environ[trust.VARIABLE] == trust.EVERYTHING
    assert np.all([trust.require_trusted(tmp_path / name, "LOSS", "") is None for name in ("my.py", "net.py")])
