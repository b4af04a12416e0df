"""The examples of docs/extending.md, run as the page says."""

import numpy as np
import pandas as pd
import pytest
from drawings import code_block, make_cases
from running import ROOT, run_here, run_script, training

from common.scores import SCORES, Counts, Score, ratio
from common.slices.images import read_mask, read_slice

IMPORTER = "preprocess/0_import_arrays.py"


def test_network_and_loss(packed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_network.py").write_text(code_block("extending.md", "def build_model"))
    (tmp_path / "my_loss.py").write_text(code_block("extending.md", "def loss"))
    settings = training(packed, tmp_path / "runs", EPOCHS=1, MODEL="my_network.py", MODEL_SETTINGS={"width": 4})
    run_here("train.py", **settings | {"LOSS": "my_loss.py"})
    (run,) = (tmp_path / "runs").iterdir()
    assert {path.name for path in (run / "code").glob("my_*.py")} == {"my_network.py", "my_loss.py"}


def test_score(tmp_path, monkeypatch):
    score = eval(code_block("extending.md", "specificity"), {"Score": Score, "ratio": ratio})
    assert score.compute(Counts(10, 5, 2, 100)) == pytest.approx(83 / 88)
    monkeypatch.setitem(SCORES, score.name, score)
    cases = make_cases(tmp_path / "cases", cases=2, slices=2)
    run_here("evaluate.py", PREDICTED=cases, TRUTH=cases, OUTPUT=tmp_path / "scores")
    assert (pd.read_csv(tmp_path / "scores" / "scores.csv")["specificity"] == 1).all()
    assert "specificity" in (tmp_path / "scores" / "report.html").read_text(encoding="utf-8")


def test_importer(tmp_path):
    """In a copy of the project, as far as the script needs it."""
    rng = np.random.default_rng(0)
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for name in ("anna", "bert", "carl"):
        mask = np.zeros((2, 40, 60), np.uint8)
        mask[:, 10:30, 20:40] = 1
        np.savez(arrays / f"{name}.npz", image=rng.normal(0, 50, mask.shape) + 100 * mask, mask=mask)
    np.savez(arrays / "broken.npz", image=np.zeros((2, 40, 60)))
    (tmp_path / "common").symlink_to(ROOT / "common")
    script = tmp_path / IMPORTER
    script.parent.mkdir()
    script.write_text(code_block("extending.md", "import_cases"))
    result = run_script(script, "--arrays", arrays, "--cases", tmp_path / "cases", "--size", 60)
    assert "broken.npz" in result.stdout
    assert sorted(path.name for path in (tmp_path / "cases").iterdir()) == ["case_anna", "case_bert", "case_carl"]
    image, mask = (tmp_path / "cases" / "case_anna" / side / "0002.png" for side in "xy")
    assert read_slice(image).shape == (60, 60) and read_mask(mask).sum() == 255 * 20 * 20
    run_here("preprocess/2_write_lists.py", CASES=tmp_path / "cases", LISTS=tmp_path / "lists", TEST_SHARE=0)
    again = run_script(script, "--arrays", arrays, "--cases", tmp_path / "cases", expect=1)
    assert "--replace" in again.stderr
