"""evaluate.py with DICOM SEG, RTSTRUCT, .seg.nrrd and a label volume for each class, on both sides, overlapping."""

import shutil

import nrrd
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from dicom_labels import draw_series, sources, write_rtstruct, write_seg, write_seg_nrrd
from drawings import as_volume, write
from running import assert_refused, run_here

from common.files import write_json
from common.volumes.grids import Geometry, image_at

SHAPE = (6, 36, 40)
NAMES = ["liver", "tumor"]
SCRIPT = "evaluate.py"


def two_masks(shift=0):
    """Masks of two classes that overlap, (2, k, j, i) bool."""
    masks = np.zeros((2, *SHAPE), bool)
    masks[0, 1:5, 6:30, 5 + shift : 30 + shift], masks[1, 2:4, 10:33, 20 : 36 - shift] = True, True
    return masks


def write_labels(folder, kind, masks, image, series, names=NAMES, name="scan"):
    """Write masks in a format; a folder for each file of DICOM, so that names say nothing."""
    grid = Geometry.of(image)
    arrays = [mask.astype(np.uint8) for mask in masks]
    if kind == "SEG":
        write_seg(folder / "x1.dcm", series, np.stack(arrays, -1), list(names))
    elif kind == "SEG files":
        for number, (array, of_class) in enumerate(zip(arrays, names, strict=True)):
            write_seg(folder / f"x{number}.dcm", series, array[..., None], [of_class])
    elif kind == "RTSTRUCT":
        rois = [
            (9 - n, of_class, _outlines(mask, grid), "CLOSED_PLANAR")
            for n, (mask, of_class) in enumerate(zip(masks, names, strict=True))
        ]
        write_rtstruct(folder / "x2.dcm", series, rois)
    elif kind == "seg.nrrd":
        write_seg_nrrd(
            folder / f"{name}.seg.nrrd", arrays, grid, [(of_class, 1, n) for n, of_class in enumerate(names)]
        )
    else:
        for array, of_class in zip(arrays, names, strict=True):
            write(folder, f"{name}_{of_class}.nii.gz", image_at(array, grid))


def _outlines(mask, grid):
    """Corners of a box of voxels in each slice, halfway between voxels, in mm."""
    found = []
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        rows, columns = (np.flatnonzero(mask[k].any(axis=axis)) for axis in (1, 0))
        (top, bottom), (left, right) = ((line[0] - 0.5, line[-1] + 0.5) for line in (rows, columns))
        found.append(grid.to_points([(left, top, k), (right, top, k), (right, bottom, k), (left, bottom, k)]))
    return found


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A series with axes of its own, in a folder of its own, and its image as it is stored."""
    root = tmp_path_factory.mktemp("scans")
    draw_series(root / "scan")
    return root, sitk.ReadImage([str(path) for path in sorted((root / "scan").iterdir())])


def dice_of(folder):
    return pd.read_csv(folder / "cases.csv").set_index("class")["dice"]


def true_dice(truth, predicted):
    return [2 * (t & p).sum() / (t.sum() + p.sum()) for t, p in zip(truth, predicted, strict=True)]


KINDS = ["SEG", "SEG files", "RTSTRUCT", "seg.nrrd", "files"]


@pytest.mark.parametrize(("kind", "other"), [*zip(KINDS, KINDS[1:] + KINDS[:1], strict=True), ("SEG", "SEG")])
def test_overlapping_classes_are_scored_exactly(tmp_path, scan, kind, other):
    root, image = scan
    series, truth, predicted = sources(root / "scan"), two_masks(), two_masks(shift=3)
    assert (truth[0] & truth[1]).any() and (predicted[0] & predicted[1]).any()
    write_labels(tmp_path / "truth", kind, truth, image, series)
    write_labels(tmp_path / "predicted", other, predicted[::-1], image, series, NAMES[::-1])
    given = {"PREDICTED": tmp_path / "predicted", "TRUTH": tmp_path / "truth", "IMAGES": root, "CLASSES": NAMES}
    given |= {"LABEL_NAME": "{id}_{class}"} if "files" in (kind, other) else {}
    said = run_here(SCRIPT, OUTPUT=tmp_path / "scores", **given).stdout
    assert "TRUTH: classes: 1 liver (in 1 of 1), 2 tumor (in 1 of 1)" in said
    np.testing.assert_allclose(dice_of(tmp_path / "scores"), true_dice(truth, predicted), rtol=1e-12)
    assert (tmp_path / "scores" / "worst.png").is_file()
    table = pd.read_csv(tmp_path / "scores" / "scores.csv")
    assert table["hausdorff"].notna().all() and "mm" in (tmp_path / "scores" / "report.html").read_text()
    said = run_here(SCRIPT, OUTPUT=tmp_path / "turned", **given | {"CLASSES": NAMES[::-1]}).stdout
    np.testing.assert_array_equal(dice_of(tmp_path / "turned")[::-1], dice_of(tmp_path / "scores"))


@pytest.mark.parametrize("kind", KINDS)
def test_named_segments_against_predict_py(tmp_path, scan, kind):
    """Label volumes of exclusive classes, with the names that predict.py recorded, and without; one scan each."""
    root, image = scan
    masks = two_masks()
    masks[0, ..., 20:] = False
    write_labels(tmp_path / "truth", kind, masks, image, sources(root / "scan"))
    numbers = image_at((2 * masks[0] + masks[1]).astype(np.uint8), Geometry.of(image))
    write(tmp_path / "predicted", "scan.nii.gz", numbers)
    given = {"PREDICTED": tmp_path / "predicted", "TRUTH": tmp_path / "truth", "IMAGES": root}
    given |= {"LABEL_NAME": "{id}_{class}"} if kind == "files" else {}
    write_json(tmp_path / "predicted" / "prediction.json", {"class_names": NAMES[::-1]})
    run_here(SCRIPT, OUTPUT=tmp_path / "scores", **given)
    assert dice_of(tmp_path / "scores").tolist() == [1, 1]
    write_json(tmp_path / "predicted" / "prediction.json", {"class_names": ["class 1", "class 2"]})
    run_here(SCRIPT, OUTPUT=tmp_path / "named", **given | {"CLASSES": NAMES[::-1]})
    assert dice_of(tmp_path / "named").tolist() == [1, 1]
    run_here(SCRIPT, OUTPUT=tmp_path / "wrong", **given | {"CLASSES": NAMES})
    assert (dice_of(tmp_path / "wrong") < 1).all()


def test_one_class_on_each_side_may_have_two_names(tmp_path, scan):
    root, image = scan
    truth, predicted = two_masks()[:1], two_masks(shift=2)[:1]
    write_labels(tmp_path / "truth", "RTSTRUCT", truth, image, sources(root / "scan"), ["GTV"])
    write_labels(tmp_path / "predicted", "SEG", predicted, image, sources(root / "scan"), ["tumor"])
    given = {"PREDICTED": tmp_path / "predicted" / "x1.dcm", "TRUTH": tmp_path / "truth" / "x2.dcm", "IMAGES": root}
    said = run_here(SCRIPT, OUTPUT=tmp_path / "scores", **given).stdout
    assert "PREDICTED: classes: 1 tumor" in said and "TRUTH: classes: 1 GTV" in said
    np.testing.assert_allclose(dice_of(tmp_path / "scores"), true_dice(truth, predicted))


def test_an_export_of_a_pacs_needs_no_images(tmp_path, scan):
    """TRUTH contains the series and their RTSTRUCT, PREDICTED the DICOM SEG, a file for each class."""
    for name in ("b", "a"):
        image = draw_series(tmp_path / "pacs" / name / "ct", series=f"1.2.3.{ord(name)}")
        series = sources(tmp_path / "pacs" / name / "ct")
        write_labels(tmp_path / "pacs" / name / "rt", "RTSTRUCT", two_masks(), image, series)
        write_labels(tmp_path / "predicted" / name, "SEG files", two_masks(shift=ord(name) - 96), image, series)
        for file in (tmp_path / "predicted" / name).iterdir():
            file.rename(tmp_path / "predicted" / f"{name}{file.name}")
        (tmp_path / "predicted" / name).rmdir()
    given = {"PREDICTED": tmp_path / "predicted", "TRUTH": tmp_path / "pacs", "CLASSES": NAMES}
    run_here(SCRIPT, OUTPUT=tmp_path / "scores", **given)
    table = pd.read_csv(tmp_path / "scores" / "cases.csv", dtype={"case": str}).set_index(["case", "class"])["dice"]
    for case, shift in (("0001", 1), ("0002", 2)):  # numbers, since the names of folders may identify patients
        np.testing.assert_allclose(table[case], true_dice(two_masks(), two_masks(shift=shift)))


@pytest.mark.parametrize("names", [NAMES, ["class 1", "class 2"]])
def test_overlapping_predictions_of_predict_py(tmp_path, scan, names):
    """A label volume for each class, with a volume of numbers where none overlap, against all formats and numbers."""
    _, image = scan
    truth, predicted = two_masks(), two_masks(shift=4)
    write_labels(tmp_path / "out", "files", predicted, image, None, names, name="case_scan")
    write(tmp_path / "out", "case_scan.nii.gz", image_at(np.full(SHAPE, 7, np.uint8), Geometry.of(image)))
    write_json(tmp_path / "out" / "prediction.json", {"overlap": "overlapping", "class_names": names})
    given = {"PREDICTED": tmp_path / "out", "CLASSES": NAMES}
    for kind in ("seg.nrrd", "files"):
        write_labels(tmp_path / kind, kind, truth, image, None)
        pattern = "{id}_{class}" if kind == "files" else "{id}"
        run_here(SCRIPT, OUTPUT=tmp_path / f"of {kind}", TRUTH=tmp_path / kind, LABEL_NAME=pattern, **given)
        np.testing.assert_allclose(dice_of(tmp_path / f"of {kind}"), true_dice(truth, predicted))
    write(
        tmp_path / "numbers", "scan.nii.gz", image_at((truth[0] * (1 + truth[1])).astype(np.uint8), Geometry.of(image))
    )
    run_here(SCRIPT, OUTPUT=tmp_path / "of numbers", TRUTH=tmp_path / "numbers", PREDICTED=tmp_path / "out")
    exclusive = np.stack([truth[0] & ~truth[1], truth[0] & truth[1]])
    np.testing.assert_allclose(dice_of(tmp_path / "of numbers"), true_dice(exclusive, predicted))


def test_classes_that_are_nested_against_segments(tmp_path, scan):
    root, image = scan
    masks = two_masks()
    masks[1] &= masks[0]
    write_labels(tmp_path / "truth", "SEG", masks, image, sources(root / "scan"))
    write(tmp_path / "predicted", "scan.nii.gz", image_at(masks.sum(0).astype(np.uint8), Geometry.of(image)))
    write_json(tmp_path / "predicted" / "prediction.json", {"overlap": "nested", "class_names": NAMES})
    given = {"PREDICTED": tmp_path / "predicted", "TRUTH": tmp_path / "truth", "IMAGES": root}
    run_here(SCRIPT, OUTPUT=tmp_path / "scores", **given)
    assert dice_of(tmp_path / "scores").tolist() == [1, 1]


def test_what_is_refused(tmp_path, scan):
    root, image = scan
    series, masks = sources(root / "scan"), two_masks()
    write_labels(tmp_path / "truth", "SEG", masks, image, series)
    write_labels(tmp_path / "rt", "RTSTRUCT", masks, image, series)
    write_labels(tmp_path / "other", "SEG", masks, image, series, ["kidney", "cyst"])
    given = {"PREDICTED": tmp_path / "rt", "TRUTH": tmp_path / "truth", "IMAGES": root, "OUTPUT": tmp_path / "no"}

    def refused(*words, status=1, **changed):
        assert len(assert_refused(SCRIPT, *words, status=status, **given | changed).splitlines()) == 1

    named = {"PREDICTED": tmp_path / "rt" / "x2.dcm", "TRUTH": tmp_path / "truth" / "x1.dcm", "IMAGES": ""}
    refused("x2.dcm: the series that it refers to was not found; set IMAGES", **named)
    words = "CLASSES: no segment 'spleen' in the label files (found liver, tumor); use their names"
    refused(words, status=2, CLASSES=["liver", "spleen"])
    words = "no segment has the name of one in TRUTH (found tumor, liver; expected kidney, cyst)"
    refused(words, TRUTH=tmp_path / "other")
    write(tmp_path / "numbers", "scan.nii.gz", as_volume(np.ones(SHAPE, np.uint8)))
    write_json(tmp_path / "numbers" / "prediction.json", {"class_names": NAMES})
    words = "TRUTH: no segment has the name of a class (found kidney, cyst; expected liver, tumor)"
    refused(words, TRUTH=tmp_path / "other", PREDICTED=tmp_path / "numbers")
    data = (tmp_path / "truth" / "x1.dcm").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "x1.dcm").write_bytes(data[: len(data) // 2])
    refused("x1.dcm: cut short", TRUTH=tmp_path / "cut")
    shutil.copy(tmp_path / "truth" / "x1.dcm", tmp_path / "truth" / "x0.dcm")
    refused("2 files of one volume contain segment 'liver' (x0.dcm, x1.dcm); keep one of them")
    own = {"IMAGES": "", "LABEL_NAME": "{id}_{class}", "CLASSES": NAMES}
    for name, shape in (("masks", SHAPE), ("small", (5, 36, 40))):
        for part, of_class in zip(masks, NAMES, strict=True):
            write(tmp_path / name, f"scan_{of_class}.nii.gz", as_volume(part[: shape[0]].astype(np.uint8) * 3))
    refused("size differs from", **own | {"PREDICTED": tmp_path / "small", "TRUTH": tmp_path / "masks"})
    write(tmp_path / "small", "scan_tumor.nii.gz", as_volume(masks[1].astype(np.uint8)))
    refused(
        "scan_tumor.nii.gz: not on the grid of", **own | {"PREDICTED": tmp_path / "masks", "TRUTH": tmp_path / "small"}
    )
    write(tmp_path / "small", "scan_tumor.nii.gz", as_volume(np.arange(5 * 36 * 40, dtype=np.int16).reshape(5, 36, 40)))
    refused(
        "expected 0 and one value, of class tumor",
        **own | {"PREDICTED": tmp_path / "masks", "TRUTH": tmp_path / "small"},
    )
    assert not (tmp_path / "no").exists()


# --- damaged files


def to_first(change):
    """Damage of a folder: a function of the Path of its first file."""
    return lambda folder: change(min(folder.iterdir()))


def cut(share):
    return to_first(lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)]))


def in_dicom(change):
    def damage(path):
        content = pydicom.dcmread(path)
        change(content)
        content.save_as(path)

    return to_first(damage)


def in_volume(change):
    return to_first(lambda path: sitk.WriteImage(change(sitk.ReadImage(str(path))), str(path)))


def in_slicer(change):
    def damage(path):
        array, header = nrrd.read(str(path))
        nrrd.write(str(path), array, change(header))

    return to_first(damage)


def elsewhere(image):
    image.SetOrigin((5000.0, 0.0, 0.0))
    return image


def shift_frames(content):
    for frame in content.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [float(mm) + 500 for mm in place.ImagePositionPatient]


def shift_contours(content):
    for contour in (contour for roi in content.ROIContourSequence for contour in roi.ContourSequence):
        contour.ContourData = [float(mm) + 900 for mm in contour.ContourData]


def of_foreign_series(kind):
    """The labels refer to another series of the same patient."""

    def damage(folder):
        image = draw_series(folder.parent / "foreign", series="1.2.3.77")
        shutil.rmtree(folder)
        write_labels(folder, kind, two_masks(), image, sources(folder.parent / "foreign"))

    return damage


GEOMETRY = "position or spacing differs from"
DAMAGED = {
    "SEG": {
        "cut short; copy it again": cut(0.5),
        "bytes of pixels, expected 1080": cut(0.98),
        "x1.dcm: the series that it refers to was not found in": of_foreign_series("SEG"),
        "DICOM SEG without segments": in_dicom(lambda content: setattr(content, "SegmentSequence", [])),
        "6 of 6 frames are outside of the series": in_dicom(shift_frames),
        "x1.dcm: no": to_first(lambda path: path.write_bytes(b"no DICOM")),
    },
    "RTSTRUCT": {
        "cut short; copy it again": cut(0.5),
        "x2.dcm: the series that it refers to was not found in": of_foreign_series("RTSTRUCT"),
        "RTSTRUCT without closed contours": in_dicom(lambda content: setattr(content, "ROIContourSequence", [])),
        "a contour is outside of the series": in_dicom(shift_contours),
    },
    "seg.nrrd": {
        "copy it again or restore it": cut(0.95),
        "damaged header (it has no end)": cut(0.3),
        "expected a 3-D volume with one channel": in_slicer(
            lambda header: {k: header[k] for k in header if k[0] != "S"}
        ),
        "segment 0 is invalid (LabelValue x, Layer 0)": in_slicer(lambda header: header | {"Segment0_LabelValue": "x"}),
        "all labels are outside their volume": in_slicer(lambda header: header | {"space origin": [5000, 0, 0]}),
    },
    "files": {
        "damaged or cut short (wrong check sum)": cut(0.95),
        "all labels are outside their volume": in_volume(elsewhere),
        "expected 0 and one value, of class liver": in_volume(lambda image: sitk.Cast(image, sitk.sitkFloat32) + 0.5),
    },
    "numbers": {
        "damaged or cut short (wrong check sum)": cut(0.95),
        "size differs from": in_volume(lambda image: image[:, :30, :]),
        GEOMETRY: in_volume(elsewhere),
        "invalid labels (values from -3 to -1)": in_volume(lambda image: sitk.Cast(image, sitk.sitkInt16) - 3),
    },
}


@pytest.mark.parametrize("side", ["predicted", "truth"])
@pytest.mark.parametrize(("kind", "words"), [(kind, words) for kind, kinds in DAMAGED.items() for words in kinds])
def test_damaged_label_files_on_either_side(tmp_path, scan, kind, words, side):
    """One line, of the damaged file unless both sides could be wrong, and no OUTPUT."""
    root, image = scan
    for folder in (tmp_path / "predicted", tmp_path / "truth"):
        if kind == "numbers":
            masks = two_masks()
            write(folder, "scan.nii.gz", image_at((masks[0] * (1 + masks[1])).astype(np.uint8), Geometry.of(image)))
        else:
            write_labels(folder, kind, two_masks(), image, sources(root / "scan"))
    DAMAGED[kind][words](tmp_path / side)
    given = {"PREDICTED": tmp_path / "predicted", "TRUTH": tmp_path / "truth", "IMAGES": root}
    given |= {"LABEL_NAME": "{id}_{class}", "CLASSES": NAMES} if kind == "files" else {}
    said = assert_refused(SCRIPT, words, OUTPUT=tmp_path / "scores", **given)
    assert len(said.splitlines()) == 1 and not (tmp_path / "scores").exists()
    if words not in ("x1.dcm: no", "size differs from", GEOMETRY):
        assert str(tmp_path / side) in said


@pytest.mark.parametrize("kind", ["seg.nrrd", "files"])
def test_too_many_classes_that_overlap(tmp_path, scan, kind):
    """Sixteen: one line, and CLASSES chooses some; if none overlap, all are scored."""
    _, image = scan
    names = [f"organ{number:02d}" for number in range(16)]
    apart = np.zeros((16, *SHAPE), bool)
    for number in range(16):
        apart[number, 1:5, 2 * number : 2 * number + 2] = True
    for folder, masks in {"apart": apart, "both": apart | np.roll(apart, 1, axis=2)}.items():
        write_labels(tmp_path / folder, kind, masks, image, None, names)
    given = {"PREDICTED": tmp_path / "apart", "TRUTH": tmp_path / "both", "OUTPUT": tmp_path / "scores"}
    given |= {"LABEL_NAME": "{id}_{class}", "CLASSES": names} if kind == "files" else {}
    words = "overlapping segments of 16 classes (at most 15); choose some with CLASSES"
    assert len(assert_refused(SCRIPT, words, **given).splitlines()) == 1
    assert not (tmp_path / "scores").exists()
    chosen = given | {"CLASSES": names[1:], "UNMATCHED": "skip"}
    run_here(SCRIPT, **chosen)
    np.testing.assert_allclose(dice_of(tmp_path / "scores"), [0.8] * 15, rtol=1e-12)
    run_here(SCRIPT, **given | {"TRUTH": tmp_path / "apart", "OUTPUT": tmp_path / "same"})
    assert dice_of(tmp_path / "same").tolist() == [1] * 16


def test_names_of_classes_that_one_side_or_both_lack(tmp_path, scan):
    root, image = scan
    three = [*NAMES, "cyst"]
    masks = np.stack([*two_masks(), np.roll(two_masks()[0], 2, axis=1)])
    write_labels(tmp_path / "truth", "seg.nrrd", masks, image, None, three)
    write_labels(tmp_path / "predicted", "SEG", masks[:2], image, sources(root / "scan"))
    given = {"PREDICTED": tmp_path / "predicted", "TRUTH": tmp_path / "truth", "IMAGES": root}
    said = run_here(SCRIPT, OUTPUT=tmp_path / "scores", CLASSES=three, **given).stdout
    assert "note: PREDICTED has no cyst; scored as empty there" in said and "note: TRUTH" not in said
    assert dice_of(tmp_path / "scores").tolist() == [1, 1, 0]
    said = run_here(SCRIPT, OUTPUT=tmp_path / "two", CLASSES=NAMES, **given).stdout
    assert "note:" not in said and dice_of(tmp_path / "two").tolist() == [1, 1]

    def refused(words, **changed):
        given_now = given | {"OUTPUT": tmp_path / "no"} | changed
        assert len(assert_refused(SCRIPT, words, status=2, **given_now).splitlines()) == 1

    misspelled = "CLASSES: no segment 'tumour' in the label files (found liver, tumor, cyst); use their names"
    refused(misspelled, CLASSES=["liver", "tumour"])
    write(tmp_path / "numbers", "scan.nii.gz", image_at(masks[0].astype(np.uint8) * 3, Geometry.of(image)))
    refused(misspelled, CLASSES=["liver", "tumour", "cyst"], PREDICTED=tmp_path / "numbers")
    words = "CLASSES: no names in the label files (found numbers only); remove it"
    refused(words, CLASSES=NAMES, PREDICTED=tmp_path / "numbers", TRUTH=tmp_path / "numbers")
    # a class that no case of TRUTH has, and predictions without names
    classes = ["spleen", *three]
    said = run_here(SCRIPT, OUTPUT=tmp_path / "rare", CLASSES=classes, **given | {"PREDICTED": tmp_path / "numbers"})
    assert "note: TRUTH has no spleen; scored as empty there" in said.stdout
