"""Files of strangers that try to reach outside: nothing there is read into the output, written, changed or removed.

room/trial is the working directory of the script, and room/beside belongs to somebody else.
"""

import json
import os
import shutil

import cv2
import h5py
import numpy as np
import pytest
from faults import kinds
from faults.forking import ROOT, prepare
from faults.judging import grammar

SECRET = 77  # gray value of the image beside, and of nothing else

NAMES = ["../../beside", "../../beside/x", "{beside}", "{beside}/x", "..", ".", "", "x", "y", "x/../../../../beside"]


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def story(good_files, forking, room):
    """Function that runs a script on good files after a stranger changed them.

    Args:
        good: function of `faults.kinds`.
        change: function of the folder of the files and of the folder beside.
        script, flags: as in `faults.forking.trial`.
        writes: what the script may change.

    Returns:
        the answer of the trial, and the folder of the files.
    """

    def run(good, change, script, flags, writes=("out",)):
        here = room / "room" / "trial"
        shutil.rmtree(room / "room", ignore_errors=True)
        shutil.copytree(good_files(good), here)
        prepare(room / "room", "")
        beside = room / "room" / "beside"
        cv2.imwrite(str(beside / "x" / "secret.png"), np.full((24, 24), SECRET, np.uint8))
        change(here, beside)
        request = {"script": script, "flags": flags.split(), "room": str(room / "room"), "writes": writes}
        (answer,) = forking(script in ("predict.py", "train.py", kinds.READ_SET)).run([request])
        assert answer["status"] in (0, 1, 2) and "Traceback" not in answer["err"], answer
        assert not answer["changed"], answer
        if answer["status"]:
            assert not grammar(script.rpartition("/")[2], answer["err"]), answer
        return answer, here

    return run


@pytest.mark.parametrize(
    "folders", [[name] for name in NAMES] + [["x_O", name] for name in NAMES[:3]] + ["xy", "x", {}]
)
def test_augmented_json_removes_only_what_step_1_made(story, folders):
    def change(here, beside):
        text = json.dumps({"folders": folders}).replace("{beside}", str(beside))
        (here / "cases/case1/augmented.json").write_text(text)

    made = tuple(f"cases/case{k}/{name}" for k in (1, 2, 3) for name in ("x_", "y_", "augmented.json"))
    flags = "--cases @/cases --filters ['D'] --shapes ['']"
    story(kinds.cases, change, "preprocess/1_augment_cases.py", flags, made)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("evaluate.py", "--predicted @/lists/test.csv --truth @/lists/test.csv --output @/out"),
        ("preprocess/3_pack_hdf5.py", "--lists @/lists --packed @/out"),
    ],
)
def test_the_case_of_a_list_is_a_name(story, name, script, flags):
    def change(here, beside):
        for path in (here / "lists").glob("*.csv"):
            header, *rows = path.read_text().splitlines()
            case = name.replace("{beside}", str(beside))
            rows = [row.rpartition(",")[0] + f",{case}" for row in rows]
            path.write_text("\n".join([header, *rows]) + "\n")

    answer, _ = story(kinds.cases, change, script, flags)
    if name not in ("x", "y"):
        assert answer["status"] == 1, answer


@pytest.mark.parametrize(
    "image", ["../../beside/x/secret.png", "{beside}/x/secret.png", "x/../../../beside/x/secret.png"]
)
def test_dataset_json_names_files_of_its_own_folder(story, image):
    def change(here, beside):
        shutil.copy(here / "task/imagesTr/v1.nii.gz", beside / "x" / "secret.png")
        shutil.copy(here / "task/imagesTr/v1.nii.gz", beside / "x" / "v1.nii.gz")
        name = image.replace("{beside}", str(beside)).replace("secret.png", "v1.nii.gz")
        edit_json(here / "task/dataset.json", lambda content: content["training"][0].update(image=name))

    flags = "--data @/task --packed @/out --smallest-box 12"
    answer, _ = story(kinds.volumes, change, "preprocess/3_pack_volumes.py", flags)
    assert answer["status"] == 1, answer


def external_link(file, path):
    file["x"] = h5py.ExternalLink(path, "x")


def virtual(file, path):
    layout = h5py.VirtualLayout((2, 24, 24, 1), "u1")
    layout[:] = h5py.VirtualSource(path, "x", (2, 24, 24, 1))
    file.create_virtual_dataset("x", layout)


def external_storage(file, path):
    file.create_dataset("x", (2, 24, 24, 1), "u1", external=[(path, 0, 2 * 24 * 24)])


@pytest.mark.parametrize("link", [external_link, virtual, external_storage])
def test_a_packed_set_reads_nothing_outside(story, link):
    def change(here, beside):
        with h5py.File(beside / "o.h5", "w") as file:
            file["x"] = np.full((2, 24, 24, 1), SECRET, np.uint8)
        with h5py.File(here / "packed/train.h5", "a") as file:
            del file["x"]
            link(file, str(beside / "o.h5"))

    answer, _ = story(kinds.sets, change, kinds.READ_SET, "@/packed/train.h5")
    assert answer["status"] == 1, answer


@pytest.mark.parametrize("where", ["images/case1/1.png", "masks/case1/1.png"])
@pytest.mark.parametrize("what", ["fifo", "folder", "dangling", "loop", "device"])
def test_what_is_no_file_is_refused_and_never_waited_for(story, where, what):
    def change(here, beside):
        path = here / where
        path.unlink()
        if what == "fifo":
            os.mkfifo(path)
        elif what == "folder":
            path.mkdir()
        else:
            path.symlink_to({"dangling": "gone.png", "loop": path.name, "device": "/dev/zero"}[what])

    flags = "--images @/images --masks @/masks --cases @/out --size 24"
    answer, _ = story(kinds.imported, change, "preprocess/0_import_images.py", flags)
    assert answer["status"] == 1, answer


@pytest.mark.parametrize(
    "file", ["cases/case1/case.json", "cases/case1/x_O/0001.png", "lists/train.csv", "lists/test.csv"]
)
@pytest.mark.parametrize("what", ["fifo", "loop", "device"])
def test_step_3_waits_for_nothing(story, file, what):
    def change(here, beside):
        path = here / file
        path.unlink()
        os.mkfifo(path) if what == "fifo" else path.symlink_to({"loop": path.name, "device": "/dev/zero"}[what])

    answer, _ = story(kinds.cases, change, "preprocess/3_pack_hdf5.py", "--lists @/lists --packed @/out")
    assert answer["status"] == 1, answer


@pytest.mark.parametrize(
    "name", ["../../beside/thesis.txt", "{beside}/thesis.txt", "..", "x/../../../beside/thesis.txt"]
)
def test_copied_files_are_removed_only_inside(story, name):
    def change(here, beside):
        for path in here.rglob(".made_files.json"):
            lines = path.read_text().splitlines()
            path.write_text("\n".join([*lines, name.replace("{beside}", str(beside)) + ",a,b"]) + "\n")

    flags = kinds.LISTS + " --copy-to @/copies --replace"
    story(kinds.copied, change, "preprocess/2_write_lists.py", flags, ("out", "copies"))


def test_no_script_writes_into_the_project(story):
    """The watch works: what a script writes elsewhere is seen."""
    before = set(ROOT.iterdir())
    with pytest.raises(AssertionError, match="beside/new"):
        story(
            kinds.pictures,
            lambda *_: None,
            kinds.IMPORT,
            kinds.IMAGES.format("png").replace("@/out", "@/../beside/new"),
        )
    assert set(ROOT.iterdir()) == before
