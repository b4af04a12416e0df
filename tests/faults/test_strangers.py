"""Files of strangers that try to reach outside: nothing there is read into the output, written, changed or removed.

room/trial is the working directory of the script, and room/beside belongs to somebody else.
"""

import json
import os
import shutil
import zipfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from drawings import change_config
from faults import kinds
from faults.forking import ROOT, prepare
from faults.judging import grammar
from optuna.trial import TrialState, create_trial

from common.tuning.study import open_study

SECRET = 77  # gray value of the image beside, and of nothing else

KERAS = (
    "predict.py",
    "train.py",
    "convert_coreml.py",
    "export.py",
    "choose.py",
    "tune.py",
    kinds.READ_SET,
    kinds.READ_RUN,
)

NAMES = ["../../beside", "../../beside/x", "{beside}", "{beside}/x", "..", ".", "", "x", "y", "x/../../../../beside"]


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


FAILING = Path("/proc/self/mem")  # opens, and then an input/output error, as of a broken disk or a lost share
FOUND_BY_NAME = "slice, packed", "slice, check", "mask, check"  # others take their place, or a page lists it


def replace_by(path, what):
    """Replace a file by a FIFO, or a link to itself, to a device without end or to a file that cannot be read."""
    path.unlink()
    target = {"loop": path.name, "device": "/dev/zero", "failing": FAILING}
    os.mkfifo(path) if what == "fifo" else path.symlink_to(target[what])


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
        (answer,) = forking(script in KERAS).run([request])
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
        pytest.param("predict.py", kinds.PREDICT.replace("@/images", "@/lists/test.csv"), marks=pytest.mark.slow),
    ],
)
def test_the_case_of_a_list_is_a_name(story, name, script, flags):
    def change(here, beside):
        for path in (here / "lists").glob("*.csv"):
            header, *rows = path.read_text().splitlines()
            case = name.replace("{beside}", str(beside))
            rows = [row.rpartition(",")[0] + f",{case}" for row in rows]
            path.write_text("\n".join([header, *rows]) + "\n")

    answer, _ = story(kinds.listed_run if script == "predict.py" else kinds.cases, change, script, flags)
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
        replace_by(here / file, what)

    answer, _ = story(kinds.cases, change, "preprocess/3_pack_hdf5.py", "--lists @/lists --packed @/out")
    assert answer["status"] == 1, answer


@pytest.mark.skipif(not FAILING.exists(), reason="needs Linux")
@pytest.mark.parametrize("name", [n for n, k in kinds.KINDS.items() if not (k.keras or n in FOUND_BY_NAME)])
def test_a_file_that_the_disk_cannot_read_is_named(story, name):
    kind = kinds.KINDS[name]

    def change(here, beside):
        replace_by(min(here.glob(kind.file)), "failing")

    answer, _ = story(kind.good, change, kind.script, kind.flags, kind.writes)
    if kind.script == "compare_runs.py":  # lists runs that it cannot read
        assert answer["status"] == 0 and "the disk failed" in answer["out"], answer
    else:
        assert answer["status"] == 1 and kind.file.rpartition("/")[2] in answer["err"], answer


# --- run folders and studies


def network_of_theirs(run, beside):
    (run / "code").mkdir(exist_ok=True)
    (run / "code" / "evil.py").write_text(f"open({str(beside / 'ran')!r}, 'w').close()\n")
    edit_json(run / "settings.json", lambda content: content.update(MODEL="evil.py", TRUST_RUN=True))


def layer(**description):
    def change(run, beside):
        for name in ("last", "best_dice"):
            change_config(
                run / f"{name}.keras",
                lambda config: config["config"]["layers"][1]["config"].update(kernel_regularizer=description),
            )

    return change


def loss_of_theirs(run, beside):
    network_of_theirs(run, beside)
    edit_json(run / "settings.json", lambda content: content.update(MODEL="unet", LOSS="evil.py"))
    change_config(
        run / "last.keras",
        lambda config: config["compile_config"]["loss"]["config"].update(terms=str(run / "code" / "evil.py")),
    )


def file_in_a_model(run, beside):
    for name in ("last", "best_dice"):
        with zipfile.ZipFile(run / f"{name}.keras", "a") as archive:
            archive.writestr("../../beside/x/evil.py", "")


def weights_elsewhere(run, beside):
    with h5py.File(beside / "o.h5", "w") as file:
        file["x"] = np.full((3, 3, 1, 2), SECRET, np.float32)
    for name in ("last", "best_dice"):
        with zipfile.ZipFile(run / f"{name}.keras") as archive:
            entries = {entry: archive.read(entry) for entry in archive.namelist()}
        (run / "weights.h5").write_bytes(entries["model.weights.h5"])
        with h5py.File(run / "weights.h5", "a") as file:
            found = []
            file.visititems(
                lambda key, item, found=found: found.append(key) if isinstance(item, h5py.Dataset) else None
            )
            for key in found:
                del file[key]
                file[key] = h5py.ExternalLink(str(beside / "o.h5"), "x")
        with zipfile.ZipFile(run / f"{name}.keras", "w") as archive:
            for entry, content in entries.items():
                archive.writestr(entry, (run / "weights.h5").read_bytes() if entry.endswith(".h5") else content)
        (run / "weights.h5").unlink()


TRICKS = {
    "network": network_of_theirs,
    "loss": loss_of_theirs,
    "lambda": layer(class_name="Lambda", module="keras.layers", config={}),
    "process": layer(class_name="Popen", module="subprocess", config={"args": "id"}),
    "download": layer(
        class_name="get_file", module="keras.utils", config={"fname": "x", "origin": "file:///etc/hosts"}
    ),
    "file": file_in_a_model,
    "weights": weights_elsewhere,
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_run_folder_runs_no_code_and_reads_nothing_outside(story, trick):
    answer, _ = story(kinds.run, lambda here, beside: TRICKS[trick](here / "run", beside), kinds.READ_RUN, "@/run")
    assert answer["status"] == 1, answer


RETRAIN = kinds.TRAIN + " --mode retrain --run @/run --model unet --loss bce+dice --augmentation {} --batch-size 3"


@pytest.mark.slow
@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("predict.py", kinds.PREDICT),
        ("convert_coreml.py", kinds.CONVERT),
        ("export.py", "--run @/run --output @/out --formats ['saved_model'] --checked 1"),
        ("train.py", kinds.RESUME),
        ("train.py", RETRAIN),
        ("choose.py", "--cross-validations @/cv"),
    ],
)
def test_so_do_all_scripts_that_read_one(story, trick, script, flags):
    def change(here, beside):
        for run in (here / "run", here / "cv" / "fold1", here / "cv" / "fold2"):
            TRICKS[trick](run, beside)

    answer, _ = story(kinds.run, change, script, flags, ("out", "run", "cv/choice"))
    uses_it = trick != "loss" or "resume" in flags
    assert answer["status"] == (1 if uses_it else 0), answer


@pytest.mark.parametrize("file", ["settings.json", "state.json", "training_log.csv", "best_dice.keras", "last.keras"])
@pytest.mark.parametrize("what", ["fifo", "loop", "device"])
def test_nothing_in_a_run_folder_is_waited_for(story, file, what):
    def change(here, beside):
        replace_by(here / "run" / file, what)

    answer, _ = story(kinds.run, change, kinds.READ_RUN, "@/run")
    assert answer["status"] == 1, answer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "progress"])
def test_a_link_in_a_run_folder_is_not_written_into(story, name):
    def change(here, beside):
        shutil.rmtree(here / "run" / name, ignore_errors=True)
        (here / "run" / name).symlink_to(beside / "x")
        (here / "run/report.html").unlink()
        (here / "run/report.html").symlink_to(beside / "thesis.txt")

    answer, _ = story(kinds.run, change, "train.py", kinds.RESUME, ("run",))
    assert answer["status"] == 1 and f"{name}: a link" in answer["err"], answer


@pytest.mark.parametrize("link", ["runs", "runs/trial-003", "runs/trial-003/output.txt", "study.lock", "settings.json"])
def test_a_study_leads_nowhere_else(story, link):
    """It has an interrupted trial, with a run, whose values do not fit the search."""

    def change(here, beside):
        study = open_study(here / "study", {}, (), None, None)
        first = study.get_trials()[0]
        study.add_trial(create_trial(state=TrialState.RUNNING, params=first.params, distributions=first.distributions))
        shutil.copytree(here / "study/runs/trial-000", here / "study/runs/trial-003")
        place = here / "study" / link
        if place.exists():
            place.rename(here / "kept")
        place.symlink_to(beside / ("x" if "." not in link else "thesis.txt"))

    answer, _ = story(kinds.study, change, "tune.py", kinds.TUNE.replace("--trials 3", "--trials 4"), ("study",))
    assert answer["status"] == 1, answer
    if link in ("runs", "runs/trial-003"):
        assert "leads out of the study" in answer["err"], answer
    if link == "runs/trial-003/output.txt":
        assert "do not fit its settings" in answer["err"], answer


def test_a_study_with_trials_of_other_values(story):
    answer, _ = story(kinds.study, lambda *_: None, "tune.py", kinds.TUNE.replace("trials 3", "trials 4"), ("study",))
    assert answer["status"] == 1 and "do not fit its settings" in answer["err"], answer


# --- packed sets, volumes, copies


@pytest.mark.parametrize("file", ["packed/train.h5", "volumes/cases.h5"])
@pytest.mark.parametrize("what", ["fifo", "loop", "device"])
def test_no_packed_set_is_waited_for(story, file, what):
    def change(here, beside):
        replace_by(here / file, what)

    answer, _ = story(kinds.sets, change, kinds.READ_SET, f"@/{file.replace('cases', 'train')}")
    assert answer["status"] == 1, answer


@pytest.mark.parametrize("name", ["mhd", "nrrd"])
@pytest.mark.parametrize("place", ["../../../../beside/secret", "{beside}/secret", "x/../../../../../beside/secret"])
def test_a_volume_has_its_data_in_its_own_folder(story, name, place):
    def change(here, beside):
        path = here / name / "x" / f"v.{name}"
        (beside / "secret").write_bytes(bytes([SECRET]) * 10**6)
        data = place.replace("{beside}", str(beside)).encode()
        if name == "mhd":
            head = path.read_bytes().partition(b"ElementDataFile")[0].replace(b"CompressedData = True", b"")
            path.write_bytes(head + b"ElementDataFile = " + data + b"\n")
        else:
            head = path.read_bytes().partition(b"\n\n")[0].replace(b"encoding: gzip", b"encoding: raw")
            path.write_bytes(head + b"\ndata file: " + data + b"\n\n")

    answer, _ = story(kinds.volumes, change, kinds.VOLUMES, kinds.FROM_VOLUMES.format(name))
    assert answer["status"] == 1 and "in another folder" in answer["err"], answer


@pytest.mark.parametrize("what", ["fifo", "loop", "device"])
def test_no_volume_is_waited_for(story, what):
    def change(here, beside):
        replace_by(here / "x/scan/2.dcm", what)

    answer, _ = story(kinds.dicom, change, kinds.VOLUMES, "--images @/x --slices all --cases @/out --size 16")
    assert answer["status"] in (0, 1), answer


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
