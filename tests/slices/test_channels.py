"""Images with several channels: RGB, a file for each channel, neighboring slices; from import to prediction."""

import json

import cv2
import h5py
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from drawings import as_volume, disc_slice, write, write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from running import assert_refused, only_folder, run_here

from common.errors import InputError
from common.prediction.inputs import ImageInput, VolumeInput, reader_of
from common.slices.cases import Slice
from common.slices.channels import group_files, read_with_channels, to_draw
from common.slices.images import by_channels, cut, encode_slice, read_image, read_slice, slice_ending, to_gray
from common.slices.variants import make_filters, make_shapes
from common.training.augmentation import make_augmentation
from common.training.sets import open_both
from common.volumes.slicing import with_neighbors

PATTERNS = [f"{{id}}_{number:04d}" for number in range(4)]


def blobs(size, seed, channels):
    """Image (H, W, C) uint8 with a mask of the pixels whose first two channels differ; each channel alone is noise."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 2, (size // 8, size // 8, channels))
    image = np.kron(cells, np.ones((8, 8, 1))) * 120 + 60 + rng.normal(0, 8, (size, size, channels))
    mask = np.kron(cells[..., 0] != cells[..., 1], np.ones((8, 8)))
    return image.clip(0, 255).astype(np.uint8), (mask * 255).astype(np.uint8)


def write_files(root, images, channels):
    """Write images with a file for each channel, and masks."""
    for number in range(images):
        image, mask = blobs(32, number, channels)
        for channel in range(channels):
            write_image(root / "images" / f"p{number:02d}_{channel:04d}.png", image[..., channel])
        write_image(root / "masks" / f"p{number:02d}.png", mask)


def write_colors(root, images):
    for number in range(images):
        image, mask = blobs(32, number, 3)
        write_image(root / "images" / f"p{number:02d}.png", image[..., ::-1])  # OpenCV writes blue first
        write_image(root / "masks" / f"p{number:02d}.png", mask)


def prepare(root, **channels):
    """Import, divide and pack."""
    given = {"IMAGES": root / "images", "MASKS": root / "masks", "CASES": root / "cases", "SIZE": 32}
    run_here("preprocess/0_import_images.py", CASE_FROM="image", **given, **channels)
    run_here("preprocess/2_write_lists.py", CASES=root / "cases", LISTS=root / "lists", VALIDATION_SHARE=0.25)
    run_here("preprocess/3_pack_hdf5.py", LISTS=root / "lists", PACKED=root / "packed")


# --- files


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16]), st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 7))
    )
)
def test_slices_come_back_as_they_were_encoded(tmp_path_factory, picture):
    data = encode_slice(picture)
    path = tmp_path_factory.mktemp("slices") / f"a{slice_ending(data)}"
    path.write_bytes(data)
    expected = picture[..., 0] if picture.shape[2] == 1 else picture
    assert np.array_equal(read_image(path), expected) and read_image(path).dtype == picture.dtype
    assert path.suffix == (".png" if picture.shape[2] in (1, 3) else ".tif")


def test_a_tiff_of_gray_samples_has_channels_and_alpha_is_none(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (9, 9, 4), np.uint8)
    kinds = {"samples": {"photometric": "minisblack"}, "alpha": {"photometric": "rgb", "extrasamples": ["unassalpha"]}}
    for name, options in kinds.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", values, planarconfig="contig", **options)
    assert np.array_equal(read_image(tmp_path / "samples.tif"), values)
    with pytest.raises(InputError, match="transparent pixels"):
        read_image(tmp_path / "alpha.tif")
    with pytest.raises(InputError, match=r"expected gray or RGB \(found 4 channels\)"):
        read_with_channels([tmp_path / "samples.tif"], "gray")


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
def test_every_channel_is_changed_as_if_it_were_alone(channels):
    """Cutting, filters, shapes and warps; OpenCV itself is less exact for 2 channels, and fails for 5."""
    rng = np.random.default_rng(channels)
    image = rng.integers(0, 256, (40, 40, channels), np.uint8)
    functions = [lambda x: cut(x, (-3, 5, 50, 30), 24), lambda x: cut(x, (0, 0, 40, 40), 90)]
    functions += make_filters(7, (20, 20), 2.0, 8).values()
    functions += [lambda x, shape=shape: shape(x, True) for shape in make_shapes(0.1, 0.1, 0.1, 10, 2).values()]
    for function in functions:
        alone = np.stack([function(np.ascontiguousarray(image[..., i])) for i in range(channels)], axis=-1)
        assert np.abs(function(image).astype(int) - alone).max() <= 1
    assert by_channels(lambda x: cv2.resize(x, (7, 7)), image[..., :1]).shape == (7, 7, 1)
    moves = {"rotation": [1, 20, 20], "elastic": [1, 0.5, 0.5], "flip": "horizontal", "fill": "reflect"}
    unit, mask = image.astype(np.float32) / 255, np.zeros((40, 40, 1), np.uint8)
    for augmentation in (moves, {"rotation": [1, 20, 20], "resolution": [1, 0.5, 0.5], "blur": [1, 1, 1]}):
        augment = make_augmentation(augmentation)
        changed = augment(unit, mask, [1])[0]
        assert changed.shape == unit.shape
        for i in range(channels):
            alone = augment(np.ascontiguousarray(unit[..., i : i + 1]), mask, [1])[0]
            assert np.abs(changed[..., i] - alone[..., 0]).max() < 1e-4


def test_what_is_drawn_of_channels():
    image = np.arange(2 * 2 * 5).reshape(2, 2, 5)
    assert to_draw(image[..., 0]).shape == (2, 2) and to_draw(image[..., :3]).shape == (2, 2, 3)
    assert np.array_equal(to_draw(image[..., :3], 1), image[..., 1]) and np.array_equal(to_draw(image), image[..., 0])
    assert np.array_equal(to_draw(image, 2), image[..., 2])


# --- import


def test_colors_are_kept_or_their_loss_is_said(tmp_path):
    write_colors(tmp_path, 3)
    gray, _ = disc_slice(32, 1)
    write_image(tmp_path / "images" / "p03.png", gray)
    write_image(tmp_path / "masks" / "p03.png", disc_slice(32, 1)[1])
    given = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "SIZE": 32}
    out = run_here("preprocess/0_import_images.py", **given, CASES=tmp_path / "gray").stdout
    assert "note: 3 of 4 images lost their colors; to train on colors, use --channels rgb" in out
    out = run_here("preprocess/0_import_images.py", **given, CASES=tmp_path / "rgb", CHANNELS="rgb").stdout
    assert "note:" not in out
    (case,), (gray_case,) = (tmp_path / "rgb").iterdir(), (tmp_path / "gray").iterdir()
    record = json.loads((case / "case.json").read_text())
    assert record["channels"] == "rgb" and "channels" not in json.loads((gray_case / "case.json").read_text())
    for name, entry in record["slices"].items():
        color = read_slice(case / "x" / f"{name}.png")
        source = read_image(tmp_path / "images" / entry["image"])
        assert np.array_equal(color, source if source.ndim == 3 else np.dstack([source] * 3))
        assert np.array_equal(read_slice(gray_case / "x" / f"{name}.png"), to_gray(source))


def test_files_become_channels(tmp_path):
    write_files(tmp_path, 3, 4)
    given = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "SIZE": 32, "CHANNELS": PATTERNS}
    run_here("preprocess/0_import_images.py", **given, CASES=tmp_path / "cases")
    (case,) = (tmp_path / "cases").iterdir()
    for number in range(3):
        assert np.array_equal(read_slice(case / "x" / f"{number + 1:04d}.tif"), blobs(32, number, 4)[0])
    given |= {"CASES": tmp_path / "none", "REPLACE": True}
    third = tmp_path / "images" / "p01_0002.png"
    kept = third.read_bytes()
    third.unlink()
    assert_refused("preprocess/0_import_images.py", "p01_0000.png: no file {id}_0002", **given)
    write_image(third, np.zeros((32, 30), np.uint8))
    assert_refused("preprocess/0_import_images.py", "p01_0002.png: expected 32x32 uint8 as in", "30", **given)
    write_image(third, blobs(32, 1, 3)[0])
    assert_refused("preprocess/0_import_images.py", "p01_0002.png: expected a gray image (found colors)", **given)
    third.write_bytes(kept)
    assert_refused("preprocess/0_import_images.py", "CHANNELS", status=2, **{**given, "CHANNELS": ["no_id"]})
    assert_refused("preprocess/0_import_images.py", "IMAGES: no image", **{**given, "CHANNELS": ["{id}_flair"]})


def test_neighbors_become_channels(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1000, (5, 24, 24)).astype(np.int16)
    write(tmp_path / "in", "a.nii.gz", as_volume(values, direction=np.eye(3)))
    run_here("preprocess/0_import_volumes.py", IMAGES=tmp_path / "in", CASES=tmp_path / "cases", SIZE=24, NEIGHBORS=1)
    (case,) = (tmp_path / "cases").iterdir()
    assert json.loads((case / "case.json").read_text())["neighbors"] == 1
    source = VolumeInput(tmp_path / "in" / "a.nii.gz", "axial", None, None, None, neighbors=1)
    alone = VolumeInput(tmp_path / "in" / "a.nii.gz", "axial", None, None, None)
    planes = [alone.read(s) for s in alone.slices]
    for index, s in enumerate(source.slices):
        expected = np.stack([planes[max(index - 1, 0)], planes[index], planes[min(index + 1, 4)]], axis=-1)
        image = source.read(s)
        assert np.array_equal(image, expected) and np.array_equal(source.drawn(s, image), planes[index])
        assert np.array_equal(read_slice(case / "x" / f"{s.name}.png"), expected)
    assert with_neighbors(values, 2, 0).shape == (24, 24) and with_neighbors(values, 0, 2).shape == (24, 24, 5)


def planes_of_files(paths):
    """Slices of volumes as gray levels, (slices, H, W, C), one file after the other."""
    sources = [VolumeInput(path, "axial", None, None, None) for path in paths]
    return np.stack([[source.read(s) for s in source.slices] for source in sources], axis=-1)


@pytest.mark.parametrize(
    ("names", "channels", "label"),
    [
        (["a_flair", "a_t1"], ["{id}_flair", "{id}_t1"], "a_seg"),
        (["a/flair", "a/t1"], ["flair", "t1"], "a/seg"),
        (["a/x_flair", "a/x_t1"], ["{id}_flair", "{id}_t1"], "a/x_seg"),
    ],
)
def test_files_of_volumes_become_channels(tmp_path, names, channels, label):
    """As each of them alone; predict.py reads them the same, from the folder or from any of the files."""
    rng = np.random.default_rng(0)
    truth = np.zeros((4, 24, 24), np.uint8)
    truth[1:3, 5:15, 5:15] = 1
    for name, values in ((names[0], 100), (names[1], 3000), (label, None)):
        array = truth if values is None else rng.integers(0, values, truth.shape).astype(np.int16)
        path = tmp_path / "in" / f"{name}.nii.gz"
        write(path.parent, path.name, as_volume(array, np.eye(3)))
    files = [tmp_path / "in" / f"{name}.nii.gz" for name in names]
    pattern = "{id}/seg" if label.endswith("/seg") else "{id}_seg"
    given = {"IMAGES": tmp_path / "in", "LABELS": tmp_path / "in", "LABEL_NAME": pattern, "CHANNELS": channels}
    script, cases = "preprocess/0_import_volumes.py", tmp_path / "cases"
    run_here(script, **given, CASES=cases, SIZE=24)
    (case,) = cases.iterdir()
    expected = planes_of_files(files)
    found = [read_slice(path) for path in sorted((case / "x").iterdir())]
    assert np.array_equal(found, expected) and json.loads((case / "case.json").read_text())["channels"] == channels
    masks = [read_image(path).any() for path in sorted((case / "y").iterdir())]
    assert sum(masks) == 2
    for source in (tmp_path / "in", *files):
        read = VolumeInput(source, "axial", None, None, None, channels=channels)
        assert len(read.volumes) == 1 and np.array_equal([read.read(s) for s in read.slices], expected)
        image = read.read(read.slices[0])
        assert np.array_equal(read.drawn(read.slices[0], image), expected[0, ..., 0])
        assert read.viewed(read.slices[0], image).shape == (24, 24)
    assert_refused(script, "NEIGHBORS", status=2, **given, CASES=tmp_path / "x", NEIGHBORS=1)
    write(files[1].parent, files[1].name, as_volume(truth[:3].astype(np.int16), np.eye(3)))
    assert_refused(script, f"{files[1].name}: not on the grid of", **given, CASES=tmp_path / "none")
    files[1].unlink()
    assert_refused(script, f"{files[0].name}: its channel", "is missing", **given, CASES=tmp_path / "none")
    assert_refused(script, "IMAGES: no volume fits", **{**given, "CHANNELS": ["{id}_t2"]}, CASES=tmp_path / "none")


def test_a_volume_with_several_channels_in_one_file(tmp_path):
    """As of the Decathlon: the fourth axis."""
    values = np.random.default_rng(0).integers(0, 500, (3, 4, 24, 24)).astype(np.int16)
    (tmp_path / "in").mkdir()
    volumes = [as_volume(channel, np.eye(3)) for channel in values]
    sitk.WriteImage(sitk.JoinSeries(volumes), str(tmp_path / "in" / "a.nii.gz"))
    for number, volume in enumerate(volumes):
        write(tmp_path / "alone", f"{number}.nii.gz", volume)
    run_here("preprocess/0_import_volumes.py", IMAGES=tmp_path / "in", CASES=tmp_path / "cases", SIZE=24)
    (case,) = (tmp_path / "cases").iterdir()
    expected = planes_of_files(sorted((tmp_path / "alone").iterdir()))
    assert np.array_equal([read_slice(path) for path in sorted((case / "x").iterdir())], expected)
    read = VolumeInput(tmp_path / "in" / "a.nii.gz", "axial", None, None, None)
    assert np.array_equal([read.read(s) for s in read.slices], expected)


# --- prediction


def test_loose_files_are_grouped_by_the_patterns_of_training(tmp_path):
    write_files(tmp_path, 2, 2)
    slices = [Slice("", path.stem, path) for path in sorted((tmp_path / "images").iterdir())]
    grouped, files = group_files(slices, PATTERNS[:2])
    assert [s.name for s in grouped] == ["p00", "p01"] and [len(files[s.path]) for s in grouped] == [2, 2]
    source = ImageInput(tmp_path / "images", False, PATTERNS[:2])
    for number, s in enumerate(source.slices):
        assert np.array_equal(source.read(s), blobs(32, number, 2)[0])
        with pytest.raises(InputError, match=r"wrong number of channels \(found 2, in training 3\)"):
            reader_of(source, 3)(s)
    with pytest.raises(InputError, match=r"no p00_0002 next to it"):
        group_files(slices, PATTERNS[:3])
    with pytest.raises(InputError, match=r"no name fits \{id\}_t1"):
        group_files(slices, ["{id}_t1", "{id}_t2"])
    named, _ = group_files(slices, ["{case}_{id}"])
    assert [s.name for s in named] == ["p00_0000", "p00_0001", "p01_0000", "p01_0001"]


def test_sets_with_other_channels_do_not_go_together(tmp_path):
    for name, channels in (("two", 2), ("three", 3)):
        write_files(tmp_path / name, 4, channels)
        prepare(tmp_path / name, CHANNELS=PATTERNS[:channels])
    with h5py.File(tmp_path / "two" / "packed" / "train.h5") as file:
        assert file["x"].shape[1:] == (32, 32, 2) and file["y"].shape[1:] == (32, 32, 1)
        assert json.loads(file.attrs["channels"]) == PATTERNS[:2]
    with pytest.raises(InputError, match="image shape must match"):
        open_both(tmp_path / "two" / "packed" / "train.h5", tmp_path / "three" / "packed" / "validation.h5", 1)
    for path in (tmp_path / "two" / "packed" / "train.h5", tmp_path / "two" / "lists" / "train.csv"):
        for memory in (1, 0):
            training, _ = open_both(path, "", memory)
            for i, source in enumerate(training.source):
                assert np.array_equal(training.x[i], read_slice(source))


def test_channels_come_back_from_a_data_set_of_nnunet(tmp_path):
    write_files(tmp_path, 5, 2)
    prepare(tmp_path, CHANNELS=PATTERNS[:2])
    run_here("export_dataset.py", LISTS=tmp_path / "lists", OUTPUT=tmp_path / "Dataset001_A")
    about = json.loads((tmp_path / "Dataset001_A" / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "gray0", "1": "gray1"}
    run_here("preprocess/0_import_images.py", IMAGES=tmp_path / "Dataset001_A", CASES=tmp_path / "again", SIZE=32)
    found = {read_slice(path).tobytes() for path in (tmp_path / "again").glob("*/x/*")}
    testing = {read_image(path).tobytes() for path in (tmp_path / "Dataset001_A").glob("imagesTs/*_0000.png")}
    drawn = [blobs(32, number, 2)[0] for number in range(5)]
    assert testing and found == {image.tobytes() for image in drawn if image[..., 0].tobytes() not in testing}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rgb", "files"])
def test_what_no_channel_shows_alone_is_learned(tmp_path, kind):
    """The target is where the first two channels differ: from any single channel, or their mean, it cannot be told."""
    channels = "rgb" if kind == "rgb" else PATTERNS
    if kind == "rgb":
        write_colors(tmp_path, 24)
    else:
        write_files(tmp_path, 24, 4)
    prepare(tmp_path, CHANNELS=channels)
    run_here(
        "train.py",
        TRAIN=tmp_path / "packed" / "train.h5",
        VALIDATION=tmp_path / "packed" / "validation.h5",
        RUNS=tmp_path / "runs",
        MODEL="unet",
        MODEL_SETTINGS={"features": 8, "depth": 2, "dropout": 0.0},
        LEARNING_RATE=0.01,
        BATCH_SIZE=4,
        EPOCHS=25,
        AUGMENTATION={"flip": "horizontal"},
    )
    run = only_folder(tmp_path / "runs")
    for number in range(100, 104):
        image, mask = blobs(40, number, 4 if kind == "files" else 3)
        write_image(tmp_path / "truth" / f"p{number}.png", mask)
        for channel in range(4 if kind == "files" else 0):
            write_image(tmp_path / "new" / f"p{number}_{channel:04d}.png", image[..., channel])
        if kind == "rgb":
            write_image(tmp_path / "new" / f"p{number}.png", image[..., ::-1])
    run_here("predict.py", RUN=run, INPUT=tmp_path / "new", OUTPUT=tmp_path / "out", FIT="tile")
    dice = []
    for path in sorted((tmp_path / "truth").iterdir()):
        truth, found = read_image(path) > 0, read_image(tmp_path / "out" / path.name) > 0
        dice.append(2 * (truth & found).sum() / (truth.sum() + found.sum()))
    assert np.mean(dice) > 0.9
    out = run_here("convert_coreml.py", RUN=run).stdout
    assert "changed pixels: 0" in out
    out = run_here("export.py", RUN=run, FORMATS=["litert"]).stdout
    assert "changed pixels: 0" in out
    card = json.loads((run / "export" / "litert" / f"{run.name}.json").read_text())
    assert card["input"]["shape"][-1] == (4 if kind == "files" else 3) and card["input"]["channels"]
