"""evaluate.py: every score against brute force, tables, volumes and comparisons."""

import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from drawings import as_volume, disc_slice, make_cases, write, write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from running import assert_refused, bytes_of, leftovers, run_here, run_script

from common.evaluation.agreement import intraclass_correlation
from common.evaluation.images import choose_images, find_backgrounds, show_errors
from common.evaluation.pairs import match_pairs
from common.evaluation.summary import compare_scores, interval_of_mean, summarize_scores
from common.scores import (
    SCORES,
    Score,
    count_pixels,
    hausdorff_line,
    ratio,
    scores_of,
    scores_of_counts,
    scores_of_surfaces,
)
from common.slices.drawing import paint_errors
from common.slices.images import read_image, read_mask

DISTANCES = [score.name for score in scores_of("surfaces")]
RULES = {score.name: score.rule for score in SCORES.values()}

# --- scores


@given(hnp.arrays(bool, (6, 7)), hnp.arrays(bool, (6, 7)))
def test_overlaps_are_those_of_the_formulas(predicted, truth):
    scores = scores_of_counts(*count_pixels(predicted, truth), truth.size)
    p, t = set(map(tuple, np.argwhere(predicted))), set(map(tuple, np.argwhere(truth)))
    expected = {
        "dice": (2 * len(p & t), len(p) + len(t)),
        "iou": (len(p & t), len(p | t)),
        "precision": (len(p & t), len(p)),
        "recall": (len(p & t), len(t)),
        "rou": (len(t - p), len(p | t) if t else 0),
        "fpoet": (len(p), 0 if t else 42),
        "volume_error": (len(p) - len(t), len(t)),
    }
    assert expected.keys() | set(DISTANCES) == set(RULES) == set(SCORES)
    for name, (part, whole) in expected.items():
        assert scores[name] == pytest.approx(part / whole if whole else np.nan, nan_ok=True), name


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_dice_and_iou_agree(tp, fp, fn):
    scores = scores_of_counts(tp, fp, fn)
    if tp + fp + fn:
        assert scores["dice"] == pytest.approx(2 * scores["iou"] / (1 + scores["iou"]))


def surface_by_hand(mask):
    """Places whose neighbour over a face is outside of the mask, one by one."""
    found = []
    for place in itertools.product(*map(range, mask.shape)):
        if mask[place]:
            for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
                other = list(place)
                other[axis] += step
                if not 0 <= other[axis] < mask.shape[axis] or not mask[tuple(other)]:
                    found.append(place)
                    break
    return np.array(found, float)


def distances_by_hand(predicted, truth, spacing, tolerance):
    ours, theirs = (surface_by_hand(mask) * spacing for mask in (predicted, truth))
    every = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(-1))
    there, back = every.min(1), every.min(0)
    both = np.concatenate([there, back])
    return {
        "hausdorff": max(there.max(), back.max()),
        "hausdorff_95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "mean_surface_distance": both.sum() / len(both),
        "surface_dice": ((there <= tolerance).sum() + (back <= tolerance).sum()) / len(both),
        "hausdorff_95_penalized": max(np.percentile(there, 95), np.percentile(back, 95)),
    }


shapes = st.one_of(st.tuples(*[st.integers(1, 24)] * 2), st.tuples(*[st.integers(1, 9)] * 3))


@settings(deadline=None)
@given(
    shapes.flatmap(lambda shape: st.tuples(*[hnp.arrays(bool, shape)] * 2)),
    st.tuples(*[st.floats(0.2, 5)] * 3),
    st.floats(0, 6),
)
def test_distances_are_those_of_brute_force(masks, spacing, tolerance):
    predicted, truth = masks
    spacing = spacing[: truth.ndim]
    found = scores_of_surfaces(predicted, truth, spacing, tolerance)
    if predicted.any() and truth.any():
        expected = distances_by_hand(predicted, truth, spacing, tolerance)
        for name in (*DISTANCES[:3], "hausdorff_95_penalized"):
            assert found[name] == pytest.approx(expected[name], abs=1e-6), name
        near = distances_by_hand(predicted, truth, spacing, tolerance + 1e-9)["surface_dice"]
        assert expected["surface_dice"] - 1e-12 <= found["surface_dice"] <= near + 1e-12
    else:
        assert np.isnan([found[name] for name in DISTANCES[:3]]).all()
        one = predicted.any() or truth.any()
        assert found["surface_dice"] == 0 if one else np.isnan(found["surface_dice"])
        corners = [np.zeros(truth.ndim), (np.array(truth.shape) - 1) * spacing]
        diagonal = np.sqrt(((corners[1] - corners[0]) ** 2).sum())
        worst = found["hausdorff_95_penalized"]
        assert worst == pytest.approx(diagonal, abs=1e-9) if one else np.isnan(worst)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_distances_of_a_volume_of_24(share):
    rng = np.random.default_rng(0)
    predicted, truth = rng.random((2, 24, 24, 24)) < share
    spacing = (3.0, 0.7, 1.1)
    expected = distances_by_hand(predicted, truth, spacing, 1.0)
    found = scores_of_surfaces(predicted, truth, spacing, 1.0)
    assert found == pytest.approx(expected, abs=1e-6)


def test_distances_that_are_known():
    """A square and the same moved by three pixels of 2 mm; a point and another one, by Pythagoras."""
    square, moved = np.zeros((2, 30, 30), bool)
    square[5:15, 5:15] = moved[5:15, 8:18] = True
    found = scores_of_surfaces(square, moved, (2, 2), 5.9)
    assert found["hausdorff"] == found["hausdorff_95"] == 6
    assert scores_of_surfaces(square, square, (2, 2), 0) == dict(zip(DISTANCES, (0, 0, 0, 1, 0), strict=True))
    one, other = np.zeros((2, 9, 9, 9), bool)
    one[1, 1, 1] = other[3, 4, 7] = True
    assert scores_of_surfaces(one, other, (1, 2, 3), 1)["mean_surface_distance"] == np.sqrt(4 + 36 + 324)
    ends = hausdorff_line(one, other, (1, 2, 3))
    assert sorted(map(tuple, ends)) == [(1, 1, 1), (3, 4, 7)]


def test_hausdorff_distance_is_that_of_scikit_image():
    """Of masks whose surfaces are all of them: thin rings."""
    from skimage.metrics import hausdorff_distance

    for seed in range(5):
        predicted, truth = (disc_slice(64, seed + 10 * k)[1] > 0 for k in range(2))
        rings = [mask & ~np.roll(mask, 1, 0) for mask in (predicted, truth)]
        found = scores_of_surfaces(*rings, (1, 1), 1)["hausdorff"]
        assert found == pytest.approx(hausdorff_distance(*rings), abs=1e-9)


# --- what they come to


def test_interval_is_a_bootstrap_over_cases():
    rng = np.random.default_rng(1)
    values = rng.beta(8, 2, 40)
    low, high = interval_of_mean(values, np.arange(40))
    from scipy.stats import bootstrap

    expected = bootstrap((values,), np.mean, method="percentile", rng=2).confidence_interval
    assert (low, high) == pytest.approx(tuple(expected), abs=0.004)
    assert interval_of_mean(values, np.zeros(40)) == pytest.approx((np.nan, np.nan), nan_ok=True)
    wide = interval_of_mean(np.repeat(values[:4], 10), np.repeat(np.arange(4), 10))
    narrow = interval_of_mean(np.repeat(values[:4], 10), np.arange(40))
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0]), "images of a case are no cases of their own"


def test_summary_counts_what_it_leaves_out():
    table = pd.DataFrame({"case": list("abcd"), "class": 1, "dice": [0.5, np.nan, 0.7, 0.9]})
    (row,) = summarize_scores(table, ["dice"]).to_dict("records")
    assert row["n"] == 3 and row["left_out"] == 1 and row["mean"] == pytest.approx(0.7)
    assert row["median"] == 0.7 and row["q1"] == pytest.approx(0.6) and row["low"] <= 0.7 <= row["high"]
    (row,) = compare_scores(table, table.assign(dice=table["dice"] - [0.1, 0, 0.2, -0.1]), ["dice"]).to_dict("records")
    assert row["n"] == 3 and row["difference"] == pytest.approx(0.2 / 3) and (row["more"], row["less"]) == (2, 1)


def test_p_is_that_of_all_signs():
    """Of the Wilcoxon signed-rank test: the share of the 2^7 signs whose rank sum is as far from its mean."""
    differences = np.array([0.11, 0.02, -0.03, 0.05, 0.17, 0.23, -0.01])
    table = pd.DataFrame({"case": list("abcdefg"), "class": 1, "dice": 0.5})
    (row,) = compare_scores(table, table.assign(dice=0.5 - differences), ["dice"]).to_dict("records")
    ranks = np.argsort(np.argsort(abs(differences))) + 1
    sums = np.array([ranks[list(signs)].sum() for signs in itertools.product([False, True], repeat=7)])
    far = abs(ranks[differences > 0].sum() - ranks.sum() / 2)
    assert row["p"] == pytest.approx(np.mean(abs(sums - ranks.sum() / 2) >= far), abs=1e-9)
    (row,) = compare_scores(table, table, ["dice"]).to_dict("records")
    assert np.isnan(row["p"]), "no difference: nothing to test"


def test_intraclass_correlation_is_that_of_shrout_and_fleiss():
    """Six targets and four judges of their paper of 1979: ICC(2,1) 0.29, and its interval as by psych::ICC of R."""
    judges = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    icc, low, high = intraclass_correlation(np.array(judges, float))
    assert icc == pytest.approx(0.2897638, abs=1e-6)
    assert (low, high) == pytest.approx((0.019, 0.761), abs=1e-3)
    same = np.repeat([[1.0], [2.0], [4.0]], 2, axis=1)
    assert intraclass_correlation(same)[0] == 1 and np.isnan(intraclass_correlation(same[:1])).all()


def test_missed_masks_are_the_worst_by_hausdorff():
    scores = {"dice": [0.9, 0.5, 0, np.nan, 0.7], "hausdorff": [9, 2, np.nan, np.nan, 3.0]}
    table = pd.DataFrame({"case": "a", "image": list("12345"), **scores})
    assert [row.Index[1] for row in choose_images(table, "hausdorff", 3)] == ["3", "1", "5"]
    assert [row.Index[1] for row in choose_images(table, "worst", 3)] == ["3", "2", "5"]


# --- the script


def predictions_of(truth, folder):
    """Masks two pixels below the true ones."""
    for file in sorted(truth.glob("case*/y/*.png")):
        write_image(folder / file.parent.parent.name / file.name, np.roll(read_mask(file), 2, axis=0))


def test_tables_and_files(tmp_path):
    truth = make_cases(tmp_path / "truth", cases=2, slices=3, size=32)
    predictions_of(truth, tmp_path / "out")
    write_image(truth / "case01" / "y" / "0001.png", np.zeros((32, 32), np.uint8))
    write_image(truth / "case02" / "y" / "0002.png", np.zeros((32, 32), np.uint8))
    write_image(tmp_path / "out" / "case02" / "0002.png", np.zeros((32, 32), np.uint8))
    out = run_script("evaluate.py", PREDICTED=tmp_path / "out", TRUTH=truth, OUTPUT=tmp_path / "scores").stdout
    images = pd.read_csv(tmp_path / "scores" / "scores.csv", dtype={"image": str})
    assert list(images.columns[:4]) == ["case", "image", "dice", "iou"] and len(images) == 6
    row = images[(images["case"] == "case01") & (images["image"] == "0002")].iloc[0]
    a, b = (read_mask(f) > 0 for f in (tmp_path / "out/case01/0002.png", truth / "case01/y/0002.png"))
    assert row["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert row["hausdorff"] == pytest.approx(distances_by_hand(a, b, (1, 1), 1)["hausdorff"])
    rows = images.set_index(["case", "image"])
    assert rows.loc[("case01", "0001"), "dice"] == 0 and np.isnan(rows.loc[("case01", "0001"), "recall"])
    assert rows.loc[("case01", "0001"), "fpoet"] > 0
    assert np.isnan(rows.loc[("case02", "0002"), "dice"]), "both empty: nothing to score"
    assert "empty masks: 2 (1 predicted empty)" in out
    cases = pd.read_csv(tmp_path / "scores" / "cases.csv")
    counts = images[images["case"] == "case01"][["tp", "fp", "fn"]].sum()
    assert cases["dice"][0] == pytest.approx(2 * counts["tp"] / (2 * counts["tp"] + counts["fp"] + counts["fn"]))
    assert cases["hausdorff"][0] == pytest.approx(images[images["case"] == "case01"]["hausdorff"].mean())
    summary = pd.read_csv(tmp_path / "scores" / "summary.csv").set_index(["over", "score"])
    filled = images[images["tp"] + images["fn"] > 0]
    assert summary.loc[("images", "dice"), "mean"] == pytest.approx(filled["dice"].mean())
    assert summary.loc[("images", "dice"), "n"] == 4 and summary.loc[("images", "fpoet"), "n"] == 2
    sheet = read_image(tmp_path / "scores" / "worst.png").astype(int)
    red, green, blue = sheet[..., 0], sheet[..., 1], sheet[..., 2]
    assert ((green > red + 40) & (green > blue + 20)).any() and (red > green + 40).any() and (blue > red + 40).any()
    report = (tmp_path / "scores" / "report.html").read_text(encoding="utf-8")
    assert "case01 0001" in report and "images: empty mask, but a prediction" in report


def test_errors_in_small_images_are_drawn_larger(tmp_path):
    """By a whole factor, so that pixels stay sharp; the line of the Hausdorff distance is between their centers."""
    truth, predicted = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    truth[5:10, 5:10], predicted[5:10, 7:15] = 255, 255
    for name, mask in (("truth", truth), ("predicted", predicted)):
        write_image(tmp_path / name / "a.png", mask)
    (pair,) = match_pairs(tmp_path / "predicted", tmp_path / "truth")
    small = paint_errors(np.zeros((20, 30), np.uint8), predicted > 0, truth > 0)
    (drawn,) = show_errors(pair, None, None, line=False)
    assert drawn.shape == (160, 240, 3) and np.array_equal(drawn[4::8, 4::8], small)
    (with_line,) = show_errors(pair, None, None, line=True)
    _, columns = np.nonzero((with_line != drawn).any(axis=-1))
    assert 8 * 9 <= columns.min() <= 8 * 10 and 8 * 14 <= columns.max() <= 8 * 15


def test_workers_score_what_one_run_scores(scheduler, tmp_path):
    """Byte for byte, and a mask that cannot be read is one message."""
    truth = make_cases(tmp_path / "truth", cases=3, slices=3, size=32, classes=2)
    predictions_of(truth, tmp_path / "out")
    write_image(truth / "case02" / "y" / "0002.png", np.zeros((32, 32), np.uint8))
    settings = {"PREDICTED": tmp_path / "out", "TRUTH": truth, "LESIONS": "center"}
    for name, workers in (("alone", {}), ("shared", {"WORKERS": scheduler})):
        run_here("evaluate.py", **settings, OUTPUT=tmp_path / name / "scores", **workers)
    assert bytes_of(tmp_path / "alone") == bytes_of(tmp_path / "shared")
    bad = truth / "case02" / "y" / "0002.png"
    bad.write_bytes(bad.read_bytes()[:-20])
    assert_refused("evaluate.py", bad, **settings, OUTPUT=tmp_path / "bad", WORKERS=scheduler)
    assert not (tmp_path / "bad").exists() and not leftovers(tmp_path)


def test_settings_of_an_earlier_version_are_read(tmp_path):
    """evaluate.py once had CHOOSE and CLEANINGS."""
    truth = make_cases(tmp_path / "truth", cases=2, slices=1, size=24)
    predictions_of(truth, tmp_path / "out")
    recorded = {"PREDICTED": str(tmp_path / "out"), "TRUTH": str(truth), "OUTPUT": str(tmp_path / "s")}
    recorded |= {"CHOOSE": "", "CLEANINGS": [{}, {"share": 1}]}
    (tmp_path / "evaluation.json").write_text(json.dumps(recorded))
    run_here("evaluate.py", "--settings", tmp_path / "evaluation.json")
    assert not {"CHOOSE", "CLEANINGS"} & json.loads((tmp_path / "s" / "evaluation.json").read_text()).keys()


def test_a_new_score_needs_one_record(tmp_path, monkeypatch):
    """One of pixels and one of surfaces are in all tables and in the report; a result without them still compares."""
    truth = make_cases(tmp_path / "truth", cases=6, slices=2, size=32)
    predictions_of(truth, tmp_path / "out")
    write_image(truth / "case02" / "y" / "0002.png", np.zeros((32, 32), np.uint8))
    settings = {"PREDICTED": tmp_path / "out", "TRUTH": truth}
    run_here("evaluate.py", **settings, OUTPUT=tmp_path / "before")
    for score in (
        Score(
            "specificity",
            of="pixels",
            rule="|neither T nor P| / |not T|, a test <rule>",
            compute=lambda n: ratio(n.pixels - n.union, n.pixels - n.truth),
            headline=True,
            of_empty_masks=True,
        ),
        Score(
            "nearest_surface",
            of="surfaces",
            rule="minimum distance between both surfaces",
            compute=lambda d: d.both.min(),
            unit="distance",
            low_is_good=True,
        ),
    ):
        monkeypatch.setitem(SCORES, score.name, score)
    out = run_here("evaluate.py", **settings, OUTPUT=tmp_path / "s", AGAINST=tmp_path / "before").stdout
    images, cases, summary, differences = (
        pd.read_csv(tmp_path / "s" / f"{name}.csv", dtype={"image": str})
        for name in ("scores", "cases", "summary", "differences")
    )
    one = images[images["case"] == "case01"]
    assert (images["specificity"] == (1024 - images.tp - images.fp - images.fn) / (1024 - images.tp - images.fn)).all()
    together = one[["tp", "fp", "fn"]].sum()
    expected = (2048 - together.sum()) / (2048 - together["tp"] - together["fn"])
    assert cases["specificity"][0] == pytest.approx(expected)
    assert cases["nearest_surface"][0] == one["nearest_surface"].mean()
    rows = summary.set_index(["over", "score"])
    assert rows.loc[("images", "specificity"), "n"] == 12 and rows.loc[("images", "dice"), "n"] == 11
    assert rows.loc[("cases", "nearest_surface"), "mean"] == pytest.approx(cases["nearest_surface"].mean())
    report = (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    assert "a test &lt;rule&gt;" in report and "minimum distance between both surfaces" in report
    assert '<div class="tile"><span>specificity</span>' in report and "nearest surface, rou" in report
    assert "specificity" in out and not set(differences["score"]) & {"specificity", "nearest_surface"}
    assert "dice" in set(differences["score"])


def test_comparison_with_another_result(tmp_path):
    truth = make_cases(tmp_path / "truth", cases=6, slices=2, size=32)
    predictions_of(truth, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for case in range(1, 6):
        shutil.copy(truth / f"case0{case}" / "y" / "0001.png", tmp_path / "b" / f"case0{case}" / "0001.png")
    run_here("evaluate.py", PREDICTED=tmp_path / "a", TRUTH=truth, OUTPUT=tmp_path / "sa")
    said = run_here(
        "evaluate.py", PREDICTED=tmp_path / "b", TRUTH=truth, OUTPUT=tmp_path / "sb", AGAINST=tmp_path / "sa"
    )
    found = pd.read_csv(tmp_path / "sb" / "differences.csv").set_index("score")
    a, b = (pd.read_csv(tmp_path / name / "cases.csv") for name in ("sa", "sb"))
    assert found.loc["dice", "difference"] == pytest.approx((b["dice"] - a["dice"]).mean())
    assert found.loc["dice", "low"] > 0 and found.loc["dice", ["more", "less"]].tolist() == [5, 0]
    assert f"difference to {tmp_path / 'sa'} (this minus other)" in said.stdout
    assert found.loc["dice", "p"] == pytest.approx(2 / 2**5), "five of five cases are better"
    sizes = pd.read_csv(tmp_path / "sb" / "scores.csv")
    areas = sizes["tp"] + sizes["fp"] - sizes["tp"] - sizes["fn"]
    agreement = pd.read_csv(tmp_path / "sb" / "agreement.csv").iloc[0]
    assert agreement["n"] == 12 and agreement["bias"] == pytest.approx(areas.mean(), abs=1e-9)
    assert agreement["upper_limit"] == pytest.approx(areas.mean() + 1.96 * areas.std(), abs=1e-9)
    report = (tmp_path / "sb" / "report.html").read_text(encoding="utf-8")
    assert "Bland-Altman" in report and "MedPy" in report
    assert "pass --against-predicted" in said.stdout and "other: Dice" not in report
    both = {"AGAINST": tmp_path / "sa", "AGAINST_PREDICTED": tmp_path / "a", "SHOW": "hausdorff", "WORST": 3}
    run_here("evaluate.py", PREDICTED=tmp_path / "b", TRUTH=truth, OUTPUT=tmp_path / "both", **both)
    assert "; other: Dice" in (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    assert read_image(tmp_path / "both" / "worst.png").shape == (240, 6 * 240, 3), "two images of each of three"
    for unfit in (tmp_path, tmp_path / "gone"):
        assert_refused(
            "evaluate.py", "not an output folder of evaluate.py",
            "(cases.csv is missing)", PREDICTED=tmp_path / "a", TRUTH=truth, OUTPUT=tmp_path / "sc",
            AGAINST=unfit,
        )  # fmt: skip


def test_another_result_without_the_same_cases(tmp_path):
    for name, first in (("a", "case01"), ("b", "case77")):
        write_image(tmp_path / name / first / "x" / "0001.png", disc_slice(24, 1)[0])
        write_image(tmp_path / name / first / "y" / "0001.png", disc_slice(24, 1)[1])
    for name in ("a", "b"):
        settings = {"PREDICTED": tmp_path / name, "TRUTH": tmp_path / name, "OUTPUT": tmp_path / f"s{name}"}
        against = {"AGAINST": tmp_path / "sa"} if name == "b" else {}
        write_image(tmp_path / name / "case50" / "x" / "1.png", disc_slice(24, 2)[0])
        write_image(tmp_path / name / "case50" / "y" / "1.png", disc_slice(24, 2)[1])
        run_here("evaluate.py", **settings, **against)
    (tmp_path / "sa" / "cases.csv").write_text("case,class," + ",".join(SCORES) + "\n")
    assert_refused("evaluate.py", "none of the cases", **settings | {"OUTPUT": tmp_path / "t"}, **against)


def test_backgrounds_are_those_of_the_case(tmp_path):
    for name in ("case01", "case02"):
        for side in ("x", "y"):
            write_image(tmp_path / "c" / name / side / "1.png", disc_slice(24, 1)[side == "y"])
            write_image(tmp_path / "m" / name / "1.png", disc_slice(24, 1)[1])
    keys = [("case01", "1"), ("case02", "1")]
    assert find_backgrounds("", tmp_path / "c", keys)["case02", "1"] == tmp_path / "c" / "case02" / "x" / "1.png"
    loose = find_backgrounds(tmp_path / "m" / "case01", tmp_path / "c", keys)
    assert not loose.keys() & set(keys), "loose pictures of one case are not those of two"
    assert find_backgrounds(tmp_path / "m" / "case01", tmp_path / "c", keys[:1]).keys() == {("case01", "1")}


def ball(shape, center, radius):
    squares = sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), center, strict=True))
    return (squares <= radius**2).astype(np.uint8)


def test_volumes_are_scored_in_three_dimensions_and_millimetres(tmp_path):
    shape, spacing = (12, 20, 22), (0.5, 0.8, 2.5)
    for name, shift in (("a", 0), ("b", 2)):
        truth = ball(shape, (6, 9, 10), 5)
        guess = ball(shape, (6, 9 + shift, 10), 5)
        write(tmp_path / "truth", f"{name}_seg.nrrd", as_volume(truth, spacing=spacing))
        write(tmp_path / "out", f"case_{name}.nii.gz", as_volume(guess, spacing=spacing))
        write(tmp_path / "scans", f"{name}.nrrd", as_volume((truth * 100).astype(np.int16), spacing=spacing))
    settings = {"PREDICTED": tmp_path / "out", "TRUTH": tmp_path / "truth", "LABEL_NAME": "{id}_seg"}
    run_here("evaluate.py", **settings, OUTPUT=tmp_path / "s", HAUSDORFF_LINE=True)
    cases = pd.read_csv(tmp_path / "s" / "cases.csv").set_index("case")
    assert cases.loc["a", "dice"] == 1 and cases.loc["a", "hausdorff"] == 0
    guess, truth = ball(shape, (6, 11, 10), 5) > 0, ball(shape, (6, 9, 10), 5) > 0
    expected = distances_by_hand(guess, truth, (2.5, 0.8, 0.5), 1.0)
    for name in DISTANCES:
        assert cases.loc["b", name] == pytest.approx(expected[name], abs=1e-5)
    run_here("evaluate.py", **settings, OUTPUT=tmp_path / "u", IMAGES=tmp_path / "scans")
    write(tmp_path / "scans", "b.nrrd", as_volume(np.zeros((5, 20, 22), np.int16), spacing=spacing))
    assert_refused(
        "evaluate.py", "differs from its label", **settings, OUTPUT=tmp_path / "t", IMAGES=tmp_path / "scans"
    )
    write(tmp_path / "out", "case_b.nii.gz", as_volume(ball(shape, (6, 9, 10), 5), spacing=(0.5, 0.9, 2.5)))
    assert_refused("evaluate.py", "position or spacing differs", **settings, OUTPUT=tmp_path / "t")
    write(tmp_path / "out", "case_b.nii.gz", as_volume(ball((12, 20, 20), (6, 9, 10), 5), spacing=spacing))
    assert_refused("evaluate.py", "differs", "(found 20x20x12, expected 22x20x12)", **settings, OUTPUT=tmp_path / "t")
    (tmp_path / "out" / "case_b.nii.gz").unlink()
    assert_refused("evaluate.py", "b_seg.nrrd: no predicted mask", **settings, OUTPUT=tmp_path / "t")
    assert not leftovers(tmp_path)


def test_spacing_of_slices_is_that_of_their_cases(tmp_path):
    labels = np.stack([ball((24, 24), (12, 12), radius) for radius in (5, 6, 7)])
    write(tmp_path / "i", "a.nrrd", as_volume((labels * 100).astype(np.int16), np.eye(3), (0.5, 0.8, 2.5)))
    write(tmp_path / "l", "a.nrrd", as_volume(labels, np.eye(3), (0.5, 0.8, 2.5)))
    settings = {"IMAGES": tmp_path / "i", "LABELS": tmp_path / "l", "CASES": tmp_path / "c", "SIZE": 24}
    run_here("preprocess/0_import_volumes.py", **settings)
    predictions_of(tmp_path / "c", tmp_path / "out")
    settings = {"PREDICTED": tmp_path / "out" / "case_a", "TRUTH": tmp_path / "c"}
    run_here("evaluate.py", **settings, OUTPUT=tmp_path / "s")
    assert pd.read_csv(tmp_path / "s" / "scores.csv")["hausdorff"].tolist() == pytest.approx([1.6] * 3)
    run_here("evaluate.py", **settings, OUTPUT=tmp_path / "t", SPACING=[3, 1])
    assert (pd.read_csv(tmp_path / "t" / "scores.csv")["hausdorff"] > 3).all()


def test_bad_input(tmp_path):
    for side in ("a", "b"):
        for name in ("1", "2"):
            write_image(tmp_path / side / f"{name}.png", disc_slice(24, 1)[1])
    good = {"PREDICTED": tmp_path / "a", "TRUTH": tmp_path / "b", "OUTPUT": tmp_path / "scores"}
    assert_refused("evaluate.py", "TRUTH: not set", **{**good, "TRUTH": ""})
    assert_refused("evaluate.py", "SPACING", "(found [1, 2, 3])", status=2, **good, SPACING=[1, 2, 3])
    assert_refused("evaluate.py", "SHOW", "'best'", status=2, **good, SHOW="best")
    (tmp_path / "a" / "2.png").unlink()
    assert_refused("evaluate.py", "2.png: no predicted mask", **good)
    write_image(tmp_path / "a" / "2.png", disc_slice(32, 1)[1])
    assert_refused("evaluate.py", "size differs", "(found 32x32, expected 24x24)", **good)
    write_image(tmp_path / "a" / "2.png", np.full((24, 24), 3, np.uint8))
    assert_refused("evaluate.py", "unexpected value (found 3;", **good)
    write_image(tmp_path / "a" / "2.png", np.full((24, 24), 200, np.uint8))
    assert_refused("evaluate.py", "200", **good)
    assert not (tmp_path / "scores").exists() and not leftovers(tmp_path)
