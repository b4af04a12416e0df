"""The precision in which slices are predicted."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from running import run_here

from common.prediction import ensemble, precision, volume_precision
from common.prediction.precision import HALF, choose_precision

MASK = np.zeros((64, 64, 1), np.float32)
MASK[10:50, 10:50] = 0.9
OFF = np.where(np.arange(64)[:, None, None] == 10, 0, MASK)  # one row of 40 is missing: Dice 0.987
CLOSE = MASK + np.float32(0.01)


def chosen(monkeypatch, seconds, masks, setting="auto", count=100, has_bfloat16=True):
    """What is chosen if the prediction of an image in float32, and in bfloat16, takes `seconds` and gives `masks`."""
    networks = SimpleNamespace(precision=None, files=["a", "b"], size=64, overlapping=False)
    answers = dict(zip(("float32", HALF), zip(seconds, masks, strict=True), strict=True))
    monkeypatch.setattr(precision, "is_tensorflow_on_cpu", lambda: True)
    monkeypatch.setattr(precision, "has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(precision, "_predict", lambda ensemble, image, options: answers[ensemble.precision])
    found, reason = choose_precision(setting, networks, lambda: "an image", count, 0.5, "none", fit="resize")
    assert (networks.precision or "auto") == found
    return found, reason


@pytest.mark.parametrize(
    ("seconds", "masks", "expected", "said"),
    [
        ((1, 0.5), (MASK, CLOSE), HALF, "bfloat16 takes 0.5 times as long as float32"),
        ((1, 0.9), (MASK, CLOSE), "float32", "bfloat16 takes 0.9 times"),
        ((1, 0.5), (MASK, OFF), "float32", "bfloat16 changes the result too much (Dice 0.9873 on one image)"),
        ((1, 0.5), (0 * MASK, 0 * MASK + 0.01), HALF, "bfloat16 takes 0.5"),
        ((1, 0.5), (0 * MASK, 0 * MASK + 0.03), "float32", "too much (a probability by 0.03 on one image)"),
        ((0.1, 0.01), (MASK, MASK), "float32", ""),
    ],
)
def test_bfloat16_is_used_if_it_is_faster_and_changes_no_mask(monkeypatch, seconds, masks, expected, said):
    found, reason = chosen(monkeypatch, seconds, masks)
    assert found == expected and said in reason and bool(said) == bool(reason)


def test_nothing_is_tried_without_need(monkeypatch):
    assert chosen(monkeypatch, (1, 0.5), (MASK, MASK), has_bfloat16=False) == ("float32", "")
    assert chosen(monkeypatch, (1, 0.5), (MASK, MASK), count=10) == ("float32", "")
    for setting in ("float32", HALF):
        assert chosen(monkeypatch, (1, 0.5), (MASK, MASK), setting) == (setting, "")
    networks = SimpleNamespace(precision=None)
    monkeypatch.setattr(precision, "is_tensorflow_on_cpu", lambda: False)
    assert choose_precision("auto", networks, None, 1, 0.5, "none") == ("auto", "")
    assert networks.precision is None, "as trained"


def test_predict_tries_both_and_records_what_it_chose(monkeypatch, trained, packed, tmp_path):
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "LEAST_SECONDS", 0)
    monkeypatch.setattr(precision, "GREATEST_SHARE", 1e9)
    settings = {"RUN": trained[0], "INPUT": next(packed["cases"].iterdir()), "OVERLAYS": False}
    out = run_here("predict.py", **settings, OUTPUT=tmp_path / "auto").stdout
    used = json.loads((tmp_path / "auto" / "prediction.json").read_text())["PRECISION"]
    assert f"\nprecision {used}: bfloat16 " in out and used in ("float32", HALF)
    run_here("predict.py", **settings, OUTPUT=tmp_path / "given", PRECISION=used)
    masks = sorted((tmp_path / "auto").glob("*.png"))
    assert masks
    for mask in masks:
        assert mask.read_bytes() == (tmp_path / "given" / mask.name).read_bytes()


@pytest.mark.parametrize(
    ("least", "changes", "expected", "said"),
    [
        (0, {"GREATEST_SHARE": 1e9, "LEAST_DICE": 0, "GREATEST_DIFFERENCE": 2}, HALF, "bfloat16 takes"),
        (0, {"GREATEST_SHARE": 1e9, "LEAST_DICE": 2, "GREATEST_DIFFERENCE": -1}, "float32", "bfloat16 changes"),
        (0, {"GREATEST_SHARE": 0}, "float32", "bfloat16 takes"),
        (1e9, {}, "float32", ""),
    ],
)
def test_volumes_are_tried_on_a_cube_in_the_middle(
    monkeypatch, decathlon, decathlon_runs, tmp_path, least, changes, expected, said
):
    """The step that finds the labels decides for both; a volume that cannot be read decides nothing."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "is_tensorflow_on_cpu", lambda: True)
    monkeypatch.setattr(volume_precision, "LEAST_SECONDS", least)
    monkeypatch.setattr(volume_precision, "SIDE", 8)
    for name, value in changes.items():
        monkeypatch.setattr(precision, name, value)
    images = shutil.copytree(decathlon / "Task99_Synthetic" / "imagesTs", tmp_path / "images")
    (path,) = images.iterdir()
    settings = {"RUN": list(map(str, decathlon_runs)), "INPUT": images, "OVERLAYS": False}
    (images / "a_cut.nii.gz").write_bytes(path.read_bytes()[:-900])
    out = run_here("predict.py", **settings, OUTPUT=tmp_path / "auto", expect=1).stdout
    used = json.loads((tmp_path / "auto" / "prediction.json").read_text())["PRECISION"]
    assert used == expected and (f"\nprecision {used}: {said}" in out if said else "\nprecision" not in out)
    run_here("predict.py", **settings, OUTPUT=tmp_path / "given", PRECISION=used, expect=1)
    assert (tmp_path / "auto" / path.name).read_bytes() == (tmp_path / "given" / path.name).read_bytes()


def test_predict_loads_its_network_once_if_nothing_is_tried(monkeypatch, trained, packed, tmp_path):
    loaded, own = [], ensemble.load_for_prediction
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    monkeypatch.setattr(ensemble, "load_for_prediction", lambda *given: loaded.append(given) or own(*given))
    settings = {"RUN": trained[0], "INPUT": next(packed["cases"].iterdir()), "OVERLAYS": False}
    run_here("predict.py", **settings, OUTPUT=tmp_path / "out")
    assert len(loaded) == 1
