"""No patient gets out: planted names, numbers and dates are in nothing that any script writes or prints.

They are in public and private tags, nested sequences, headers of NIfTI, NRRD and STL, and names of files and folders.
"""

import base64
import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from unittest import mock

import h5py
import numpy as np
import pandas as pd
import pytest
import trimesh
from drawings import as_volume, ball, write
from PIL import Image, PngImagePlugin
from running import ROOT, TINY_SE_RESUNET3D, TINY_UNET, assert_refused, leftovers, only_folder, run_here, run_script

pydicom = pytest.importorskip("pydicom")
import SimpleITK as sitk

from common.claims import claimed
from common.command_line import flags_of
from common.errors import InputError
from common.slices.hdf5_text import text_of
from common.volumes.grids import Geometry
from common.volumes.labels import label_image, write_labels
from common.volumes.privacy import (
    header_texts,
    identifies,
    read_names_table,
    read_numbers,
    safe_names,
    write_names_table,
)

SHAPE = (8, 24, 24)
# Folder of each scan, and the patient in its headers: in other spellings, or not at all.
SCANS = {
    "Plantmüller_1931-02-28": ("PLANTMUELLER^Änne", "PLANT4711", "19310228"),
    "Li_Wu": ("LI^WU", "815-81-5815", "19450508"),
    "plantobrien/1.2.826.0.1.88888.77": ("Plant O'Brien^Sean", "PLANT-12-34", "19450509"),
    "山田太郎": ("Yamada^Tarou=山田^太郎", "PLANT99", "19450510"),
}
SECRETS = ("plant", "müller", "muller", "mueller", "1931-02-28", "19310228", "28021931", "li_wu", "li^wu")
SECRETS += ("815-81-5815", "815815815", "8158158", "obrien", "o'brien", "88888.77", "山田", "太郎", "yamada")


BASE64 = re.compile(rb"data:([\w/+]+);base64,([\w+/=]+)")  # images in a page


# --- what is planted


def write_dicom(folder, image, number, patient, identifier, birth):
    """A DICOM series with the patient in public and private tags, and in a sequence within a sequence."""
    folder.mkdir(parents=True)
    values, direction = sitk.GetArrayFromImage(image), np.reshape(image.GetDirection(), (3, 3))
    for k, pixels in enumerate(values):
        content = pydicom.Dataset()
        content.SpecificCharacterSet = "ISO_IR 192" if number == 4 else "ISO_IR 100"
        content.PatientName, content.PatientID, content.PatientBirthDate = patient, identifier, birth
        content.OtherPatientIDs, content.ReferringPhysicianName = "PLANTOTHER", "PLANTDOCTOR^A"
        content.RequestingPhysician, content.AdmissionID, content.AccessionNumber = "PLANTREQ", "PLANTADM", "PLANTACC"
        content.ImageComments, content.StudyDescription, content.StudyID = "PLANTNOTE", "PLANTSTUDY", "PLANTSID"
        content.InstitutionName, content.StationName, content.StudyDate = "PLANTCLINIC", "PLANTCT1", "20240229"
        inner = pydicom.Dataset()
        inner.PatientName, inner.RequestedProcedureDescription = "PLANTINNER^B", "PLANTINNER"
        outer = pydicom.Dataset()
        outer.PatientID, outer.RequestAttributesSequence = "PLANTOUTER", [inner]
        content.ReferencedStudySequence = [outer]
        content.private_block(0x11, "PLANTMAKER", create=True).add_new(1, "LO", "PLANTPRIVATE")
        content.SOPClassUID, content.Modality = pydicom.uid.CTImageStorage, "CT"
        content.StudyInstanceUID, content.SeriesInstanceUID = "1.2.826.0.1.88888.77", f"1.2.826.0.1.99999.{number}"
        content.SOPInstanceUID, content.InstanceNumber = f"1.2.826.0.1.99999.{number}.{k}", k + 1
        content.ImagePositionPatient = list(image.TransformIndexToPhysicalPoint((0, 0, k)))
        content.ImageOrientationPatient = [*direction[:, 0], *direction[:, 1]]
        content.PixelSpacing, content.SliceThickness = list(image.GetSpacing()[1::-1]), image.GetSpacing()[2]
        content.Rows, content.Columns = pixels.shape
        content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME2"
        content.BitsAllocated = content.BitsStored = 16
        content.HighBit, content.PixelRepresentation = 15, 1
        content.RescaleSlope, content.RescaleIntercept = 1, 0
        content.PixelData = pixels.astype(np.int16).tobytes()
        content.file_meta = pydicom.dataset.FileMetaDataset()
        content.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        content.save_as(folder / f"PLANTFILE_{k}.dcm", enforce_file_format=True)


def with_text(image, **texts):
    for key, text in texts.items():
        image.SetMetaData(key, text)
    return image


def draw(number):
    """Values and labels of a scan, and the center of its nodule in mm."""
    rng = np.random.default_rng(number)
    labels = ball(SHAPE, (11 + number, 12, 4), 5, (1, 1, 1)).astype(np.uint8)
    values = (labels * 300.0 + rng.normal(0, 30, SHAPE) - 100).astype(np.int16)
    placed = [as_volume(array, np.eye(3), (1, 1, 1), (5.0 * number, 0, 0)) for array in (values, labels)]
    return *placed, placed[0].TransformIndexToPhysicalPoint((11 + number, 12, 4))


def plant(root):
    """Scans, label volumes, nodules, a surface, and NIfTI and NRRD volumes whose names their headers contain."""
    rows = []
    for number, (folder, patient) in enumerate(SCANS.items(), 1):
        values, labels, center = draw(number)
        write_dicom(root / "scans" / folder, values, number, *patient)
        target = root / "labels" / f"{folder}_seg.nrrd"
        write(target.parent, target.name, with_text(labels, Segment0_Name="PLANTSEGMENT", Patient=patient[0]))
        rows.append((folder.split("/")[-1], *center, 8.0))
        name = patient[0].split("=")[0].replace("^", "_").replace("'", "").lower()
        ending = ".nrrd" if number % 2 else ".nii.gz"
        text = {"ITK_FileNotes": patient[0], "aux_file": "PLANTAUX", "intent_name": "PLANTINTENT", "name": patient[0]}
        write(root / "files", f"{name}{ending}", with_text(values, **text))
    columns = ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "nodules.csv", index=False)
    plant_images(root)
    plant_matrices(root / "PLANT matrices")
    plant_data_set(root / "data_set")
    outline = {"Name": "nodule", "Type": 11, "Point_px": [[8, 8], [16, 9], [12, 16]], "Patient": "PLANTROI"}
    shown = {"ImageIndex": 3, "SOPInstanceUID": "1.2.826.0.1.99999.2.4", "ROIs": [outline], "PatientName": "PLANTROI"}
    (root / "rois").mkdir()
    (root / "rois" / "PLANTROI.json").write_text(json.dumps({"Images": [shown], "Patient": "PLANTROI"}))
    surface = trimesh.creation.icosphere(radius=4)
    surface.apply_translation(center)
    stl = surface.export(file_type="stl")
    (root / "PLANT_heart.stl").write_bytes(b"PLANT solid".ljust(80) + stl[80:])


def plant_images(root):
    """Images and matrices whose files say in their text, EXIF and TIFF fields who they are of."""
    rng, about = np.random.default_rng(0), PngImagePlugin.PngInfo()
    about.add_text("Description", "PLANTNAME^A")
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = "PLANTNAME^A"  # description and artist
    for number, (ending, options) in enumerate(((".png", {"pnginfo": about}), (".tif", {}), (".jpg", {"exif": exif}))):
        for side, values in (("x", rng.integers(0, 255, (32, 32))), ("y", np.eye(32) * 255)):
            path = root / "images" / side / f"{number}{ending if side == 'x' else '.png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            more = {"description": "PLANTNAME^A"} if path.suffix == ".tif" else options if side == "x" else {}
            Image.fromarray(values.astype(np.uint8)).save(path, **more)


def plant_matrices(root):
    """Slices as text and as an array, in a folder that is called after the patient."""
    rng = np.random.default_rng(0)
    for side, values in (("x", rng.normal(0, 100, (3, 24, 24))), ("y", np.stack([np.eye(24)] * 3))):
        (root / side).mkdir(parents=True)
        np.save(root / side / "several.npy", values.astype(np.float32 if side == "x" else np.uint8))
        for number in range(3):
            np.savetxt(root / side / f"s{number}.csv", values[number], fmt="%d", delimiter=",")


def plant_data_set(root):
    """A data set of the Decathlon whose files are called after the patients in their headers."""
    names = ["plant_obrien", "li_wu", "yamada_taro"]
    for number, name in enumerate(names, 1):
        for side, volume in zip(("imagesTr", "labelsTr"), draw(number)[:2], strict=True):
            text = {"ITK_FileNotes": name.upper().replace("_", "^"), "aux_file": "PLANTAUX"}
            write(root / side, f"{name}.nii.gz", with_text(volume, **text))
    training = [{side: f"./{side}sTr/{name}.nii.gz" for side in ("image", "label")} for name in names]
    about = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "nodule"}, "training": training}
    (root / "dataset.json").write_text(json.dumps(about | {"description": "PLANTDESCRIPTION", "name": "PLANTSET"}))


# --- all that is written


def runner(said):
    """Function that runs a script and appends what it prints to a list."""

    def run(script, *flags, **settings):
        done = run_here(script, *flags, **settings)
        said.append(f"{script}\n{done.stdout}{done.stderr}")

    return run


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Run every script without a model that touches scans on what is planted: the folder, and what they printed."""
    root = tmp_path_factory.mktemp("p")
    own, out, said = root / "in", root / "out", []
    plant(own)
    run, table = runner(said), root / "private" / "names.csv"
    dicom = {"IMAGES": own / "scans", "LABELS": own / "labels", "LABEL_NAME": "{id}_seg"}
    slices = {"SIZE": 24, "WINDOW": [-200, 300]}
    run("preprocess/0_import_volumes.py", CASES=out / "cases", NAMES_TABLE=table, **dicom, **slices)
    run("preprocess/0_import_volumes.py", CASES=out / "files", SLICES="all", IMAGES=own / "files", **slices)
    nodules = {"SCANS": own / "scans", "ANNOTATIONS": own / "nodules.csv", "SIZE": 24, "NEIGHBOURS": 0}
    spheres = {"LABEL_VOLUMES": out / "spheres"}
    run("preprocess/0_import_nodules.py", CASES=out / "nodules", **nodules, **spheres)
    half = pd.read_csv(own / "nodules.csv").iloc[:2]
    half.to_csv(own / "half.csv", index=False)
    run("preprocess/0_import_nodules.py", CASES=out / "half", **nodules | {"ANNOTATIONS": own / "half.csv"})
    images = {"IMAGES": own / "images" / "x", "MASKS": own / "images" / "y"}
    run("preprocess/0_import_images.py", CASES=out / "images", SIZE=24, **images)
    run("preprocess/1_augment_cases.py", CASES=out / "images", FILTERS=["O", "D"], SHAPES=["", "RTP"])
    matrices = {"IMAGES": own / "PLANT matrices" / "x", "MASKS": own / "PLANT matrices" / "y", "SIZE": 24}
    run("preprocess/0_import_matrices.py", CASES=out / "matrices", **matrices)
    outlines = {"IMAGES": own / "scans", "ANNOTATIONS": own / "rois", **slices}
    run("preprocess/0_import_annotations.py", CASES=out / "outlines", **outlines)
    candidates = {"SCANS": own / "scans", "CANDIDATES": own / "half.csv", "ANNOTATIONS": own / "nodules.csv"}
    crops = {"SIZE": 16, "CUBES": out / "cubes", "CUBE_SIZE": 8}
    run("preprocess/0_import_candidates.py", CASES=out / "candidates", **candidates, **crops)
    surface = {"SURFACE": own / "PLANT_heart.stl", "SIZE": 24}
    run("preprocess/0_import_stl.py", OUTPUT=out / "surface", **surface)
    run("preprocess/0_import_stl.py", OUTPUT=out / "surface.nrrd", VOLUME=own / "scans" / "山田太郎", **surface)
    packing = {"STEP": "single", "VOXELS": 5000, "SMALLEST_BOX": 8}
    run("preprocess/3_pack_volumes.py", PACKED=out / "volumes", **dicom, **packing)
    run("preprocess/3_pack_volumes.py", PACKED=out / "decathlon", DATA=own / "data_set", **packing)
    run("preprocess/2_write_lists.py", CASES=out / "cases", LISTS=out / "lists", TEST_SHARE=0)
    run("preprocess/3_pack_hdf5.py", LISTS=out / "lists", PACKED=out / "packed")
    run("export_dataset.py", LISTS=out / "lists", OUTPUT=out / "nnunet" / "Dataset001_Scans")
    run("check.py", CASES=out / "cases", OUTPUT=out / "check.html", STEP=False)
    (out / "labels").mkdir()
    for row in pd.read_csv(table).itertuples():  # the truth as the prediction
        labels = sitk.ReadImage(str(own / "labels" / f"{row.name}_seg.nrrd"))
        write_labels(
            label_image(sitk.GetArrayFromImage(labels), Geometry.of(labels)), out / "labels" / f"{row.case}.nii"
        )
    truth = {"TRUTH": own / "labels", "LABEL_NAME": "{id}_seg", "IMAGES": own / "scans", "NAMES_TABLE": table}
    run("evaluate.py", PREDICTED=out / "labels", OUTPUT=out / "scores" / "labels", LESIONS="overlap", **truth)
    run("submission.py", KIND="nodules", PREDICTED=out / "labels", OUTPUT=out / "nodules.csv")
    tables = {"PREDICTED": out / "nodules.csv", "TRUTH": own / "nodules.csv", "NAMES_TABLE": table}
    run("evaluate.py", OUTPUT=out / "scores" / "nodules", IMAGES=own / "scans", **tables)
    assert not leftovers(root)
    return root, said


@pytest.fixture(scope="module")
def everything(imported):
    """The same, and then every script with a model."""
    root, _ = imported
    own, out, said = root / "in", root / "out", []
    run = runner(said)
    sets = {name.upper(): out / "packed" / f"{name}.h5" for name in ("train", "validation")}
    run("train.py", RUNS=out / "runs", MODEL_SETTINGS=TINY_UNET, EPOCHS=1, **sets)
    run("convert_coreml.py", RUN=out / "runs", OUTPUT=out / "model.mlmodel", CHECKED=1)
    run("export.py", RUN=out / "runs", OUTPUT=out / "export", FORMATS=["litert"], CHECKED=1)
    run("export.py", RUN=out / "runs", OUTPUT=out / "export", STRIP=True)
    sets = {name.upper(): out / "volumes" / f"{name}.h5" for name in ("train", "validation")}
    network = {"MODEL": "se_resunet3d", "MODEL_SETTINGS": TINY_SE_RESUNET3D, "OPTIMIZER": "sgd"}
    run("train.py", RUNS=out / "runs3d", EPOCHS=1, BATCH_SIZE=1, **network, **sets)

    for name, run_folder, source in (
        ("cases", "runs", out / "cases"),
        ("one", "runs", own / "scans" / "Li_Wu"),
        ("file", "runs", own / "files" / "li_wu.nii.gz"),
        ("scans", "runs3d", own / "scans"),
        ("files", "runs3d", own / "files"),
    ):
        extra = {"NAMES_TABLE": root / "private" / f"{name}.csv"} if name != "cases" else {}
        extra |= {"PROBABILITIES": True, "VIEWER_FILES": ["osirix", "qupath", "itk-snap"]}
        run("predict.py", RUN=out / run_folder, INPUT=source, OUTPUT=out / "predicted" / name, **extra)
    pseudo = {"CASES": out / "pseudo", "CONFIDENCE": 0.5, "SMALLEST": 1}
    run("predict.py", RUN=out / "runs", INPUT=out / "cases", OUTPUT=out / "predicted" / "unsure", UNCERTAINTY=True)
    run("pseudo_label.py", RUN=out / "runs", INPUT=out / "cases", **pseudo)
    run_on_other_kinds(run, out, own)
    run_the_rest(run, out, own)
    run("compare_runs.py", RUNS=out / "runs")
    predicted, truth = out / "predicted", {"TRUTH": own / "labels", "LABEL_NAME": "{id}_seg"}
    scans = {"IMAGES": own / "scans", "NAMES_TABLE": root / "private" / "scans.csv"}
    run("evaluate.py", PREDICTED=predicted / "cases", TRUTH=out / "cases", OUTPUT=out / "scores" / "cases")
    run("evaluate.py", PREDICTED=predicted / "scans", OUTPUT=out / "scores" / "scans", **truth, **scans)
    for kind, name in (("nodules", "scans"), ("run_lengths", "cases")):
        run("submission.py", KIND=kind, PREDICTED=predicted / name, OUTPUT=out / f"{name}_{kind}.csv")
    assert not leftovers(root)
    return root, said


def run_on_other_kinds(run, out, own):
    """Run models on matrices, packed volumes and crops of candidates, as a second stage."""
    matrices, predicted = own / "PLANT matrices", out / "predicted"
    run("predict.py", RUN=out / "runs", INPUT=matrices / "x", OUTPUT=predicted / "matrices")
    numbers = {"PREDICTED": predicted / "matrices" / "matrices", "TRUTH": matrices / "y"}
    run("evaluate.py", OUTPUT=out / "scores" / "matrices", **numbers)
    run("predict.py", RUN=out / "runs3d", INPUT=out / "volumes" / "validation.h5", OUTPUT=predicted / "packed")
    run("preprocess/2_write_lists.py", CASES=out / "candidates", LISTS=out / "crops", TEST_SHARE=0, VALIDATION_SHARE=0)
    run("preprocess/3_pack_hdf5.py", LISTS=out / "crops", PACKED=out / "packed_crops")
    sets = {"TRAIN": out / "packed_crops" / "train.h5", "VALIDATION": ""}
    run("train.py", RUNS=out / "runs_crops", MODEL_SETTINGS=TINY_UNET, EPOCHS=1, **sets)
    second = {"SECOND_STAGE": only_folder(out / "runs_crops"), "SCANS": own / "scans"}
    run("submission.py", KIND="nodules", PREDICTED=out / "labels", OUTPUT=out / "second.csv", **second)


def run_the_rest(run, out, own):
    """Run what takes longest: uncertain predictions, a plan, a cross-validation, a choice and a search."""
    unsure = {"RUN": out / "runs3d", "UNCERTAINTY": True, "VIEWER_FILES": ["itk-snap"]}
    run("predict.py", INPUT=own / "scans", OUTPUT=out / "predicted" / "unsure3d", **unsure)
    run("evaluate.py", PREDICTED=out / "labels", OUTPUT=out / "scores" / "again", TRUTH=out / "labels")
    again = {"PREDICTED": out / "labels", "TRUTH": out / "labels", "AGAINST": out / "scores" / "again"}
    run("evaluate.py", OUTPUT=out / "scores" / "against", **again)
    run("preprocess/2_write_lists.py", CASES=out / "cases", LISTS=out / "folds", FOLDS=2, TEST_SHARE=0)
    run("preprocess/3_pack_hdf5.py", LISTS=out / "folds", PACKED=out / "packed_folds")
    run("preprocess/4_plan_training.py", PACKED=out / "packed_folds" / "fold1", MINUTES=30)
    sets = {name.upper(): out / "packed_folds" / "fold1" / f"{name}.h5" for name in ("train", "validation")}
    tiny = {"MODEL": "unet", "MODEL_SETTINGS": TINY_UNET, "LOSS": "bce+dice", "AUGMENTATION": {}, "EPOCHS": 1}
    folds = {name.upper(): out / "packed_folds" / f"{name}.h5" for name in ("train", "validation")}
    run("train.py", RUNS=out / "runs_folds", FOLD="all", **folds, **tiny)
    run("choose.py", CROSS_VALIDATIONS=only_folder(out / "runs_folds"), CLEANINGS=[{}])
    networks = {"MODELS": ["unet"], "MODEL_SETTINGS": {"unet": TINY_UNET}, "LOSSES": ["bce+dice"]}
    run("tune.py", STUDY=out / "study", TRIALS=1, EPOCHS=1, AUGMENTATION={}, **networks, **sets)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """The same for run_pipeline.py, with volumes of patients and with own images, which runs most scripts itself."""
    root = tmp_path_factory.mktemp("p")
    own, out, said = root / "in", root / "out", []
    run = runner(said)
    plant(own)

    def call(script, *flags, **settings):
        brief = {"EPOCHS": 1, "MODEL": "unet", "MODEL_SETTINGS": TINY_UNET} if script == "train.py" else {}
        run(script, *flags, **settings, **brief)

    for place, images, masks, given in (
        ("dicom", own / "scans", own / "labels", {"LABEL_NAME": "{id}_seg"}),
        ("files", own / "data_set" / "imagesTr", own / "data_set" / "labelsTr", {}),
        ("images", own / "images" / "x", own / "images" / "y", {}),
    ):
        settings = {"IMAGES": images, "MASKS": masks, "WORK": out / place, "IMPORT_SETTINGS": given}
        with mock.patch("common.jobs.call", call):
            run("run_pipeline.py", MINUTES=30, SIZE=24, **settings)
    return root, said


def contents(name, data):
    """Yield (name, bytes) of a file and of all that is packed within it."""
    yield name, BASE64.sub(b"", data) if name.endswith(".html") else data
    if data[:2] == b"\x1f\x8b":
        yield from contents(f"{name}/gzip", gzip.decompress(data))
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for inner in archive.namelist():
                yield f"{name}/{inner}", inner.encode()
                yield from contents(f"{name}/{inner}", archive.read(inner))
    elif data[:8] == b"\x89HDF\r\n\x1a\n":
        yield name, "\n".join(texts_of_hdf5(data)).encode()
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        place = 8
        while place < len(data):
            length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
            if kind in (b"zTXt", b"iTXt", b"iCCP", b"eXIf"):
                body = data[place + 8 : place + 8 + length]
                yield f"{name}/{kind.decode()}", body + zlib.decompressobj().decompress(body.split(b"\0", 2)[-1])
            place += 12 + length
    elif name.endswith(".html"):
        for number, (kind, packed) in enumerate(BASE64.findall(data)):
            yield from contents(f"{name}/{number}.{kind.decode()}", base64.b64decode(packed))


def texts_of_hdf5(data):
    texts = []

    def add(name, item):
        texts.extend([name, *(f"{key}={text_of(value)}" for key, value in item.attrs.items())])
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "OS":
            texts.extend(str(value) for value in item[()].ravel())

    with h5py.File(io.BytesIO(data)) as file:
        add("", file)
        file.visititems(add)
    return texts


def found_in(data):
    """Secrets in bytes, in any case and in three encodings."""
    texts = [data.decode(encoding, "replace").lower() for encoding in ("utf-8", "latin-1")]
    wide = data.decode("utf-16-le", "replace").lower()  # two characters of it are too short to be no accident
    return [s for s in SECRETS if any(s in text for text in texts) or (s.isascii() and s in wide)]


def test_the_search_finds_what_is_packed(tmp_path):
    """The search itself: a secret in each kind of container, which it must find."""
    secret = "PLANT"
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("texts", data=[secret], dtype=h5py.string_dtype(), chunks=(1,), compression="gzip")
    with zipfile.ZipFile(tmp_path / "b.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.gz", gzip.compress(secret.encode()))
    (tmp_path / "c.html").write_text(f'<img src="data:image/png;base64,{base64.b64encode(secret.encode()).decode()}">')
    text = b"note\0\0" + zlib.compress(secret.encode())
    chunk = len(text).to_bytes(4, "big") + b"zTXt" + text + b"\0" * 4
    (tmp_path / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    (tmp_path / "e.txt").write_bytes(secret.encode("utf-16-le"))
    for path in sorted(tmp_path.iterdir()):
        assert any(found_in(data) for _, data in contents(path.name, path.read_bytes())), path


def assert_clean(root, said, count):
    """Nothing planted is in the files, at least `count`, in their names, or in what was printed."""
    files = [path for path in (root / "out").rglob("*") if path.is_file()]
    assert len(files) > count
    for path in (root / "out").rglob("*"):
        assert not found_in(path.relative_to(root).as_posix().encode()), path
    for path in files:
        for name, data in contents(path.relative_to(root).as_posix(), path.read_bytes()):
            assert not found_in(data), f"{name}: {found_in(data)}"
    for text in said:
        assert not found_in(text.replace(str(root), "").encode()), text


def test_nothing_planted_gets_out_without_a_model(imported):
    assert_clean(*imported, 100)


@pytest.mark.slow
def test_nothing_planted_gets_out_with_a_model(everything):
    assert_clean(*everything, 200)


@pytest.mark.slow
def test_nothing_planted_gets_out_of_the_pipeline(pipelines):
    assert_clean(*pipelines, 200)


def test_cases_have_the_same_numbers_everywhere(imported):
    root, said = imported
    numbers = [f"case_{number:04d}" for number in range(1, 5)]
    for folder in ("cases", "files", "nodules"):
        assert sorted(path.name for path in (root / "out" / folder).glob("[!.]*")) == numbers
    with h5py.File(root / "out" / "volumes" / "cases.h5") as packed:
        assert list(packed["cases"]) == numbers
    table = pd.read_csv(root / "private" / "names.csv")
    assert list(table["case"]) == numbers and set(table["name"]) == set(SCANS)
    assert any("scans without annotations (2): case_000" in text for text in said)


@pytest.mark.slow
def test_predictions_meet_the_truths_of_the_names_table(everything):
    """Each numbered prediction is scored against the labels of the same patient, and only with the table."""
    root, _ = everything
    predicted = root / "out" / "predicted"
    assert len(list(predicted.glob("scans/case_000[1-4].nii.gz"))) == 4
    assert (predicted / "one" / "case_0001.nii.gz").is_file() and (predicted / "file" / "case_0001.nii.gz").is_file()
    tables = [pd.read_csv(root / "private" / f"{name}.csv") for name in ("names", "scans")]
    assert tables[0].equals(tables[1])
    names = pd.read_csv(root / "private" / "scans.csv").set_index("case")["name"]
    cases = pd.read_csv(root / "out" / "scores" / "scans" / "cases.csv", dtype={"case": str}).set_index("case")
    for case, name in names.items():
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(root / "in" / "labels" / f"{name}_seg.nrrd")))
        row = cases.loc[case.removeprefix("case_")]
        assert row["tp"] + row["fn"] == labels.sum()
        predicted = sitk.ReadImage(str(root / "out" / "predicted" / "scans" / f"{case}.nii.gz"))
        assert row["tp"] + row["fp"] == sitk.GetArrayFromImage(predicted).sum()


# --- settings

SCRIPTS_WITH_TABLE = {
    "preprocess/0_import_annotations.py": {},
    "preprocess/0_import_nodules.py": {"SLICES": "all"},
    "preprocess/0_import_volumes.py": {"SLICES": "all"},
    "preprocess/3_pack_volumes.py": {},
    "predict.py": {},
}


def test_labels_meet_the_truths_of_the_names_table(imported):
    """A numbered label volume is scored against the labels of the same patient: here it is the same one."""
    root, _ = imported
    cases = pd.read_csv(root / "out" / "scores" / "labels" / "cases.csv")
    assert len(cases) == 4 and (cases["dice"] == 1).all()
    settings = {"PREDICTED": root / "out" / "labels", "TRUTH": root / "in" / "labels", "LABEL_NAME": "{id}_seg"}
    assert_refused("evaluate.py", "no true mask", OUTPUT=root / "none", **settings)


def test_the_table_stays_outside_of_what_is_passed_on(imported, tmp_path):
    root, _ = imported
    settings = {"IMAGES": root / "in" / "scans", "CASES": tmp_path / "cases", "SLICES": "all", "SIZE": 24}
    script = "preprocess/0_import_volumes.py"
    assert_refused(script, "NAMES_TABLE: inside CASES", status=2, NAMES_TABLE=tmp_path / "cases" / "n.csv", **settings)
    (tmp_path / "n.csv").write_text("mine")
    assert_refused(script, "n.csv: already exists", NAMES_TABLE=tmp_path / "n.csv", **settings)
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert_refused(script, "loop.csv: already exists", NAMES_TABLE=tmp_path / "loop.csv", **settings)
    assert (tmp_path / "n.csv").read_text() == "mine" and not (tmp_path / "cases").exists()


@pytest.mark.parametrize("script", SCRIPTS_WITH_TABLE)
def test_a_table_that_another_process_is_writing_is_refused_before_any_work(tmp_path, script):
    table, flags = tmp_path / "names.csv", SCRIPTS_WITH_TABLE[script]
    with claimed(table):
        assert_refused(script, f"{table}: another process is writing it", run=run_script, **flags, NAMES_TABLE=table)
    text = tmp_path / "thesis.txt"
    assert_refused(script, "NAMES_TABLE: expected the path of a .csv file", status=2, **flags, NAMES_TABLE=text)
    assert not list(tmp_path.iterdir())


def test_of_two_importers_at_once_one_writes_the_table(tmp_path):
    table, started = tmp_path / "names.csv", []
    for name in ("a", "b"):
        write(tmp_path / "scans" / name, "scan.nii.gz", draw(1)[0])
        flags = {"IMAGES": tmp_path / "scans" / name, "SLICES": "all", "SIZE": 24, "CASES": tmp_path / f"cases_{name}"}
        command = [sys.executable, str(ROOT / "preprocess" / "0_import_volumes.py"), *flags_of(flags)]
        started.append(subprocess.Popen([*command, "--names-table", str(table)], stderr=subprocess.PIPE, text=True))
    said = [process.communicate()[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 1], said
    first = "a" if started[0].returncode == 0 else "b"
    assert f"{table}: " in "".join(said) and [*tmp_path.glob("cases_*")] == [tmp_path / f"cases_{first}"]
    assert pd.read_csv(table)["source"].tolist() == [str(tmp_path / "scans" / first / "scan.nii.gz")]
    assert not leftovers(tmp_path)


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are UTF-8 there")
def test_a_table_of_any_names_is_read_again(tmp_path):
    """Bytes that are no UTF-8, and what a spreadsheet would execute."""
    volumes = {name: tmp_path / name for name in ("m\udcfcller", "=cmd()", "a/b, c")}
    table = tmp_path / "names.csv"
    write_names_table(table, {name: f"case_{number}" for number, name in enumerate(volumes)}, volumes)
    assert b"m\xfcller" in table.read_bytes() and b"'=cmd()" in table.read_bytes()
    assert read_names_table(table) == {"0": "m\udcfcller", "1": "=cmd()", "2": "a_b, c"}
    assert read_numbers(table) == dict(zip((*volumes, "b, c", "a_b, c"), "01222", strict=True))
    for text, words in (("case\n1\n", "no column name"), ("case,name\n1,a\n1,b\n", "listed twice")):
        table.write_text(text)
        with pytest.raises(InputError, match=words):
            read_numbers(table)


def test_folder_keeps_the_users_own_names(imported, tmp_path):
    root, _ = imported
    source = shutil.copytree(root / "in" / "scans" / "Li_Wu", tmp_path / "scans" / "subject07")
    settings = {"SLICES": "all", "SIZE": 24, "NAMES": "folder"}
    run_here("preprocess/0_import_volumes.py", IMAGES=source.parent, CASES=tmp_path / "cases", **settings)
    assert [path.name for path in (tmp_path / "cases").glob("[!.]*")] == ["case_subject07"]
    record = (tmp_path / "cases" / "case_subject07" / "case.json").read_text()
    assert not found_in(record.encode()) and json.loads(record)["volume"]


# --- names of other files than DICOM


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Müller", "MUELLER^HANS"),
        ("muller_2", "Müller"),
        ("mueller", "Mu\u0308ller"),  # the umlaut as two characters
        ("OBrien", "O'Brien^Sean"),
        ("Li_Wu", "LI^WU"),
        ("born31011970", "19700131"),
        ("1970-01-31", "19700131"),
        ("310170_scan", "1970-01-31"),
        ("123-45-678", "12345678"),
        ("visit4711", "4711"),
        ("山田太郎", "山田^太郎"),
        ("HansMueller2", "Mueller, Hans"),
    ],
)
def test_a_name_with_what_the_header_says(name, text):
    assert identifies(name, [text])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("liver_12", "liver"),
        ("case_03", "5.0.10"),
        ("volume_05", ""),
        ("1.3.6.1.4.1.14519.5.2", "1.3.6.1.4.1.14519.5.2"),
        ("scan_1", "1"),
        ("sub-01_T1w", "TE=30;Time=93012.000"),
        ("ct_7", "CT"),
    ],
)
def test_a_name_that_says_nothing(name, text):
    assert not identifies(name, [text])


def test_files_keep_their_names_unless_headers_contain_them(tmp_path):
    values, _, _ = draw(1)
    for name, text in (("a.nii.gz", "FSL 6.0"), ("b.nrrd", "DOE^JOHN"), ("john.mha", "DOE^JOHN"), ("doe.nii", "Doe")):
        write(tmp_path, name, with_text(values, ITK_FileNotes=text, note=text))
    assert "FSL 6.0" in header_texts(tmp_path / "a.nii.gz") and "DOE^JOHN" in header_texts(tmp_path / "john.mha")
    content = (tmp_path / "john.mha").read_bytes()
    (tmp_path / "john.mha").write_bytes(content.replace(b"note = ", b"n\xfcte = "))
    assert any("DOE^JOHN" in text for text in header_texts(tmp_path / "john.mha")), "a key that is not UTF-8"
    volumes = {path.name.split(".")[0]: path for path in sorted(tmp_path.iterdir())}
    expected = {"a": "a", "b": "b", "doe": "doe", "john": "case_0004"}
    assert safe_names(volumes) == expected, "words of three letters count only in a name with ^"
    assert safe_names(volumes, "folder") == {name: name for name in volumes}
