"""compare_runs.py: runs, folds and trials that were recorded without a training, on one page in a real browser."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import scipy.stats
from browsing import MODES, check_fit, check_page, opened
from recorded import curve, new_study, record_folds, record_run, record_scores, record_study
from running import ROOT, assert_refused, leftovers, run_here

from common.claims import claimed
from common.evaluation.comparison import (
    LARGEST,
    STUDY_FILE,
    compare,
    mean_and_interval,
    mean_curve,
    read_run,
)
from common.evaluation.settings_table import differing_settings
from common.tuning import study

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    '" onmouseover="alert(1)',
    "$x_{$",
    "_begins with an underscore",
    "two\nlines",
    "a#b?c%41 {{ 7 * 7 }}",
    os.fsdecode(b"not \xff UTF-8"),
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Page of many runs, one of them damaged and one not ended, folds, and a study; and what was printed."""
    runs = tmp_path_factory.mktemp("compared") / "runs"
    for number in range(1, 15):
        different = {"LEARNING_RATE": 0.001 * (1 + number % 2), "MODEL_SETTINGS": {"features": number, "depth": 4}}
        record_run(runs / f"202601{number:02d}-030405_unet", curve(0.5 + 0.02 * number), **different)
    record_run(runs / "20260115-030405_unet", curve(0.9)[:4], ended=None, planned=50)
    (runs / "20260116-030405_unet").mkdir()
    (runs / "20260116-030405_unet" / "settings.json").write_text("{")
    record_scores(runs / "20260101-030405_unet" / "scores", 0.71, 0.6, 0.8, 5)
    record_folds(runs / "20260120-030405_unet_folds")
    record_study(runs / "study")
    (runs / "notes").mkdir()
    return runs / "index.html", run_here("compare_runs.py", RUNS=runs).stdout


def rows_of(page, number=0):
    """Texts of the cells of a table, row by row, as dicts."""
    table = page.locator("table").nth(number)
    names = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    rows = table.locator("tbody tr").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.innerText.trim()))")
    return [dict(zip(names, row, strict=True)) for row in rows]


# --- the page


@pytest.mark.parametrize(("width", "scheme"), MODES)
def test_page_in_a_browser(browser, compared, width, scheme):
    check_page(browser, compared[0], width, scheme)


def test_tables_sort_and_show_what_the_runs_recorded(browser, compared):
    path, out = compared
    with opened(browser, path) as page:
        rows = rows_of(page)
        assert [row["rank"] for row in rows] == [str(i) for i in range(1, 19)]
        dice = [float(row["dice"]) for row in rows[:-1]]
        assert dice == sorted(dice, reverse=True) and rows[-1]["dice"] == "-", "the damaged one is last"
        by_name = {row["run"]: row for row in rows}
        assert "settings.json: damaged (not a JSON file)" in by_name["20260116-030405_unet"]["status"]
        assert by_name["20260115-030405_unet"]["status"] == "interrupted after 4 epochs"
        assert by_name["20260115-030405_unet"]["epochs"] == "4 of 50"
        best = by_name["20260114-030405_unet"]
        assert (best["dice"], best["epoch"], best["minutes"], best["parameters"]) == ("0.780", "7", "4.000", "1234")
        assert by_name["20260101-030405_unet"]["95% interval over cases"] == "0.600 to 0.800 (5 cases)"
        folds = by_name["20260120-030405_unet_folds"]
        assert (folds["dice"], folds["95% interval"]) == ("0.800", "0.552 to 1.000 (3 folds)")
        assert folds["95% interval over cases"] == "0.650 to 0.850 (12 cases)"
        assert folds["status"] == "3 folds, complete" and folds["epochs"] == "24 of 24"
        assert by_name["study"]["status"] == "study: 3 complete, 1 failed"

        page.locator("table").first.locator("thead button", has_text="run").click()
        assert [row["run"] for row in rows_of(page)] == sorted(by_name)

        differing = {row["run"]: row for row in rows_of(page, 1)}
        features, depth = "MODEL SETTINGS: features", "MODEL SETTINGS: depth"
        assert set(differing["study"]) == {"run", features, depth, "LEARNING RATE", "OPTIMIZER"}
        folds = differing["20260120-030405_unet_folds"]
        assert folds["OPTIMIZER"] == "nadam", "in force in the folds; the cross-validation was started without one"
        row = differing["20260103-030405_unet"]
        assert (row[features], row["LEARNING RATE"]) == ("3", "0.002")
        assert differing["study"]["LEARNING RATE"] == "None" and differing["study"][depth] == ""

        assert [row["fold"] for row in rows_of(page, 2)] == ["fold3", "fold2", "fold1"]
        trials = rows_of(page, 3)
        assert [row["trial"] for row in trials] == ["1", "2", "0", "3"] and trials[-1]["reason"] == "out of memory"
        assert [row["unet depth"] for row in trials] == ["2", "3", "1", "4"]
        assert page.locator("img.plot").count() == 3
    assert "skipped 1 folder without a run: notes" in out and out.endswith(f"wrote {path} (runs: 23)\n")
    assert "\nthe best 15 of 18; without a score: 1\n" in out and "20260101" not in out
    assert re.search(r"20260120-030405_unet_folds +0\.8000 0\.552 to 1\.000 \(3 folds\)", out)


def test_links_lead_to_the_reports(browser, compared):
    path, _ = compared
    with opened(browser, path) as page:
        links = page.locator("a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
        assert "./20260103-030405_unet/report.html" in links and "#section1" in links
        assert "./20260120-030405_unet_folds/fold2/report.html" in links
        assert links.count("./20260120-030405_unet_folds/scores/report.html") == 2
        assert links.count("./20260101-030405_unet/scores/report.html") == 1
        assert "./study/runs/trial-000/2026_unet/report.html" in links
        assert not any("elsewhere" in link for link in links)
        page.get_by_role("link", name="20260120-030405_unet_folds").first.click()
        assert page.evaluate("document.querySelector(location.hash).innerText") == "Folds of 20260120-030405_unet_folds"
        page.get_by_role("link", name="20260103-030405_unet").first.click()
        assert page.title() == "report"


def test_the_page_has_no_path_of_this_machine(compared):
    path, _ = compared
    assert str(path.parents[1]) not in path.read_text()


def test_a_cross_validation_or_a_study_alone(tmp_path):
    folds, trials = record_folds(tmp_path / "cv"), record_study(tmp_path / "study")
    before = (trials / STUDY_FILE).read_bytes()
    for folder, heading in ((folds, "Folds of cv"), (trials, "Trials of study")):
        run_here("compare_runs.py", RUNS=folder, OUTPUT=tmp_path / "pages" / "x.html")
        text = (tmp_path / "pages" / "x.html").read_text()
        assert heading in text and f'href="../{os.fspath(folder).rpartition("/")[2]}/' in text.replace("./..", "..")
    assert (trials / STUDY_FILE).read_bytes() == before and STUDY_FILE == study.DATABASE
    assert not leftovers(tmp_path)


# --- what is not as it should be


def record(folder, name, text):
    record_run(folder, curve(0.8))
    (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("settings.json", "[]", "settings.json: damaged (expected an object"),
        ("settings.json", '{"LOSS": 1}', "settings.json: damaged (LOSS"),
        ("settings.json", '{"MODEL": "a", "X": ' + "[" * 900 + "]" * 900 + "}", "nested too deeply"),
        ("state.json", '{"epochs": "many"}', "state.json: damaged (epochs"),
        ("training_log.csv", "epoch,seconds,val_dice\n1,2,x\n", "training_log.csv: damaged"),
        ("training_log.csv", "epoch,val_dice\n1,0.5\n", "no column seconds"),
        ("training_log.csv", "epoch,seconds,val_iou\n1,1,0.5\n", "no column val_dice"),
        ("training_log.csv", "epoch,seconds,val_dice\n1,1,1e300\n", "found Dice 1e+300 in epoch 1"),
        ("training_log.csv", "epoch,seconds,val_dice\n-5,1,0.5\n", "in epoch -5"),
    ],
)
def test_a_damaged_record_is_the_status_of_its_run(tmp_path, name, text, words):
    record(tmp_path / "bad", name, text)
    record_run(tmp_path / "good", curve(0.7))
    run_here("compare_runs.py", RUNS=tmp_path)
    ((section,), _) = compare(tmp_path)
    status = {entry.name: entry.status for entry in section.entries}
    assert words in status["bad"] and str(tmp_path) not in status["bad"] and len(status["bad"]) < 210
    assert status["good"] == "finished all 8 epochs"


def test_runs_that_are_not_complete(tmp_path):
    running = record_run(tmp_path / "running", curve(0.5), ended=None)
    record_run(tmp_path / "begun", [], ended=None)
    (tmp_path / "lost").mkdir()
    record_run(tmp_path / "lost", curve(0.5)).settings_file.unlink()
    record_run(tmp_path / "large", curve(0.5), planned=10**30)
    os.mkfifo(tmp_path / "begun" / "training_log.csv")
    with claimed(running):
        run_here("compare_runs.py", RUNS=tmp_path)
        entries = {entry.name: entry for entry in compare(tmp_path)[0][0].entries}
    assert entries["running"].status == "running" and read_run(running).status == "interrupted after 8 epochs"
    assert "training_log.csv" in entries["begun"].status
    assert entries["lost"].status == "settings.json: missing" and entries["lost"].dice == 0.5
    assert entries["large"].planned is None and LARGEST < 10**30
    assert read_run(record_run(tmp_path / "new", [], ended=None)).status == "ended before its first epoch"


def test_a_folder_without_permission_is_no_run(tmp_path, monkeypatch):
    record_run(tmp_path / "run", curve(0.5))
    (tmp_path / "private").mkdir()
    is_file = Path.is_file

    def refused(path):
        if path.parent.name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    said = run_here("compare_runs.py", RUNS=tmp_path).stdout
    assert "skipped 1 folder without a run: private (Permission denied)" in said and "(runs: 1)" in said


def open_for_ever(path):
    os.mkfifo(path.with_name(f"{path.name}-journal"))


def not_readable(path):
    path.unlink()
    path.symlink_to("/proc/self/mem")  # opens, and then an input/output error, as of a broken disk


def locked(path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def of_another_type(column, value):
    def change(path):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE {} SET {} = ? WHERE rowid = 1".format(*column.split(".")), (value,))

    return change


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
@pytest.mark.parametrize(
    ("change", "status"),
    [
        (open_for_ever, "study.db-journal: not a regular file"),
        (not_readable, "study.db: the disk failed (input/output error); check the disk"),
        (locked, "database is locked"),
        (of_another_type("trials.number", 1.5), "expected whole numbers of trial and epochs (found [1.5"),
        (of_another_type("trial_intermediate_values.step", "x"), "expected whole numbers of trial and epochs"),
        (of_another_type("trial_intermediate_values.intermediate_value", "x"), "expected numbers as scores (found 'x'"),
        (of_another_type("trial_values.value", "x"), "expected numbers as scores (found 'x'"),
    ],
)
def test_a_study_that_cannot_be_read_is_a_row_at_once(tmp_path, monkeypatch, change, status):
    monkeypatch.setattr(study, "READING_SECONDS", 0.1)
    kept = change(record_study(tmp_path / "study") / STUDY_FILE)
    runs, *_ = compare(tmp_path)[0]
    assert status in runs.entries[0].status, kept  # the lock lasts as long as its connection


def test_a_damaged_study_or_cross_validation_is_a_row(tmp_path):
    record_study(tmp_path / "study", bests=())
    (tmp_path / "study" / STUDY_FILE).write_bytes(b"SQLite format 3\0" + bytes(4000))
    folds = record_folds(tmp_path / "cv")
    folds.fold(2).log_file.write_text("epoch\nx\n")
    folds.scores_folder.joinpath("summary.csv").write_text("class\n1\n")
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "cross_validation.json").write_text("{}")
    run_here("compare_runs.py", RUNS=tmp_path)
    (runs, *sections), _ = compare(tmp_path)
    status = {entry.name: entry.status for entry in runs.entries}
    assert "cannot be used as a study of tune.py" in status["study"]
    assert "summary.csv: no column" in status["cv"] and "cross_validation.json: damaged (TRAIN" in status["cv2"]
    assert [entry.dice for entry in sections[0].entries] == [0.9, 0.7, None]
    assert sections[0].summary.dice == pytest.approx(0.8) and "2 folds" in sections[0].summary.interval


def test_names_and_texts_of_a_stranger_do_nothing(browser, tmp_path):
    for number, name in enumerate(HOSTILE):
        text = f"<script>alert({number})</script>" + "w" * 3000
        different = {"MODEL_SETTINGS": {text: text}, "RUN": text}
        record_run(tmp_path / "runs" / name, curve(0.5 + 0.01 * number), ended=text, **different)
    out = run_here("compare_runs.py", RUNS=tmp_path / "runs").stdout
    assert "two\\nlines" in out
    for width in (1280, 390):
        with opened(browser, tmp_path / "runs" / "index.html", width) as page:
            page.on("dialog", lambda dialog: pytest.fail(dialog.message))
            check_fit(page)
            links = page.locator("a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
            assert len(links) == 2 * len(HOSTILE) and all(re.fullmatch(r"\./[\w.%/-]+", link) for link in links)
            found = {os.fsencode(tmp_path / "runs" / unquote(link, errors="surrogateescape")) for link in links}
            assert found == {os.fsencode(tmp_path / "runs" / name / "report.html") for name in HOSTILE}
            page.get_by_role("link", name="javascript:alert(1)").first.click()
            assert page.title() == "report"


def test_only_its_own_page_is_replaced(tmp_path):
    record_run(tmp_path / "a", curve(0.5))
    page = tmp_path / "index.html"
    page.write_text("my page")
    assert_refused("compare_runs.py", f"{page}: not made by this toolkit", RUNS=tmp_path)
    assert page.read_text() == "my page"
    page.unlink()
    run_here("compare_runs.py", RUNS=tmp_path)
    record_run(tmp_path / "b", curve(0.6))
    run_here("compare_runs.py", RUNS=tmp_path)
    assert "./b/report.html" in page.read_text()
    page.write_text(page.read_text() + "my notes")
    assert_refused("compare_runs.py", "changed since", RUNS=tmp_path)
    assert page.read_text().endswith("my notes") and not leftovers(tmp_path)


def test_bad_input(tmp_path):
    assert_refused("compare_runs.py", "RUNS: no run in", "found 0 other folders", RUNS=tmp_path)
    assert_refused("compare_runs.py", "does not exist", RUNS=tmp_path / "gone")
    run = record_run(tmp_path / "a", curve(0.5))
    assert_refused("compare_runs.py", "is a run folder", "use the folder around it", RUNS=run)
    assert_refused("compare_runs.py", "OUTPUT: expected an .html file", RUNS=tmp_path, OUTPUT=tmp_path / "x.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    assert_refused("compare_runs.py", "nothing to compare", "no trial yet", RUNS=new_study(tmp_path / "study"))
    (tmp_path / "study" / STUDY_FILE).write_bytes(b"SQLite format 3\0" + bytes(4000))
    assert_refused("compare_runs.py", "nothing to compare", "cannot be used as a study", RUNS=tmp_path / "study")


# --- parts


def test_neither_keras_nor_optuna_is_loaded_for_runs(tmp_path):
    record_run(tmp_path / "a", curve(0.5))
    code = f"""if True:
        import runpy, sys
        sys.argv = ["compare_runs.py", "--runs", {os.fspath(tmp_path)!r}]
        runpy.run_path({os.fspath(ROOT / "compare_runs.py")!r}, run_name="__main__")
        print(sorted({{"keras", "tensorflow", "jax", "torch", "optuna", "cv2", "SimpleITK"}} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]" and not done.stderr


def test_interval_of_the_mean_over_folds():
    values = [0.61, 0.64, 0.7, 0.72]
    mean, text = mean_and_interval(values)
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    assert mean == pytest.approx(np.mean(values)) and text == f"{low:.3f} to {high:.3f}"
    assert mean_and_interval([0.5]) == (0.5, "") and mean_and_interval([]) == (None, "")
    assert mean_curve([[(1, 0.2), (2, 0.4)], [(1, 0.4)]]) == [(1, pytest.approx(0.3))] and mean_curve([]) == []


def test_settings_that_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def columns(*settings):
        return differing_settings([read_run(record_run(tmp_path / str(i), [], **s)) for i, s in enumerate(settings)])

    assert columns({}, {}) == {} and columns({"RUNS": "a"}, {"RUNS": "b"}) == {}
    assert columns({"BATCH_SIZE": 4}, {"BATCH_SIZE": 8}) == {"BATCH_SIZE": ["4", "8"]}
    two = {"TRAIN": ["train.h5 (1)", "train.h5 (2)"]}
    assert columns({"TRAIN": "/home/me/x/train.h5"}, {"TRAIN": "/home/me/y/train.h5"}) == two
    assert columns({"TRAIN": "d/train.h5"}, {"TRAIN": str(tmp_path / "d/train.h5")}) == {}, "the same file"
    found = columns({"AUGMENTATION": {"rotation": 10, "zoom": 0.1}}, {"AUGMENTATION": {"rotation": 10}})
    assert found == {"AUGMENTATION: zoom": ["0.1", ""]}
    found = columns({"AUGMENTATION": "medical"}, {"AUGMENTATION": {"rotation": 10}})
    assert found == {"AUGMENTATION": ["medical", "{'rotation': 10.0}"]}
    found = columns({"OPTIMIZER": "adam", "JIT": False}, {"OPTIMIZER": "sgd", "JIT": "auto"})
    assert found == {"OPTIMIZER": ["adam", "sgd"], "JIT": ["False", "auto"]}
