"""Overlapping and nested classes, from masks of each class to packed sets, losses and metrics."""

import json

import cv2
import h5py
import numpy as np
import pytest
from drawings import write_image, write_nnunet_images
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from running import assert_refused, run_here

from common.slices import classes as c
from common.slices.images import paste, read_image
from common.slices.masks import clean
from common.slices.regions import Regions
from common.training.calibration import THRESHOLDS, dice_by_threshold
from common.training.sets import open_set
from losses import TERMS, get_loss, training_metrics
from models import NETWORKS, build_model, classes_of, has_overlapping_classes, is_for_volumes

LOSSES = [name for name in TERMS if name != "cce"]
stacks = hnp.arrays(bool, st.tuples(st.integers(1, 15), st.integers(1, 6), st.integers(1, 6)))


# --- masks


@settings(deadline=None)
@given(stacks)
def test_a_mask_holds_every_class_of_every_pixel(stack):
    sets = c.sets_of_classes(list(stack))
    for number, pixels in enumerate(stack, 1):
        np.testing.assert_array_equal(c.has_class(sets, number), pixels)
    np.testing.assert_array_equal(c.channels_of(sets[..., None], len(stack)), np.moveaxis(stack, 0, -1))
    assert c.classes_in(sets) == [number for number, pixels in enumerate(stack, 1) if pixels.any()]
    assert c.overlap_in(sets) == bool((stack.sum(0) > 1).any())
    numbers = np.arange(1, len(stack) + 1)[:, None, None]
    np.testing.assert_array_equal(c.highest_class(sets), (stack * numbers).max(0))
    np.testing.assert_array_equal(c.is_target(sets), stack.any(0))
    np.testing.assert_array_equal(c.class_numbers(np.moveaxis(stack * 0.6, 0, -1), 0.5, overlapping=True), sets)


@settings(deadline=None)
@given(stacks, stacks)
def test_ignored_pixels_are_in_no_class(stack, other):
    sets = c.sets_of_classes(list(stack))
    ignored = np.zeros(sets.shape, bool)
    ignored[0] = True
    sets[ignored] = c.IGNORED_SET
    assert not c.is_target(sets)[ignored].any() and not c.has_class(sets, 1)[ignored].any()
    assert (c.channels_of(sets[..., None], len(stack))[ignored] == c.IGNORED).all()
    assert (c.highest_class(sets)[ignored] == c.IGNORED).all()
    predicted = np.full(sets.shape, 2**15 - 1, np.uint16)
    assert not any(mask[ignored].any() for mask in c.without_ignored(predicted, sets))


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(bool, (3, 9, 9)), st.integers(0, 5), st.booleans(), st.sampled_from([0, 3]))
def test_each_class_is_cleaned_alone(stack, smallest, fill, median):
    how = {"smallest": smallest, "fill": fill, "median": median}
    cleaned = clean(c.sets_of_classes(list(stack)), **how)
    assert cleaned.dtype == np.uint16
    for number, pixels in enumerate(stack, 1):
        np.testing.assert_array_equal(c.has_class(cleaned, number), clean(pixels.astype(np.uint8), **how) > 0)


@given(hnp.arrays(np.uint8, 12, elements=st.integers(0, 5)))
def test_nested_numbers_include_all_before(numbers):
    sets = c.sets_of_numbers(numbers, nested=True)
    for number in range(1, 6):
        np.testing.assert_array_equal(c.has_class(sets, number), numbers >= number)
    np.testing.assert_array_equal(c.highest_class(sets), numbers)
    np.testing.assert_array_equal(c.highest_class(c.sets_of_numbers(numbers)), numbers)
    np.testing.assert_array_equal(Regions("nested").sets_of(numbers, "mask"), sets)


def test_regions_are_unions_of_numbers():
    regions = Regions({"whole": [1, 2, 4], "core": [2, 4], "edge": [4]})
    assert (regions.names, regions.overlap) == (["whole", "core", "edge"], c.NESTED)
    np.testing.assert_array_equal(
        regions.sets_of(np.array([0, 1, 2, 4, c.IGNORED], np.uint8), "m"), [0, 1, 3, 7, 2**15]
    )
    assert Regions({"a": [1, 2], "b": [2, 3]}).overlap == c.OVERLAPPING


def test_all_fifteen_classes_come_back_to_their_place():
    sets = np.random.default_rng(0).integers(0, 2**15, (4, 4)).astype(np.uint16)
    whole = paste(sets, (-1, 2, 4, 4), (5, 6))
    assert whole.dtype == np.uint16
    np.testing.assert_array_equal(whole[2:5, :3], sets[:3, 1:])


# --- losses, metrics and networks


def example(seed, classes=3):
    """Channels of overlapping classes (3, 12, 16, K), and probabilities."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (3, 12, 16, classes)).astype(np.uint8)
    y[0, ..., 1], y[1] = 0, 0
    return y, rng.uniform(0.02, 0.98, y.shape).astype(np.float32)


@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("name", [*LOSSES, "bce+dice"])
def test_a_loss_is_the_mean_of_those_of_each_class(name, ignores):
    y, p = example(1)
    if ignores:
        y[:, :, 8:] = c.IGNORED
    single = get_loss(name, 1, ignores=ignores)
    expected = np.mean([single.call(y[..., k : k + 1], p[..., k : k + 1]) for k in range(3)], axis=0)
    loss = get_loss(name, 3, ignores=ignores, overlapping=True)
    np.testing.assert_allclose(loss.call(y, p), expected, rtol=2e-5, atol=1e-6)


def test_bce_and_dice_are_those_of_numpy():
    y, p = example(2)
    t = y.astype(np.float64)
    bce = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean((1, 2, 3))
    np.testing.assert_allclose(get_loss("bce", 3, overlapping=True).call(y, p), bce, rtol=1e-5)
    both, sums = (t * p).sum((1, 2)), t.sum((1, 2)) + p.sum((1, 2))
    np.testing.assert_allclose(
        get_loss("dice", 3, overlapping=True).call(y, p), (1 - 2 * both / sums).mean(1), atol=1e-4
    )
    with pytest.raises(ValueError, match="exclusive classes"):
        get_loss("cce", 3, overlapping=True)


def test_metrics_score_each_class_alone():
    y, p = example(3)
    found = {metric.name: metric for metric in training_metrics(3)}
    for metric in found.values():
        metric.update_state(y, p)
    hard = p > 0.5
    dice = 2 * (hard & (y > 0)).sum((1, 2)) / (hard.sum((1, 2)) + y.sum((1, 2)))
    present = y.any((1, 2))
    for number in (1, 2, 3):
        expected = dice[present[:, number - 1], number - 1].mean()
        assert float(found[f"dice_{number}"].result()) == pytest.approx(expected, rel=1e-5)
    assert float(found["dice"].result()) == pytest.approx(np.mean([dice[0, [0, 2]].mean(), dice[2].mean()]), rel=1e-5)
    assert float(found["fpoet"].result()) == pytest.approx(hard[1].any(-1).mean(), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in NETWORKS if not is_for_volumes(name)])
def test_every_network_has_a_sigmoid_for_each_class(name, tmp_path):
    small = {"unet": {"features": 2, "depth": 1}, "pretrained_unet": {"features": 2, "encoder_weights": None}}
    small |= {
        "crop_classifier": {"features": 2, "depth": 2},
        "deeplab_v3plus": {"backbone": "mobilenetv2", "alpha": 0.35},
    }
    side = {"cvnet_synapse": 72, "cvnet_synapse_512": 128}.get(name, 32)
    overlapping, exclusive = (
        build_model(name, (side, side, 1), 3, flag, **small.get(name, {"width": 0.1})) for flag in (True, False)
    )
    assert overlapping.output_shape[1:] == (side, side, 3) and exclusive.output_shape[1:] == (side, side, 4)
    assert classes_of(overlapping) == classes_of(exclusive) == 3
    assert has_overlapping_classes(overlapping) and not has_overlapping_classes(exclusive)


def test_a_file_without_the_argument_is_refused(tmp_path):
    code = (
        "import keras\nfrom models.layers import output_channels, output_layer\n"
        "def build_model(input_shape, classes{0}):\n    x = inputs = keras.Input(input_shape, name='input')\n"
        "    x = keras.layers.Conv2D(output_channels(classes{1}), 1)(x)\n"
        "    return keras.Model(inputs, output_layer(classes{1})(x))\n"
    )
    (tmp_path / "old.py").write_text(code.format("", ""))
    (tmp_path / "new.py").write_text(code.format(", overlapping=False", ", overlapping"))
    with pytest.raises(ValueError, match="expected an argument overlapping"):
        build_model(str(tmp_path / "old.py"), (8, 8, 1), 2, True)
    assert classes_of(build_model(str(tmp_path / "new.py"), (8, 8, 1), 2, True)) == 2


def test_the_threshold_is_scored_for_each_class():
    y, p = example(4)
    sets = c.sets_of_classes(list(np.moveaxis(y > 0, -1, 0)))
    found = dice_by_threshold(p, sets)
    for threshold, dice in zip(THRESHOLDS, found, strict=True):
        assert dice == pytest.approx(c.mean_dice(c.class_numbers(p, threshold, overlapping=True), sets))


# --- import


def draw(root, images=6, side=32):
    """Images with two overlapping discs, and a folder of masks for each; the last image has no right disc."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    for number in range(images):
        left, right = ((rows - rng.integers(12, 20)) ** 2 + (columns - column) ** 2 < 81 for column in (11, 20))
        image = 60 + 60 * left + 70 * right + rng.normal(0, 5, left.shape)
        write_image(root / "images" / f"p_{number}.png", image.clip(0, 255).astype(np.uint8))
        write_image(root / "masks" / "left" / f"p_{number}.png", left * np.uint8(255))
        if number < images - 1:
            write_image(root / "masks" / "right" / f"p_{number}.png", right * np.uint8(255))


def import_masks(root, pattern, run=run_here, **given):
    given = {"IMAGES": root / "images", "MASKS": f"{root}/{pattern}", "CASES": root / "cases", "SIZE": 32} | given
    return run("preprocess/0_import_images.py", CASE_FROM="image", **given).stdout


def masks_of(root, folder="cases"):
    """Masks of the case folders in order, (N, H, W) in their number type."""
    return np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(root.glob(f"{folder}/*/y/*.png"))])


def expected_sets(root, images=6):
    """Sets of the masks that `draw` wrote."""
    sets = []
    for number in range(images):
        paths = [root / "masks" / name / f"p_{number}.png" for name in ("left", "right")]
        classes = [read_image(path) > 0 if path.exists() else np.zeros((32, 32), bool) for path in paths]
        sets.append(c.sets_of_classes(classes))
    return np.stack(sets)


def test_a_folder_for_each_class_is_exact_through_packing(tmp_path):
    draw(tmp_path)
    said = import_masks(tmp_path, "masks/{class}/{id}.png")
    assert "2 overlapping classes" in said
    assert "note: right has no mask in 1 of 6 images and counts as absent there" in said
    expected = expected_sets(tmp_path)
    found = masks_of(tmp_path)
    assert found.dtype == np.uint16 and (expected == 3).any()
    np.testing.assert_array_equal(found, expected)
    record = json.loads((tmp_path / "cases" / "case_p_0" / "case.json").read_text())
    assert (record["overlap"], record["class_names"]) == ("overlapping", ["left", "right"])
    run_here("preprocess/1_augment_cases.py", CASES=tmp_path / "cases", FILTERS=["O"], SHAPES=["", "RTP"])
    turned = cv2.imread(str(tmp_path / "cases" / "case_p_0" / "y_O_RTP" / "0001.png"), cv2.IMREAD_UNCHANGED)
    assert turned.dtype == np.uint16 and set(np.unique(turned)) == {0, 1, 2, 3}
    said = run_here(
        "preprocess/2_write_lists.py", CASES=tmp_path / "cases", LISTS=tmp_path / "lists", TEST_SHARE=0, VARIANTS=False
    ).stdout
    assert "2 overlapping classes" in said
    for how in ({}, {"COMPRESSION": "gzip"}, {"SHARD_GB": 1e-6}):
        run_here("preprocess/3_pack_hdf5.py", LISTS=tmp_path / "lists", PACKED=tmp_path / "packed", REPLACE=True, **how)
        names = {f"case_p_{number}": mask for number, mask in enumerate(expected)}
        for name in ("train", "validation"):
            with h5py.File(tmp_path / "packed" / f"{name}.h5") as packed:
                assert packed["y"].dtype == np.uint16 and packed.attrs["classes"] == 2
                for case, mask in zip(packed["case"].asstr()[:], packed["y"][..., 0], strict=True):
                    np.testing.assert_array_equal(mask, names[case])
    for path in (tmp_path / "packed" / "train.h5", tmp_path / "lists" / "train.csv"):
        slices = open_set(path)
        assert slices.overlapping and slices.classes == 2 and slices.record().labels == ["left", "right"]
        x, y = slices.batches(8).batch(0)
        expected_channels = c.channels_of(slices.y[np.arange(len(slices))], 2)
        assert y.dtype == np.uint8 and x.shape[0] == y.shape[0]
        np.testing.assert_array_equal(y, expected_channels)
        augmented = slices.batches(8, seed=1, augmentation="medical").batch(0)[1]
        assert augmented.shape == y.shape and set(np.unique(augmented)) <= {0, 1}


def test_classes_in_file_names_are_found_by_the_ids_of_images(tmp_path):
    draw(tmp_path)
    for path in (tmp_path / "masks").glob("*/*.png"):
        side = f"{path.parent.name}_lung"
        write_image(tmp_path / "flat" / f"{path.stem}_{side}.png", read_image(path))
    import_masks(tmp_path, "flat/{id}_{class}.png", CLASS_NAMES=["right_lung", "left_lung"])
    expected = expected_sets(tmp_path)
    swapped = (expected & 1) << 1 | expected >> 1
    np.testing.assert_array_equal(masks_of(tmp_path), swapped)
    for path in (tmp_path / "images").glob("*.png"):  # images and masks in one folder
        write_image(tmp_path / "flat" / path.name, read_image(path))
    import_masks(tmp_path, "flat/{id}_{class}.png", IMAGES=tmp_path / "flat", CASES=tmp_path / "together" / "cases")
    np.testing.assert_array_equal(masks_of(tmp_path, "together/cases"), expected)


def test_the_largest_number_wins_if_asked_and_one_class_is_plain(tmp_path):
    draw(tmp_path)
    import_masks(tmp_path, "masks/{class}", OVERLAP="largest")
    np.testing.assert_array_equal(masks_of(tmp_path), c.highest_class(expected_sets(tmp_path)))
    import_masks(tmp_path, "masks/{class}", CLASS_NAMES=["left"], CASES=tmp_path / "one" / "cases")
    found = masks_of(tmp_path, "one/cases")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, (expected_sets(tmp_path) & 1) * 255)


def test_ignored_pixels_of_any_class_are_ignored(tmp_path):
    draw(tmp_path, images=2)
    path = tmp_path / "masks" / "left" / "p_0.png"
    mask = read_image(path)
    mask[:4] = 77
    write_image(path, mask)
    import_masks(tmp_path, "masks/{class}/{id}.png", IGNORE=77)
    found = masks_of(tmp_path)
    assert (found[0, :4] == c.IGNORED_SET).all() and not c.is_ignored(found[1]).any()


def test_regions_of_numbers_and_of_nnunet(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):
        write_image(tmp_path / "images" / f"p_{number}.png", rng.integers(0, 255, (32, 32)).astype(np.uint8))
        write_image(tmp_path / "numbers" / f"p_{number}.png", rng.integers(0, 4, (32, 32)).astype(np.uint8))
    numbers = np.stack([read_image(path) for path in sorted((tmp_path / "numbers").glob("*.png"))])
    import_masks(tmp_path, "numbers", REGIONS={"whole": [1, 2, 3], "core": [3, 2], "rest": [1]})
    expected = c.sets_of_classes([numbers > 0, numbers >= 2, numbers == 1])
    np.testing.assert_array_equal(masks_of(tmp_path), expected)
    said = import_masks(tmp_path, "numbers", REGIONS="nested", CASES=tmp_path / "nested" / "cases")
    assert "3 nested classes" in said
    np.testing.assert_array_equal(c.highest_class(masks_of(tmp_path, "nested/cases")), numbers)

    write_nnunet_images(tmp_path / "nnunet", classes=2)
    path = tmp_path / "nnunet" / "dataset.json"
    content = json.loads(path.read_text())
    labels = sorted((tmp_path / "nnunet" / "labelsTr").glob("*"))
    content["labels"] = {"background": 0, "whole": [1, 2], "core": 2}
    path.write_text(json.dumps(content))
    run_here("preprocess/0_import_images.py", IMAGES=tmp_path / "nnunet", CASES=tmp_path / "third" / "cases", SIZE=32)
    record = json.loads(next((tmp_path / "third" / "cases").glob("*/case.json")).read_text())
    assert (record["overlap"], record["class_names"]) == ("nested", ["whole", "core"])
    first = cv2.resize(read_image(labels[0]), (32, 32), interpolation=cv2.INTER_NEAREST)
    assert set(np.unique(masks_of(tmp_path, "third/cases")[0])) <= {0, 1, 3} and first.max() == 2


# --- what is refused


def test_masks_that_cannot_be_of_classes(tmp_path):
    draw(tmp_path)

    def refused(*words, status=1, pattern="masks/{class}/{id}.png", **given):
        given |= {"IMAGES": tmp_path / "images", "MASKS": f"{tmp_path}/{pattern}", "CASES": tmp_path / "cases"}
        assert_refused("preprocess/0_import_images.py", *words, status=status, REPLACE=True, **given)

    refused("MASKS", "{class}", pattern="masks/{class}_{class}/{id}.png")
    refused("MASKS", "{class}", pattern="masks/{class}{id}.png")
    refused("MASKS", "no mask of class heart", CLASS_NAMES=["heart"])
    refused("MASKS: no mask of any class matches", "found no class in", pattern="images/{class}/{id}.png")
    refused("CLASS_NAMES: a name is listed twice", CLASS_NAMES=["left", "left"])
    refused("MASKS", "{class}/{id}.png", pattern="masks")
    refused("REGIONS", status=2, REGIONS="nested")
    refused("COLORS", status=2, COLORS={"#ff0000": 1})
    assert not (tmp_path / "cases").exists()
    write_image(tmp_path / "masks" / "left" / "p_1.png", np.tile(np.arange(32, dtype=np.uint8) % 3, (32, 1)))
    refused("p_1.png", "expected one class", "1, 2")
    write_image(tmp_path / "masks" / "left" / "p_1.png", np.zeros((9, 32), np.uint8))
    refused("p_1.png", "size differs from its image", "32x9")
    for number in range(16):
        write_image(tmp_path / "masks" / f"more{number}" / "p_0.png", np.zeros((32, 32), np.uint8))
    refused("MASKS", "up to 15 classes", "found 18")
    write_image(tmp_path / "numbers" / "p_0.png", np.full((32, 32), 2, np.uint8))
    given = {"REGIONS": {"a": [1], "b": [1, 3]}, "UNMATCHED": "skip"}
    refused("p_0.png", "in no region of REGIONS (found 2)", pattern="numbers", **given)


def test_kinds_of_masks_do_not_mix(tmp_path):
    draw(tmp_path, images=4)
    import_masks(tmp_path, "masks/{class}/{id}.png")
    import_masks(tmp_path, "masks/left", CASES=tmp_path / "plain", UNMATCHED="skip")
    (tmp_path / "plain" / "case_p_0").rename(tmp_path / "cases" / "case_x")
    lists = {"CASES": tmp_path / "cases", "LISTS": tmp_path / "lists"}
    assert_refused("preprocess/2_write_lists.py", "how classes overlap", "overlapping in", "exclusive in", **lists)
    record = tmp_path / "cases" / "case_x" / "case.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"overlap": "overlapping"}))
    assert_refused("preprocess/2_write_lists.py", "case_x", "expected a 16-bit mask (found 8 bits)", **lists)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"overlap": "sometimes"}))
    assert_refused("preprocess/2_write_lists.py", "case_x", "case.json", "overlap", **lists)


def test_a_damaged_packed_set_is_refused(tmp_path):
    draw(tmp_path)
    import_masks(tmp_path, "masks/{class}/{id}.png")
    run_here("preprocess/2_write_lists.py", CASES=tmp_path / "cases", LISTS=tmp_path / "lists", TEST_SHARE=0)
    run_here("preprocess/3_pack_hdf5.py", LISTS=tmp_path / "lists", PACKED=tmp_path / "packed")
    with h5py.File(tmp_path / "packed" / "train.h5", "a") as packed:
        y = packed["y"][:].astype(np.uint8)
        del packed["y"]
        packed["y"] = y
    given = {"TRAIN": tmp_path / "packed" / "train.h5", "VALIDATION": tmp_path / "packed" / "validation.h5"}
    assert_refused("train.py", "train.h5", "its classes overlap, but its masks are uint8", **given)
