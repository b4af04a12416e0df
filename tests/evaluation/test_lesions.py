"""Lesions: matching, FROC, panoptic quality and errors against independent calculations, and the tables written."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from drawings import as_volume, make_cases, write, write_image
from hypothesis import given
from hypothesis import strategies as st
from running import assert_refused, run_here
from scipy import ndimage

from common.evaluation.lesion_scores import measure_errors, size_groups, summarize_lesions
from common.evaluation.lesion_tables import score_tables
from common.evaluation.lesions import KINDS, Lesion, froc, lesions_of, match_lesions, overlaps, panoptic_quality
from common.slices.images import read_mask

RATES = (0.125, 0.25, 0.5, 1, 2, 4, 8)


def volume_of(balls, shape=(24, 40, 44), spacing=(2.5, 0.8, 0.5)):
    """Union of balls: list of (center (k, j, i) in voxels, radius in mm)."""
    grid = np.indices(shape).astype(float)
    mask = np.zeros(shape, bool)
    for center, radius in balls:
        squares = sum(((g - c) * mm) ** 2 for g, c, mm in zip(grid, center, spacing, strict=True))
        mask |= squares <= radius**2
    return mask


def drawn_pair(seed, shape=(24, 40, 44)):
    """Balls, and the same moved, dropped, merged or invented."""
    rng = np.random.default_rng(seed)
    places = [tuple(rng.uniform(3, np.array(shape) - 3)) for _ in range(6)]
    radii = rng.uniform(1.5, 5, 6)
    true = [(p, r) for p, r in zip(places, radii, strict=True)]
    moved = [(tuple(np.add(p, rng.normal(0, 0.6, 3))), r * rng.uniform(0.8, 1.2)) for p, r in true[:4]]
    invented = [(tuple(rng.uniform(3, np.array(shape) - 3)), 2.5) for _ in range(3)]
    return volume_of(moved + invented, shape), volume_of(true, shape)


# --- independent calculations


def by_hand(predicted, truth, spacing, rule):
    """Matching with sets of voxels: (found, true count, false positives, IoUs above 0.5, predicted count)."""
    sides = []
    for mask in (truth, predicted):
        numbers, count = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, mask.ndim))
        sides.append([set(map(tuple, np.argwhere(numbers == number))) for number in range(1, count + 1)])

    def center(voxels):
        return [sum(v[a] for v in voxels) / len(voxels) * spacing[a] for a in range(mask.ndim)]

    def radius(voxels):
        areas = {}
        for voxel in voxels:
            key = voxel[0] if mask.ndim == 3 else 0
            areas[key] = areas.get(key, 0) + spacing[-1] * spacing[-2]
        return math.sqrt(max(areas.values()) / math.pi)

    def hit(t, p):
        return bool(t & p) if rule == "overlap" else math.dist(center(t), center(p)) < radius(t)

    true, found = sides
    hits = [[hit(t, p) for p in found] for t in true]
    ious = [max((len(t & p) / len(t | p) for p in found), default=0) for t in true]
    return {
        "found": sum(map(any, hits)),
        "lesions": len(true),
        "false_positives": sum(not any(row[j] for row in hits) for j in range(len(found))),
        "same": [iou for iou in ious if iou > 0.5],
        "predicted": len(found),
    }


def froc_by_hand(found, false, lesions, images):
    """LUNA16's score: at every threshold, sensitivity and false positives an image; linear between them; the mean."""
    points = [(0.0, 0.0)]
    for threshold in sorted({*found, *false}, reverse=True):
        rate = sum(p >= threshold for p in false) / images
        points.append((rate, sum(p >= threshold for p in found) / lesions))

    def at(rate):
        below = [point for point in points if point[0] <= rate][-1]
        above = next((point for point in points if point[0] > rate), None)
        if above is None:
            return below[1]
        return below[1] + (above[1] - below[1]) * (rate - below[0]) / (above[0] - below[0])

    return sum(map(at, RATES)) / len(RATES)


@pytest.mark.parametrize("rule", ["overlap", "center"])
def test_matches_are_those_of_sets_of_voxels(rule):
    spacing, kinds = (2.5, 0.8, 0.5), set()
    for seed in range(8):
        predicted, truth = drawn_pair(seed)
        if seed % 2:  # and images
            predicted, truth, spacing = predicted.any(0), truth.any(0), (0.8, 0.5)
        else:
            spacing = (2.5, 0.8, 0.5)
        (numbers, found), (true_numbers, true) = (lesions_of(mask, spacing) for mask in (predicted, truth))
        rows = match_lesions(true, found, rule, overlaps(true_numbers, numbers, (len(true), len(found))))
        kinds |= {row["kind"] for row in rows}
        result = summarize_lesions(
            [{"case": "a", "image": "a", "class": 1, **row} for row in rows],
            [("a", "a")], 1, rule, "mm", "volume", [],
        )  # fmt: skip
        summary, expected = result.summary.iloc[0], by_hand(predicted, truth, spacing, rule)
        for name in ("found", "lesions", "false_positives", "predicted"):
            assert summary[name] == expected[name], (seed, name)
        assert summary["sensitivity"] == pytest.approx(expected["found"] / expected["lesions"], abs=1e-12)
        total = (expected["lesions"] + expected["predicted"]) / 2
        assert summary["panoptic_quality"] == pytest.approx(sum(expected["same"]) / total, abs=1e-9)
        assert summary["recognition_quality"] == pytest.approx(len(expected["same"]) / total, abs=1e-9)
    assert {"found", "missed", "false positive"} <= kinds <= set(KINDS)


@given(
    st.lists(st.floats(0.05, 1), max_size=12), st.lists(st.floats(0.05, 1), max_size=25),
    st.integers(0, 5), st.integers(1, 9),
)  # fmt: skip
def test_froc_is_that_of_its_definition(found, false, missed, images):
    lesions = len(found) + missed
    if lesions:
        curve = froc(found, false, lesions, images)
        assert curve.score == pytest.approx(froc_by_hand(found, false, lesions, images), abs=1e-9)
        assert curve.sensitivity[-1] == len(found) / lesions and curve.false_positives[-1] == len(false) / images


# PQ of drawn_pair(0), ... by panoptica 2.1.7 (connected components, naive matching above 0.5)
PANOPTICA = [
    *(0.21280364372469637, 0.10526315789473684, 0.11514865502595564, 0.24853041695146957),
    *(0.19184525721628196, 0.19568826563507413, 0.23202225436741963, 0.4204859657851438),
]
# Score of drawn_marks(0), ... by the matching and the FROC of the LUNA16 script, with scikit-learn's roc_curve
LUNA16 = [0.6116071428571429, 0.6281512605042016, 0.711734693877551, 0.6, 0.5974025974025974]


def drawn_marks(seed, scans=40):
    """True nodules, excluded findings, and marks of a detector: lists of (scan, x, y, z, diameter or probability)."""
    rng = np.random.default_rng(seed)
    true, excluded, marks = [], [], []
    for scan in range(scans):
        for _ in range(rng.integers(0, 4)):
            point, diameter = rng.uniform(-100, 100, 3), rng.uniform(3, 30)
            true.append((scan, *point, diameter))
            if rng.random() < 0.8:
                for _ in range(rng.integers(1, 3)):
                    marks.append((scan, *(point + rng.normal(0, diameter / 5, 3)), rng.beta(4, 2)))
        for _ in range(rng.integers(0, 3)):
            point = rng.uniform(-100, 100, 3)
            excluded.append((scan, *point, -1.0))
            if rng.random() < 0.5:
                marks.append((scan, *(point + rng.normal(0, 1, 3)), rng.random()))
        for _ in range(rng.integers(0, 12)):
            marks.append((scan, *rng.uniform(-100, 100, 3), rng.beta(2, 4)))
    return true, excluded, marks


@pytest.mark.parametrize("seed", range(len(LUNA16)))
def test_scores_are_those_of_the_luna16_script(tmp_path, seed):
    columns = ["seriesuid", "coordX", "coordY", "coordZ"]
    names = ("true", "excluded", "marks")
    for name, rows in zip(names, drawn_marks(seed), strict=True):
        last = "probability" if name == "marks" else "diameter_mm"
        pd.DataFrame(rows, columns=[*columns, last]).to_csv(tmp_path / f"{name}.csv", index=False)
    true, excluded, marks = (tmp_path / f"{name}.csv" for name in names)
    (tmp_path / "scans.csv").write_text("\n".join(map(str, range(40))))
    result = score_tables(marks, true, excluded, tmp_path / "scans.csv", [])
    assert result.summary["froc"].item() == pytest.approx(LUNA16[seed], abs=1e-6)


@pytest.mark.parametrize("seed", range(len(PANOPTICA)))
def test_panoptic_quality_is_that_of_panoptica(seed):
    (numbers, found), (true_numbers, true) = (lesions_of(mask, (2.5, 0.8, 0.5)) for mask in drawn_pair(seed))
    iou = overlaps(true_numbers, numbers, (len(true), len(found)))
    assert panoptic_quality(iou.max(axis=1), len(found))[0] == pytest.approx(PANOPTICA[seed], abs=1e-6)


def test_panoptic_quality_that_is_known():
    assert panoptic_quality([0.8, 0.6, 0.5, 0], 3) == pytest.approx((1.4 / 3.5, 2 / 3.5, 0.7))
    assert panoptic_quality([0.2], 0)[:2] == (0, 0)
    assert np.isnan(panoptic_quality([], 0)).all() and np.isnan(panoptic_quality([0.2], 1)[2])


def test_double_detections_and_excluded_findings_are_no_false_positives():
    """As in the LUNA16 script: the most probable mark counts, further ones and those at excluded findings do not."""
    true = [Lesion((0, 0, 0), 10), Lesion((50, 0, 0), 10, excluded=True), Lesion((90, 0, 0), 10)]
    marks = [((1, 0, 0), 0.3), ((4, 0, 0), 0.9), ((50, 4, 0), 0.8), ((5, 0, 0), 0.7), ((20, 0, 0), 0.6)]
    rows = match_lesions(true, [Lesion(point, np.nan, p) for point, p in marks], "center")
    kinds = {(row["kind"], row["predicted_x"], row["predicted_y"]): row for row in rows}
    assert kinds["found", 1, 0]["probability"] == 0.9 and kinds["found", 1, 0]["distance"] == 1
    assert ("extra", 4, 0) in kinds and ("excluded", 50, 4) in kinds
    assert ("false positive", 5, 0) in kinds, "a center at the radius is outside, as in LUNA16"
    assert ("false positive", 20, 0) in kinds
    assert sum(row["kind"] == "missed" for row in rows) == 1 and len(rows) == 6


def test_errors_are_those_of_numpy():
    rng = np.random.default_rng(1)
    true, error = rng.uniform(-90, 90, (30, 3)), rng.normal(1, 2, (30, 3))
    sizes, ratios = rng.uniform(4, 20, 30), rng.uniform(0.7, 1.4, 30)
    rows = [
        {"kind": "found", **dict(zip("xyz", t, strict=True)), "diameter": d, "predicted_diameter": d * r}
        | {f"predicted_{axis}": v for axis, v in zip("xyz", t + e, strict=True)}
        | {"distance": np.linalg.norm(e)}
        for t, e, d, r in zip(true, error, sizes, ratios, strict=True)
    ]
    found = pd.DataFrame(measure_errors(pd.DataFrame(rows))).set_index("measure")
    expected = dict(zip("xyz", error.T, strict=True)) | {"diameter": sizes * (ratios - 1), "diameter_ratio": ratios}
    for name, values in expected.items():
        mean = sum(values) / 30
        variance = sum((v - mean) ** 2 for v in values) / 29
        assert found.loc[name, "mean"] == pytest.approx(mean, abs=1e-9)
        assert found.loc[name, "variance"] == pytest.approx(variance, abs=1e-9)
        assert found.loc[name, "sd"] == pytest.approx(math.sqrt(variance), abs=1e-9)
        target = 1 if name == "diameter_ratio" else 0
        assert found.loc[name, "mse"] == pytest.approx(sum((v - target) ** 2 for v in values) / 30, abs=1e-9)
    assert found.loc["distance", "mean"] == pytest.approx(np.linalg.norm(error, axis=1).mean(), abs=1e-9)


def test_every_lesion_is_in_one_size_group():
    table = pd.DataFrame({"diameter": [1, 5, 9.9, 10, np.nan], "predicted_diameter": [9, 9, 9, 9, 40.0]})
    groups = dict(size_groups(table, [5, 10], "mm"))
    assert [len(groups[name]) for name in ("all", "under 5 mm", "5 to 10 mm", "10 mm and more")] == [5, 1, 2, 2]


# --- the script


def lesion_cases(root):
    """Predicted and true volumes of three cases, and a table of candidates at the predicted lesions."""
    for seed, name in enumerate("abc"):
        predicted, truth = drawn_pair(seed)
        for folder, mask in (("truth", truth), ("out", predicted)):
            write(root / folder, f"{name}.nii.gz", as_volume(mask.astype(np.uint8), spacing=(0.5, 0.8, 2.5)))
    run_here("submission.py", KIND="nodules", PREDICTED=root / "out", OUTPUT=root / "found.csv")
    table = pd.read_csv(root / "found.csv", dtype={"seriesuid": str})
    table["probability"] = np.linspace(0.2, 0.9, len(table)).round(3)
    table.to_csv(root / "found.csv", index=False)
    run_here("submission.py", KIND="nodules", PREDICTED=root / "truth", OUTPUT=root / "true.csv")


def test_volumes_and_tables_of_their_lesions_agree(tmp_path):
    lesion_cases(tmp_path)
    settings = {"PREDICTED": tmp_path / "out", "TRUTH": tmp_path / "truth", "LESIONS": "center"}
    said = run_here("evaluate.py", **settings, CANDIDATES=tmp_path / "found.csv", OUTPUT=tmp_path / "s").stdout
    tables = {"PREDICTED": tmp_path / "found.csv", "TRUTH": tmp_path / "true.csv"}
    run_here("evaluate.py", **tables, OUTPUT=tmp_path / "t")
    ours, theirs = (pd.read_csv(tmp_path / name / "lesion_summary.csv") for name in "st")
    both = ["size", "lesions", "found", "sensitivity", "low", "high", "false_positives", "false_per_scan", "froc"]
    both += ["froc_low", "froc_high", "sensitivity_at_1"]
    pd.testing.assert_frame_equal(ours[both], theirs[both], check_exact=False, atol=1e-6)
    assert "lesions, found by center (diameters in mm)" in said and "false_per_volume" in said
    rows = pd.read_csv(tmp_path / "s" / "lesions.csv", dtype={"case": str})
    expected = [by_hand(*drawn_pair(seed), (2.5, 0.8, 0.5), "center") for seed in range(3)]
    assert (rows["kind"] == "found").sum() == sum(e["found"] for e in expected) > 3
    assert (rows["kind"] == "false positive").sum() == sum(e["false_positives"] for e in expected) > 3
    found, false = (rows.loc[rows["kind"] == kind, "probability"] for kind in ("found", "false positive"))
    lesions = sum(e["lesions"] for e in expected)
    score = ours.loc[ours["size"] == "all", "froc"].item()
    assert score == pytest.approx(froc_by_hand(list(found), list(false), lesions, 3), abs=1e-6)
    curve = pd.read_csv(tmp_path / "s" / "froc.csv")
    assert curve["false_positives"].iloc[-1] == pytest.approx(len(false) / 3)
    known = curve.dropna(subset=["low"])
    assert len(known) > 3 and (known["low"] <= known["high"]).all()
    assert (curve["low"].isna() == ((curve["false_positives"] < 0.125) | (curve["false_positives"] > 8))).all()
    assert ours["panoptic_quality"].notna().any() and theirs["panoptic_quality"].isna().all(), "tables have no masks"
    for name in "st":
        report = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        assert "FROC" in report and "Errors of position and size" in report
    errors = pd.read_csv(tmp_path / "t" / "lesion_errors.csv").set_index("measure")
    assert set(errors.index) == {"x", "y", "z", "diameter", "diameter_ratio", "distance"}
    assert errors.loc["distance", "mean"] == pytest.approx(rows["distance"].mean(), abs=1e-6)


def test_slices_have_lesions_too(tmp_path):
    truth = make_cases(tmp_path / "truth", cases=2, slices=3, size=32, classes=2)
    for file in sorted(truth.glob("case*/y/*.png")):
        mask = np.roll(read_mask(file), 2, axis=0)
        mask[:2, :2] = 1  # a false positive in each image
        write_image(tmp_path / "out" / file.parent.parent.name / file.name, mask)
    run_here(
        "evaluate.py", PREDICTED=tmp_path / "out", TRUTH=truth, OUTPUT=tmp_path / "s", LESIONS="overlap",
        LESION_SIZES=[5],
    )  # fmt: skip
    summary = pd.read_csv(tmp_path / "s" / "lesion_summary.csv").set_index(["class", "size"])
    assert summary.loc[(1, "all"), ["lesions", "found", "false_per_scan"]].tolist() == [6, 6, 1]
    assert summary.loc[(1, "under 5 pixels"), "false_positives"] == 6 and np.isnan(summary.loc[(1, "all"), "froc"])
    assert summary.loc[(2, "all"), "false_positives"] == 0
    assert not (tmp_path / "s" / "froc.csv").exists()
    errors = pd.read_csv(tmp_path / "s" / "lesion_errors.csv").set_index(["class", "measure"])
    assert errors.loc[(2, "y"), "mean"] == pytest.approx(2) and (1, "z") not in errors.index


def test_scans_without_lesions_count(tmp_path):
    columns = "seriesuid,coordX,coordY,coordZ"
    (tmp_path / "t.csv").write_text(f"{columns},diameter_mm\na,0,0,0,8\na,40,0,0,8\nz,0,0,0,8\n")
    (tmp_path / "p.csv").write_text(f"{columns},probability\na,1,0,0,0.9\nb,1,0,0,0.5\nc,5,5,5,0.4\nc,99,0,0,0.3\n")
    (tmp_path / "x.csv").write_text(f"{columns},diameter_mm\nc,6,5,5,-1\n")
    (tmp_path / "scans.csv").write_text("a\nb\nc\nd\n")
    settings = {"PREDICTED": tmp_path / "p.csv", "TRUTH": tmp_path / "t.csv"}
    extra = {"EXCLUDED": tmp_path / "x.csv", "SCANS": tmp_path / "scans.csv"}
    said = run_here("evaluate.py", **settings, **extra, OUTPUT=tmp_path / "s").stdout
    row = pd.read_csv(tmp_path / "s" / "lesion_summary.csv").iloc[0]
    assert row[["lesions", "found", "false_positives", "false_per_scan"]].tolist() == [2, 1, 2, 0.5]
    assert row["froc"] == pytest.approx(0.5) and "skipped 1 row of" in said
    run_here("evaluate.py", **settings, OUTPUT=tmp_path / "u")
    row = pd.read_csv(tmp_path / "u" / "lesion_summary.csv").iloc[0]
    assert row[["lesions", "found", "false_positives"]].tolist() == [3, 1, 3]


def test_numbered_predictions_meet_their_own_names(tmp_path):
    """Without the names table, all lesions would count as missed."""
    columns = "seriesuid,coordX,coordY,coordZ"
    (tmp_path / "t.csv").write_text(f"{columns},diameter_mm\nDoe/scan,0,0,0,8\nRoe/scan,9,9,9,8\n")
    (tmp_path / "p.csv").write_text(f"{columns},probability\n0001,1,0,0,0.9\ncase_0002,50,0,0,0.8\n")
    (tmp_path / "x.csv").write_text(f"{columns},diameter_mm\nRoe_scan,50,0,0,-1\n")
    (tmp_path / "scans.csv").write_text("Doe/scan\nRoe_scan\n")
    (tmp_path / "n.csv").write_text("case,name\ncase_0001,Doe/scan\ncase_0002,Roe/scan\n")
    tables = {"PREDICTED": tmp_path / "p.csv", "TRUTH": tmp_path / "t.csv", "OUTPUT": tmp_path / "s"}
    assert_refused("evaluate.py", "p.csv: no seriesuid is in", "(found 2 and 2)", "--names-table", **tables)
    tables |= {"NAMES_TABLE": tmp_path / "n.csv", "EXCLUDED": tmp_path / "x.csv", "SCANS": tmp_path / "scans.csv"}
    said = run_here("evaluate.py", **tables).stdout
    row = pd.read_csv(tmp_path / "s" / "lesion_summary.csv").iloc[0]
    assert row[["lesions", "found", "false_positives"]].tolist() == [2, 1, 0]
    written = said + "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "s").glob("*[lv]"))
    assert "0001" in written and "Doe" not in written and "Roe" not in written


def test_bad_input(tmp_path):
    columns = "seriesuid,coordX,coordY,coordZ"
    (tmp_path / "t.csv").write_text(f"{columns},diameter_mm\na,0,0,0,8\n")
    (tmp_path / "p.csv").write_text(f"{columns},probability\na,1,0,0,0.9\n")
    (tmp_path / "q.csv").write_text(f"{columns},probability\na,1,0,0,7\n")
    (tmp_path / "r.csv").write_text(f"{columns},diameter_mm\na,1,0,0,0\n")
    good = {"PREDICTED": tmp_path / "p.csv", "TRUTH": tmp_path / "t.csv", "OUTPUT": tmp_path / "o"}
    refused = itertools.chain(
        [(["PREDICTED: expected a table"], {"PREDICTED": tmp_path})],
        [(["LESIONS: not for tables of lesions"], {"LESIONS": "overlap"})],
        [(["q.csv: line 2 has an invalid probability"], {"PREDICTED": tmp_path / "q.csv"})],
        [(["r.csv: line 2 has a diameter of 0"], {"TRUTH": tmp_path / "r.csv"})],
        [(["no column diameter_mm"], {"TRUTH": tmp_path / "p.csv"})],
    )
    for words, changed in refused:
        assert_refused("evaluate.py", *words, **(good | changed))
    assert_refused("evaluate.py", "TRUTH: expected a table of lesions", **good | {"TRUTH": tmp_path})
    assert_refused("evaluate.py", "LESION_SIZES", status=2, **good, LESION_SIZES=[5, 3])
    write_image(tmp_path / "m" / "1.png", np.zeros((24, 24), np.uint8))
    masks = {"PREDICTED": tmp_path / "m", "TRUTH": tmp_path / "m", "OUTPUT": tmp_path / "o"}
    assert_refused("evaluate.py", "CANDIDATES: only for label volumes", CANDIDATES=tmp_path / "p.csv", **masks)
    for name in ("EXCLUDED", "SCANS"):
        words = f"{name}: only for tables of lesions"
        assert_refused("evaluate.py", words, status=2, **masks | {name: tmp_path / "p.csv"})
    assert_refused("evaluate.py", "AGAINST_PREDICTED: needs AGAINST", status=2, **masks, AGAINST_PREDICTED=tmp_path)
