"""Every kind of file that the toolkit reads, the script that reads it, and good files of that kind."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import h5py
import numpy as np
import SimpleITK as sitk
from dicom_labels import draw_series, sources, write_rtstruct, write_seg, write_seg_nrrd
from drawings import SHAPE, as_volume, block, disc_slice, make_cases, write_image, write_nnunet
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from running import run_here, run_script

from common.settings import Settings
from common.slices.hdf5_text import text_of
from common.training.trained_models import CrossValidation
from common.tuning.study import open_study
from common.volumes.grids import Geometry


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        good: function of this module that fills a folder with good files, by the fixtures that `get` finds by name.
        script: the script that reads it.
        flags: its flags; "@" is the folder.
        file: the file to damage, in the folder.
        damage: name of a list of `faults.damage`.
        writes: beginnings of paths that the script may change.
        intact: whether the script, if it accepts a damaged file, must write the same as for the good one.
        keras: whether the script needs Keras.
        share: share of the trials to run; below 1 for slow scripts.
        status: exit status for the good files.
    """

    good: object
    script: str
    flags: str
    file: str
    damage: str
    writes: tuple = ("out",)
    intact: bool = False
    keras: bool = False
    share: float = 1
    status: int = 0


ANNOTATION_FILES = Path(__file__).parents[1] / "annotations" / "files"
SHARES = {"VALIDATION_SHARE": 0.34, "TEST_SHARE": 0.34}

# --- good files


def pictures(folder, get):
    rng = np.random.default_rng(0)
    for number, suffix in enumerate((".png", ".jpg", ".tif", ".bmp"), 1):
        image, mask = disc_slice(24, number)
        write_image(folder / suffix[1:] / "x" / f"a{suffix}", image)
        write_image(folder / suffix[1:] / "y" / f"a{'.png' if suffix == '.jpg' else suffix}", mask)
    gray = rng.integers(0, 2**16, (24, 24)).astype(np.uint16)
    write_image(folder / "png16" / "x" / "a.png", gray)
    write_image(folder / "png16" / "y" / "a.png", mask)
    write_image(folder / "rgb" / "x" / "a.png", np.dstack([image, image, image]))
    write_image(folder / "rgb" / "y" / "a.png", mask)
    for name, scheme in (("lzw", 5), ("deflate", 8), ("raw", 1)):
        (folder / name / "x").mkdir(parents=True)
        cv2.imwrite(str(folder / name / "x" / "a.tif"), image, [cv2.IMWRITE_TIFF_COMPRESSION, scheme])
        write_image(folder / name / "y" / "a.png", mask)


def matrices(folder, get):
    for side in ("x", "y"):
        (folder / side).mkdir()
        for number in (1, 2):
            image, mask = disc_slice(24, number)
            np.savetxt(folder / side / f"s{number}.csv", image if side == "x" else mask // 255, fmt="%d", delimiter=",")
            np.save(folder / f"{side}.npy", image if side == "x" else mask)


def annotated(folder, get):
    """Images, and annotations of one of them in each format."""
    for number in (1, 2):
        write_image(folder / "images" / f"slice{number}.png", np.full((40, 60), 50 * number, np.uint8))
    for file in ANNOTATION_FILES.glob("[!R]*"):
        (folder / file.name).mkdir()
        shutil.copy(file, folder / file.name / file.name)


def imported(folder, get):
    """Images, and case folders made from them."""
    for case in (1, 2, 3):
        for number in (1, 2):
            image, mask = disc_slice(24, 10 * case + number)
            write_image(folder / "images" / f"case{case}" / f"{number}.png", image)
            write_image(folder / "masks" / f"case{case}" / f"{number}.png", mask)
    places = {"IMAGES": folder / "images", "MASKS": folder / "masks", "CASES": folder / "cases"}
    run_here("preprocess/0_import_images.py", SIZE=24, **places)


def cases(folder, get):
    """Case folders with variants, and lists."""
    imported(folder, get)
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "masks")
    run_here("preprocess/1_augment_cases.py", CASES=folder / "cases", FILTERS=["O", "D"], SHAPES=["", "RTP"])
    run_here("preprocess/2_write_lists.py", CASES=folder / "cases", LISTS=folder / "lists", **SHARES)


def copied(folder, get):
    """Case folders, and lists with copies of the files."""
    imported(folder, get)
    run_here(
        "preprocess/2_write_lists.py", CASES=folder / "cases", LISTS=folder / "out", COPY_TO=folder / "copies", **SHARES
    )


def evaluated(folder, get):
    """Masks, their prediction by themselves, and an evaluation of it."""
    make_cases(folder / "cases", cases=2, slices=2, size=24)
    for case in ("case01", "case02"):
        shutil.copytree(folder / "cases" / case / "y", folder / "predicted" / case)
    places = {"PREDICTED": folder / "predicted", "TRUTH": folder / "cases"}
    run_here("evaluate.py", OUTPUT=folder / "other", **places)
    shutil.copytree(folder / "other", folder / "old")


def volumes(folder, get):
    """Volumes and labels in every format, as a data set of the Decathlon and as nodules."""
    values, labels = block()
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"):
        name = suffix[1:].replace(".", "_")
        for side, array in (("x", values), ("y", labels)):
            (folder / name / side).mkdir(parents=True)
            compressed = suffix in (".nii.gz", ".mha")
            sitk.WriteImage(as_volume(array), str(folder / name / side / f"v{suffix}"), useCompression=compressed)
    for side, array in (("imagesTr", values), ("labelsTr", labels)):
        (folder / "task" / side).mkdir(parents=True)
        for number in (1, 2, 3):
            sitk.WriteImage(as_volume(array, np.eye(3)), str(folder / "task" / side / f"v{number}.nii.gz"))
    names = [f"v{number}.nii.gz" for number in (1, 2, 3)]
    training = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    about = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}, "training": training}
    (folder / "task" / "dataset.json").write_text(json.dumps(about))
    rows = "\n".join(f"v,{x},{y},{z},6.5" for x, y, z in (image_point(4), image_point(6)))
    (folder / "nodules.csv").write_text(f"seriesuid,coordX,coordY,coordZ,diameter_mm\n{rows}\n")


def numbered(folder, get):
    """Predictions under numbers, with the table of numbers and names."""
    volumes(folder, get)
    (folder / "predicted").mkdir()
    shutil.copy(folder / "nii" / "y" / "v.nii", folder / "predicted" / "case_0001.nii")
    (folder / "predicted.csv").write_text((folder / "nodules.csv").read_text().replace("v,", "0001,"))
    (folder / "names.csv").write_text(f"case,name,source\ncase_0001,v,{folder / 'nii' / 'x' / 'v.nii'}\n")


def image_point(k):
    image = as_volume(np.zeros(SHAPE, np.int16))
    return image.TransformIndexToPhysicalPoint((9, 11, k))


def dicom(folder, get):
    (folder / "x" / "scan").mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    values, _ = block((4, 16, 16))
    for k, values_of_slice in enumerate(values):
        image = sitk.GetImageFromArray(values_of_slice)
        image.SetSpacing((0.7, 0.7))
        about = {
            "0008|0060": "CT",
            "0020|000d": "1.2.3.4",
            "0020|000e": "1.2.3.4.5",
            "0008|0018": f"1.2.3.4.5.{k}",
            "0020|0032": f"-10\\-20\\{2.5 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k + 1),
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for tag, text in about.items():
            image.SetMetaData(tag, text)
        writer.SetFileName(str(folder / "x" / "scan" / f"{k}.dcm"))
        writer.Execute(image)


def segmented(folder, get):
    """A DICOM series with labels in three formats, and a data set of nnU-Net."""
    image = draw_series(folder / "x" / "scan", (4, 16, 16), np.eye(3))
    masks = np.zeros((4, 16, 16, 2), np.uint8)
    masks[1:3, 4:12, 4:9, 0] = masks[2:, 6:10, 6:14, 1] = 1
    slices, grid = sources(folder / "x" / "scan"), Geometry.of(image)
    write_seg(folder / "seg" / "s.dcm", slices, masks)
    points = grid.to_points([(3, 4, 1), (12, 5, 1), (8, 13, 1)])
    write_rtstruct(folder / "rt" / "r.dcm", slices, [(1, "liver", [points, points + 0.5], "CLOSED_PLANAR")])
    segments = [("liver", 1, 0), ("tumor", 1, 1)]
    write_seg_nrrd(folder / "slicer" / "scan.seg.nrrd", [masks[..., 0], masks[..., 1]], grid, segments)
    write_nnunet(folder / "Dataset001_A", cases=1, channels=["CT"])


def outlined(folder, get):
    """A DICOM series, and a ROI on one of its slices."""
    dicom(folder, get)
    roi = {"Name": "liver", "Type": 11, "Point_px": [[2, 3], [12, 4], [8, 14]]}
    image = {"ImageIndex": 1, "SOPInstanceUID": "1.2.3.4.5.1", "ROIs": [roi]}
    (folder / "scan.json").write_text(json.dumps({"Images": [image]}))


def surface(folder, get):
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=1, radius=20)
    for suffix in ("stl", "obj", "ply"):
        ball.export(folder / f"s.{suffix}")
    trimesh.creation.icosphere(subdivisions=1, radius=10).export(folder / "small.stl")
    centered = as_volume(np.zeros((12, 20, 20), np.int16), np.eye(3), (2.5, 2.5, 4), (-24, -24, -24))
    sitk.WriteImage(centered, str(folder / "v.nii.gz"))


def sets(folder, get):
    """Packed sets: contiguous, compressed, in shards, with text as before, of AIS, and volumes; and lists."""
    packed = get("packed")
    shutil.copytree(packed["packed"], folder / "packed")
    shutil.copytree(packed["lists"], folder / "lists")
    shutil.copytree(packed["cases"], folder / "cases")
    places = {"LISTS": folder / "lists", "PACKED": folder / "gzip"}
    run_here("preprocess/3_pack_hdf5.py", COMPRESSION="gzip", **places)
    run_here("preprocess/3_pack_hdf5.py", SHARD_GB=1e-6, **(places | {"PACKED": folder / "sharded"}))
    with h5py.File(folder / "packed" / "train.h5") as file, h5py.File(folder / "earlier.h5", "w") as earlier:
        for name, rows in file.items():
            earlier.create_dataset(name, data=rows[:], dtype=h5py.string_dtype() if rows.ndim == 1 else rows.dtype)
        earlier.attrs.update({name: text_of(value) for name, value in file.attrs.items()})
    with h5py.File(folder / "packed" / "train.h5") as file, h5py.File(folder / "ais.h5", "w") as ais:
        for side in "XY":
            ais[f"heart_{side}"] = file[side.lower()][:]
    volumes(folder, get)
    run_here("preprocess/3_pack_volumes.py", DATA=folder / "task", PACKED=folder / "volumes", SMALLEST_BOX=12)


def run(folder, get):
    """A run folder, its data, images, and a cross-validation of two such runs with a choice."""
    trained, _ = get("trained")
    shutil.copytree(trained, folder / "run")
    for name in ("code", "tensorboard"):
        shutil.rmtree(folder / "run" / name, ignore_errors=True)
    packed = get("packed")
    shutil.copytree(packed["packed"], folder / "packed")
    shutil.copytree(packed["cases"] / "case01" / "x", folder / "images")
    for number in (1, 2):
        shutil.copytree(folder / "run", folder / "cv" / f"fold{number}")
    shutil.copy(trained / "settings.json", folder / "cv" / "cross_validation.json")
    CrossValidation(folder / "cv").write_choice([(folder / "cv", "best_dice")], "flips", {"share": 0.1})


def listed_run(folder, get):
    """A run folder, case folders and lists."""
    cases(folder, get)  # first, since it removes its images
    run(folder, get)


def scanned(folder, get):
    """A run folder, and volumes to predict."""
    run(folder, get)
    (folder / "scans").mkdir()
    for name in ("a", "b"):
        sitk.WriteImage(as_volume(block()[0], np.eye(3)), str(folder / "scans" / f"{name}.nii.gz"))


def models(folder, get):
    """A run folder, Core ML models of it, and a network and a loss of one's own."""
    run(folder, get)
    for ending in ("mlmodel", "mlpackage"):
        run_script("convert_coreml.py", RUN=folder / "run", OUTPUT=folder / f"m.{ending}", FORMAT=ending, CHECKED=1)
    (folder / "own_network.py").write_text(OWN_NETWORK)
    (folder / "own_loss.py").write_text(OWN_LOSS)


def study(folder, get):
    """A search of tune.py that has ended: two complete trials and a failed one."""
    trained, _ = get("trained")
    settings = Settings.of("tune.py", TRAIN="train.h5", VALIDATION="validation.h5", STUDY="study", TRIALS=3)
    opened = open_study(folder / "study", json.loads(json.dumps(settings.as_json())), (), lambda: None, None)
    for number, state in enumerate((TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE)):
        place = f"runs/trial-{number:03d}"
        shutil.copytree(
            trained, folder / "study" / place / trained.name, ignore=shutil.ignore_patterns("code", "*.keras")
        )
        values = {1: 0.3, 2: 0.4 + number / 10}
        opened.add_trial(
            create_trial(
                state=state,
                value=values[2] if state == TrialState.COMPLETE else None,
                params={"model": "unet", "unet depth": 3 + number},
                distributions={
                    "model": CategoricalDistribution(["unet", "deeplab_v3plus"]),
                    "unet depth": IntDistribution(3, 5),
                },
                intermediate_values=values,
                user_attrs={"run": f"{place}/{trained.name}", "minutes": 0.1, "starts": [2, 1]},
            )
        )


OWN_NETWORK = """
import keras


def build_model(input_shape, classes, features=2):
    x = keras.Input(input_shape, name="input")
    y = keras.layers.Conv2D(features, 3, padding="same", activation="relu")(x)
    return keras.Model(x, keras.layers.Conv2D(1, 1, activation="sigmoid", name="output")(y))
"""

OWN_LOSS = """
from keras import ops


def loss(targets, probabilities):
    return ops.mean(ops.abs(targets - probabilities), axis=(1, 2, 3))
"""

# --- kinds

IMPORT = "preprocess/0_import_images.py"
IMAGES = "--images @/{0}/x --masks @/{0}/y --cases @/out --size 16"
ANNOTATE = "preprocess/0_import_annotations.py"
ANNOTATED = "--images @/images --annotations @/{0} --cases @/out --size 16"
VOLUMES = "preprocess/0_import_volumes.py"
FROM_VOLUMES = "--images @/{0}/x --labels @/{0}/y --cases @/out --size 16"
CHECK_CASES = "--cases @/cases --output @/out.html --step False"
LISTS = "--cases @/cases --lists @/out --validation-share 0.34 --test-share 0.34"
EVALUATE = "--predicted @/predicted --truth @/cases --output @/out"
CANDIDATES = "--scans @/mha/x --candidates @/nodules.csv --annotations @/nodules.csv --cases @/out --size 16"
NUMBERED = "--predicted @/{} --truth @/{} --names-table @/names.csv --output @/out"
CASE = "cases/case1/case.json"
SEGMENTED = "--images @/x --labels @/{} --cases @/out --size 16"
READ_SET = "tests/faults/readers/set.py"
READ_RUN = "tests/faults/readers/run.py"
COMPARE = "--runs @/ --output @/out/index.html"
RESUME = "--mode resume --run @/run --epochs 2"
PREDICT = "--run @/run --input @/images --output @/out --no-overlays"
CONVERT = "--run @/run --output @/out.mlmodel --checked 1"
CHECK = "--run @/run --output @/m.{0} --format {0} --check-only --checked 1"
TRAIN = "--train @/packed/train.h5 --validation @/packed/validation.h5 --runs @/out --epochs 1"
TUNE = "--train train.h5 --validation validation.h5 --study study --trials 3"
SLOW = {"keras": True, "share": 0.02}

KINDS = {
    # images
    "png": Kind(pictures, IMPORT, IMAGES.format("png"), "png/x/a.png", "BINARY", intact=True),
    "png, 16 bits": Kind(pictures, IMPORT, IMAGES.format("png16"), "png16/x/a.png", "BINARY", intact=True),
    "png, RGB": Kind(pictures, IMPORT, IMAGES.format("rgb"), "rgb/x/a.png", "BINARY", intact=True),
    "png, mask": Kind(pictures, IMPORT, IMAGES.format("png"), "png/y/a.png", "BINARY", intact=True),
    "jpeg": Kind(pictures, IMPORT, IMAGES.format("jpg"), "jpg/x/a.jpg", "BINARY"),
    "tiff": Kind(pictures, IMPORT, IMAGES.format("raw"), "raw/x/a.tif", "BINARY"),
    "tiff, LZW": Kind(pictures, IMPORT, IMAGES.format("lzw"), "lzw/x/a.tif", "BINARY"),
    "tiff, deflate": Kind(pictures, IMPORT, IMAGES.format("deflate"), "deflate/x/a.tif", "BINARY"),
    "tiff, mask": Kind(pictures, IMPORT, IMAGES.format("tif"), "tif/y/a.tif", "BINARY"),
    "bmp": Kind(pictures, IMPORT, IMAGES.format("bmp"), "bmp/x/a.bmp", "BINARY"),
    "matrix": Kind(
        matrices,
        "preprocess/0_import_matrices.py",
        "--images @/x --masks @/y --cases @/out --size 16",
        "x/s1.csv",
        "TEXT",
    ),
    "matrix, mask": Kind(
        matrices,
        "preprocess/0_import_matrices.py",
        "--images @/x --masks @/y --cases @/out --size 16",
        "y/s1.csv",
        "TEXT",
    ),
    "array": Kind(
        matrices,
        "preprocess/0_import_matrices.py",
        "--images @/x.npy --masks @/y.npy --cases @/out --size 16",
        "x.npy",
        "BINARY",
    ),
    "labelme": Kind(annotated, ANNOTATE, ANNOTATED.format("labelme.json"), "labelme.json/labelme.json", "JSON"),
    "coco": Kind(annotated, ANNOTATE, ANNOTATED.format("coco.json"), "coco.json/coco.json", "JSON"),
    "cvat": Kind(annotated, ANNOTATE, ANNOTATED.format("cvat.xml"), "cvat.xml/cvat.xml", "TEXT"),
    "imagej": Kind(annotated, ANNOTATE, ANNOTATED.format("slice1.roi"), "slice1.roi/slice1.roi", "BINARY"),
    "imagej, set": Kind(
        annotated, ANNOTATE, ANNOTATED.format("slice1_RoiSet.zip"), "slice1_RoiSet.zip/slice1_RoiSet.zip", "BINARY"
    ),
    "osirix, xml": Kind(annotated, ANNOTATE, ANNOTATED.format("slice1.xml"), "slice1.xml/slice1.xml", "TEXT"),
    "osirix, csv": Kind(annotated, ANNOTATE, ANNOTATED.format("slice1.csv"), "slice1.csv/slice1.csv", "TEXT"),
    "osirix, dicom": Kind(
        outlined, ANNOTATE, "--images @/x --annotations @/scan.json --cases @/out --size 16", "x/scan/2.dcm", "DICOM"
    ),
    # cases and lists
    "slice of a case": Kind(
        cases, "preprocess/2_write_lists.py", LISTS, "cases/case1/x/0001.png", "BINARY", intact=True
    ),
    "slice, augmented": Kind(
        cases,
        "preprocess/1_augment_cases.py",
        "--cases @/cases --filters ['C'] --shapes ['','RTP']",
        "cases/case1/x/0001.png",
        "BINARY",
        writes=("cases/case",),
    ),
    "slice, packed": Kind(
        cases,
        "preprocess/3_pack_hdf5.py",
        "--lists @/lists --packed @/out",
        "cases/case1/y/0001.png",
        "BINARY",
        intact=True,
    ),
    "slice, check": Kind(cases, "check.py", CHECK_CASES, "cases/case1/x/0001.png", "BINARY", share=0.25),
    "mask, check": Kind(cases, "check.py", CHECK_CASES, "cases/case1/y/0001.png", "BINARY", share=0.25),
    "case.json, check": Kind(cases, "check.py", CHECK_CASES, CASE, "JSON", share=0.25),
    "case.json, lists": Kind(cases, "preprocess/2_write_lists.py", LISTS, CASE, "JSON"),
    "case.json, packed": Kind(cases, "preprocess/3_pack_hdf5.py", "--lists @/lists --packed @/out", CASE, "JSON"),
    "case.json, scored": Kind(
        cases, "evaluate.py", "--predicted @/cases --truth @/cases --output @/out", CASE, "JSON", share=0.5
    ),
    "case.json, imported again": Kind(
        imported,
        IMPORT,
        "--images @/images --masks @/masks --cases @/cases --size 24 --replace",
        CASE,
        "JSON",
        writes=("cases/case",),
    ),
    "augmented.json": Kind(
        cases,
        "preprocess/1_augment_cases.py",
        "--cases @/cases --filters ['D'] --shapes ['']",
        "cases/case1/augmented.json",
        "JSON",
        writes=tuple(f"cases/case{k}/{name}" for k in (1, 2, 3) for name in ("x_", "y_", "augmented.json")),
    ),
    "list, packed": Kind(
        cases, "preprocess/3_pack_hdf5.py", "--lists @/lists --packed @/out", "lists/train.csv", "TEXT"
    ),
    "list, scored": Kind(
        cases,
        "evaluate.py",
        "--predicted @/lists/test.csv --truth @/lists/test.csv --output @/out",
        "lists/test.csv",
        "TEXT",
    ),
    "manifest of copies": Kind(
        copied,
        "preprocess/2_write_lists.py",
        LISTS + " --copy-to @/copies --replace",
        "copies/.made_files.json",
        "JSON",
        writes=("out", "copies"),
    ),
    # scores
    "mask, scored": Kind(evaluated, "evaluate.py", EVALUATE, "predicted/case01/0001.png", "BINARY", share=0.5),
    "mask, run lengths": Kind(
        evaluated, "submission.py", "--predicted @/predicted --output @/out.csv", "predicted/case01/0001.png", "BINARY"
    ),
    "cases.csv of --against": Kind(
        evaluated, "evaluate.py", EVALUATE + " --against @/other", "other/cases.csv", "TEXT"
    ),
    "evaluation.json": Kind(
        evaluated,
        "evaluate.py",
        "--predicted @/predicted --truth @/cases --output @/old --replace --worst 0",
        "old/evaluation.json",
        "JSON",
        writes=("old",),
    ),
    # volumes
    **{
        f"{name.replace('_', '.')}": Kind(
            volumes,
            VOLUMES,
            FROM_VOLUMES.format(name),
            f"{name}/x/v.{name.replace('_', '.')}",
            damage,
            intact=name == "nii_gz",
        )
        for name, damage in (
            ("nii", "BINARY"),
            ("nii_gz", "BINARY"),
            ("nrrd", "TEXT"),
            ("mha", "TEXT"),
            ("mhd", "TEXT"),
        )
    },
    "nii, header": Kind(volumes, VOLUMES, FROM_VOLUMES.format("nii"), "nii/x/v.nii", "NIFTI"),
    "nii, header of labels": Kind(volumes, VOLUMES, FROM_VOLUMES.format("nii"), "nii/y/v.nii", "NIFTI"),
    "nii, header, resampled": Kind(
        volumes, VOLUMES, FROM_VOLUMES.format("nii") + " --spacing 1.5", "nii/x/v.nii", "NIFTI"
    ),
    "nii.gz, labels": Kind(volumes, VOLUMES, FROM_VOLUMES.format("nii_gz"), "nii_gz/y/v.nii.gz", "BINARY", intact=True),
    "dicom": Kind(dicom, VOLUMES, "--images @/x --slices all --cases @/out --size 16", "x/scan/2.dcm", "DICOM"),
    "dicom, bytes": Kind(dicom, VOLUMES, "--images @/x --slices all --cases @/out --size 16", "x/scan/3.dcm", "BINARY"),
    **{
        name: Kind(
            segmented, VOLUMES, f"--images @/x --labels @/{file.split('/')[0]} --cases @/out --size 16", file, damage
        )
        for name, file, damage in (
            ("dicom seg", "seg/s.dcm", "DICOM"),
            ("rtstruct", "rt/r.dcm", "DICOM"),
            ("seg.nrrd", "slicer/scan.seg.nrrd", "TEXT"),
        )
    },
    "dataset.json, nnU-Net": Kind(
        segmented, VOLUMES, "--images @/Dataset001_A --cases @/out --size 16", "Dataset001_A/dataset.json", "JSON"
    ),
    "dataset.json": Kind(
        volumes,
        "preprocess/3_pack_volumes.py",
        "--data @/task --packed @/out --smallest-box 12",
        "task/dataset.json",
        "JSON",
    ),
    "nodules.csv": Kind(
        volumes,
        "preprocess/0_import_nodules.py",
        "--scans @/mha/x --annotations @/nodules.csv --cases @/out --size 16",
        "nodules.csv",
        "TEXT",
    ),
    "candidates.csv": Kind(volumes, "preprocess/0_import_candidates.py", CANDIDATES, "nodules.csv", "TEXT"),
    "lesions.csv": Kind(
        volumes, "evaluate.py", "--predicted @/nodules.csv --truth @/nodules.csv --output @/out", "nodules.csv", "TEXT"
    ),
    **{
        f"names table, {what}": Kind(
            numbered, "evaluate.py", NUMBERED.format(predicted, truth), "names.csv", "TEXT", share=0.5
        )
        for what, predicted, truth in (("labels", "predicted", "nii/y"), ("lesions", "predicted.csv", "nodules.csv"))
    },
    "label volume, nodules": Kind(
        volumes, "submission.py", "--kind nodules --predicted @/nrrd/y --output @/out.csv", "nrrd/y/v.nrrd", "TEXT"
    ),
    "label volume, scored": Kind(
        volumes, "evaluate.py", "--predicted @/mha/y --truth @/nii/y --output @/out", "nii/y/v.nii", "NIFTI", share=0.5
    ),
    # surfaces
    "stl": Kind(surface, "preprocess/0_import_stl.py", "--surface @/s.stl --output @/out", "s.stl", "STL"),
    "stl, repaired": Kind(
        surface, "preprocess/0_import_stl.py", "--surface @/s.stl --output @/out --open-surface repair", "s.stl", "STL"
    ),
    "obj": Kind(surface, "preprocess/0_import_stl.py", "--surface @/s.obj --output @/out", "s.obj", "TEXT"),
    "ply": Kind(surface, "preprocess/0_import_stl.py", "--surface @/s.ply --output @/out", "s.ply", "BINARY"),
    "stl, onto a volume": Kind(
        surface,
        "preprocess/0_import_stl.py",
        "--surface @/s.stl --output @/out.nii.gz --volume @/v.nii.gz",
        "s.stl",
        "STL",
    ),
    # packed sets, read as by train.py
    **{
        f"{name}": Kind(sets, READ_SET, f"@/{file}", damaged, damage, keras=True)
        for name, file, damaged, damage in (
            ("packed set", "packed/train.h5", "packed/train.h5", "HDF5"),
            ("packed set, gzip", "gzip/train.h5", "gzip/train.h5", "HDF5"),
            ("packed set, AIS", "ais.h5", "ais.h5", "HDF5"),
            ("packed set, earlier", "earlier.h5", "earlier.h5", "HDF5"),
            ("packed set, shards", "sharded/train.h5", "sharded/train.h5", "HDF5"),
            ("packed set, a shard", "sharded/train.h5", "sharded/shards/train*", "HDF5"),
            ("packed volumes", "volumes/train.h5", "volumes/train.h5", "HDF5"),
            ("packed volumes, cases.h5", "volumes/train.h5", "volumes/cases.h5", "HDF5"),
            ("list, trained", "lists/train.csv", "lists/train.csv", "TEXT"),
        )
    },
    # run folders
    **{
        f"{file}, read": Kind(run, READ_RUN, f"@/run {model}", f"run/{file}", damage, keras=True, share=share)
        for file, model, damage, share in (
            ("settings.json", "none", "JSON", 0.5),
            ("state.json", "none", "JSON", 0.5),
            ("calibration.json", "none", "JSON", 0.5),
            ("training_log.csv", "none", "TEXT", 0.5),
            ("best_dice.keras", "best_dice", "KERAS", 0.4),
            ("last.keras", "last", "KERAS", 0.2),
        )
    },
    **{
        f"{file}, read": Kind(run, READ_RUN, "@/cv none", f"cv/{file}", "JSON", keras=True, share=0.25)
        for file in ("choice.json", "cross_validation.json")
    },
    **{
        f"{file}, resumed": Kind(run, "train.py", RESUME, f"run/{file}", damage, ("run",), keras=True, share=0.02)
        for file, damage in (("settings.json", "JSON"), ("state.json", "JSON"), ("training_log.csv", "TEXT"))
    },
    **{
        f"{file}, predicted": Kind(run, "predict.py", PREDICT, f"run/{file}", damage, keras=True, share=0.02)
        for file, damage in (
            ("settings.json", "JSON"),
            ("state.json", "JSON"),
            ("calibration.json", "JSON"),
            ("best_dice.keras", "KERAS"),
        )
    },
    **{
        f"{file}, compared": Kind(good, "compare_runs.py", COMPARE, file, damage, share=0.5)
        for good, file, damage in (
            (run, "run/settings.json", "JSON"),
            (run, "run/state.json", "JSON"),
            (run, "run/training_log.csv", "TEXT"),
            (run, "cv/cross_validation.json", "JSON"),
            (study, "study/study.db", "DATABASE"),
        )
    },
    "settings.json, converted": Kind(models, "convert_coreml.py", CONVERT, "run/settings.json", "JSON", **SLOW),
    # models
    "own network": Kind(models, "train.py", TRAIN + " --model @/own_network.py", "own_network.py", "TEXT", **SLOW),
    "own loss": Kind(models, "train.py", TRAIN + " --loss @/own_loss.py", "own_loss.py", "TEXT", **SLOW),
    "mlmodel": Kind(models, "convert_coreml.py", CHECK.format("mlmodel"), "m.mlmodel", "BINARY", **SLOW),
    **{
        f"mlpackage, {file}": Kind(
            models, "convert_coreml.py", CHECK.format("mlpackage"), f"m.mlpackage/{file}", damage, **SLOW
        )
        for file, damage in (
            ("Manifest.json", "JSON"),
            ("Data/com.apple.CoreML/model.mlmodel", "BINARY"),
            ("Data/com.apple.CoreML/weights/weight.bin", "BINARY"),
        )
    },
    # searches
    "study.db": Kind(study, "tune.py", TUNE, "study/study.db", "DATABASE", ("study",), keras=True, share=0.25),
    "settings.json of a study": Kind(
        study, "tune.py", TUNE, "study/settings.json", "JSON", ("study",), keras=True, share=0.25
    ),
}

SLOW_KINDS = {name for name, kind in KINDS.items() if kind.keras and kind.share < 0.1}  # by hand only: seconds a trial
IN_THE_SUITE = KINDS.keys() - SLOW_KINDS
