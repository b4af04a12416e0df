"""Every command line that README, CONTRIBUTING and docs show: run in small on drawn data, or listed with a reason.

`pages.py` finds the commands, so a new one without a test fails here. All of them are parsed: their scripts exist, and
have these flags with such values.
"""

import ast
import re
import shlex
from pathlib import Path

import drawings
import h5py
import numpy as np
import pandas as pd
import pytest
import trimesh
from dicom_labels import draw_series, sources, write_seg
from drawings import as_volume, make_cases, write, write_decathlon, write_image, write_nnunet, write_nnunet_images
from pages import PAGES, all_commands, calls_of, check_flags, commands_of
from running import ROOT, leftovers, run_here, run_script

from common.files import write_json
from common.slices.images import read_image

TINY = ["--epochs", "1", "--model-settings", "{'features': 2, 'depth': 1}", "--batch-size", "4"]
SMALL = {
    "0_import_annotations.py": ["--size", "32"],
    "0_import_images.py": ["--size", "32"],
    "0_import_matrices.py": ["--size", "32"],
    "0_import_volumes.py": ["--size", "32", "--slices", "all"],
    "0_import_stl.py": ["--interval", "8", "--size", "32"],
    "1_augment_cases.py": ["--filters", "['O']", "--shapes", "['']"],
    "3_pack_volumes.py": ["--voxels", "8000"],
    "make_sample.py": ["--count", "5", "--slices", "6", "--size", "64"],
    "train.py": TINY,
    "run_pipeline.py": [*TINY, "--minutes", "3", "--size", "48"],
    "tune.py": shlex.split(
        """--trials 2 --epochs 1 --models "['unet']" --precisions "['float32']" --losses "['dice']"
        --model-settings "{'unet': {'features': 2, 'depth': [1, 2]}}" """
    ),
}
HERE, CHANNELS = "tests/test_doc_commands.py", "tests/slices/test_channels.py"
# Pages whose code blocks a test runs from the first command to the last.
FOLLOWED = {
    "README.md": f"{HERE}::test_readme",
    "docs/benchmarks.md": f"{HERE}::test_benchmarks",
    "docs/choosing.md": f"{HERE}::test_choosing",
    "docs/coreml.md": f"{HERE}::test_coreml",
    "docs/export.md": f"{HERE}::test_export",
    "docs/first_model.md": f"{HERE}::test_first_model",
    "docs/from_ais.md": f"{HERE}::test_from_ais",
    "docs/scores.md": f"{HERE}::test_scores",
    "docs/your_data.md": f"{HERE}::test_your_data",
    "docs/recipes/decathlon.md": "tests/conftest.py::decathlon_and_output",
    "docs/recipes/head_and_neck.md": "tests/test_recipes.py::test_head_and_neck",
    "docs/recipes/muscle.md": "tests/test_recipes.py::test_muscle",
    "docs/recipes/nodules.md": "tests/test_recipes.py::test_nodules",
    "docs/recipes/pseudo_labels.md": "tests/test_recipes.py::test_pseudo_labels",
    "docs/recipes/spinal_cord.md": "tests/test_recipes.py::test_spinal_cord",
}
# Commands outside of these blocks that a test runs.
RUN_ELSEWHERE = {
    "3_pack_hdf5.py --shard-gb 2": (
        "tests/preprocess/test_pack_hdf5.py::test_shards_are_shown_as_one_set_and_are_made_once"
    ),
    "python -P -m common.child": (
        "tests/tuning/test_tune.py::test_a_search_killed_twice_and_finished_by_two_processes"
    ),
    "python -m common.settings_page": "tests/test_docs.py::test_settings_page_is_up_to_date",
    "python -m common.checking.packages": (
        "tests/checking/test_packages.py::test_tested_versions_are_written_from_this_environment"
    ),
    "python check.py": "tests/checking/test_packages.py::test_the_script_starts_without_any_package",
    "python check.py --cases data/mine": "tests/test_check.py::test_everything_odd_is_reported_in_one_line_each",
    "python convert_coreml.py --run … --format mlpackage --compare --slices test.h5": FOLLOWED["docs/coreml.md"],
    """convert_coreml.py --run RUN --format mlpackage --volume-size "[64, 96, 96]\"""": (
        "tests/coreml/test_volumes.py::test_a_network_for_volumes_is_converted_at_one_size"
    ),
    "python preprocess/4_plan_training.py --packed data/packed --minutes 30": (
        "tests/training/test_plan.py::test_facts_and_the_plan_of_a_packed_set"
    ),
    "preprocess/4_plan_training.py --packed data/packed_all": (
        "tests/training/test_plan.py::test_facts_and_the_plan_of_a_packed_set"
    ),
    """train.py --settings plan.json --mode retrain --run RUN --validation \"\"""": (
        "tests/training/test_own_data.py::test_one_command_from_own_images_to_a_model"
    ),
    "python train.py --settings data/packed/plan.json": (
        "tests/training/test_plan.py::test_facts_and_the_plan_of_a_packed_set"
    ),
    "predict.py --run RUN --model my_net.py": (
        "tests/training/test_trust.py::test_no_script_runs_the_network_of_a_stranger"
    ),
    "python train.py --help": ("tests/test_settings.py::test_help_of_every_script_is_immediate_and_complete"),
    "python train.py --loss my_loss.py": "tests/test_extending.py::test_network_and_loss",
    "python train.py --model my_network.py --as-published": (
        "tests/models/test_codeset.py::test_a_file_of_the_codeset_trains_predicts_and_is_kept"
    ),
    "python train.py --model my_network.py": "tests/test_extending.py::test_network_and_loss",
    "0_import_images.py --channels rgb": f"{CHANNELS}::test_colors_are_kept_or_their_loss_is_said",
    """0_import_volumes.py --channels "['{id}_flair', '{id}_t1']\"""": (
        f"{CHANNELS}::test_files_of_volumes_become_channels"
    ),
    "3_pack_volumes.py --channels": (
        "tests/volumes/test_nested.py::test_a_file_for_each_channel_is_packed_like_one_with_all"
    ),
    "3_pack_volumes.py --overlap keep": (
        "tests/volumes/test_overlapping.py::test_packed_volumes_hold_all_classes_of_a_voxel"
    ),
    "0_import_volumes.py --neighbors 1": f"{CHANNELS}::test_neighbors_become_channels",
    "train.py --train image_training.h5 --validation image_validation.h5": FOLLOWED["docs/from_ais.md"],
}
INSTALLS = "installs from the internet"
WINDOWS = f"{INSTALLS}, on Windows"
SHELL = "changes the shell that it is typed in"
TESTS = "runs these tests"
MACHINES = "needs several machines; tests/training/test_distribution.py starts two processes with these variables"
SERVER = "starts a server"
NOT_RUN = {
    ". .venv/bin/activate": SHELL,
    "source .venv/bin/activate": SHELL,
    ".ci/run": TESTS,
    "python -m pytest": TESTS,
    "python -m pytest -m slow": TESTS,
    "python -m pytest -n 0 tests/test_architecture.py": TESTS,
    'pytest -n 0 -s -m "" tests/training/test_distribution.py': TESTS,
    "pytest -n 0 -m slow tests/test_workers.py": TESTS,
    "pytest -s tests/models/test_pretrained_unet.py": TESTS,
    "pytest -n 0 -s tests/preprocess/test_import_nodules.py -k lungs": TESTS,
    "ruff check . && ruff format --check .": "checks style, as .ci/run does",
    "tensorboard --logdir runs": SERVER,
    "tensorboard --logdir study/runs": SERVER,
    'pip install "jax[cuda12]"': f"{INSTALLS}, for a GPU",
    'pip install "distributed>=2026.8,<2027"': INSTALLS,
    "pip install bokeh": INSTALLS,
    "pip install dask-jobqueue": INSTALLS,
    "python -m dask scheduler --port 8786": "starts a server",
    "python -m dask worker tcp://10.0.0.1:8786 --nworkers 8 --nthreads 1": "needs several machines",
    "pip install -r requirements-gpu.txt": f"{INSTALLS}, for a GPU",
    "pip install -r requirements-windows-gpu.txt": f"{INSTALLS}, for a GPU on Windows",
    "pip install -r requirements.txt": INSTALLS,
    "pip download -r requirements-gpu.txt -d wheels": INSTALLS,
    "pip install --no-index --find-links wheels -r requirements-gpu.txt": f"{INSTALLS}, before",
    "pip install optuna-dashboard": INSTALLS,
    "pip install -r requirements-export.txt": INSTALLS,
    "python3 -m venv .venv && .venv/bin/pip install -q -r tests/requirements.txt": INSTALLS,
    "python3 -m venv .venv && . .venv/bin/activate && pip install -q -r tests/requirements.txt && python -m pytest": (
        f"{INSTALLS}, as .ci/run does"
    ),
    r"py -3.11 -m venv .venv; .venv\Scripts\Activate.ps1; pip install -q -r requirements.txt; python run_pipeline.py": (
        WINDOWS
    ),
    r"py -3.11 -m venv .venv; .venv\Scripts\Activate.ps1; pip install -q -r tests\requirements.txt; python -m pytest": (
        WINDOWS
    ),
    r"py -3.11 -m venv .venv; .venv\Scripts\pip install -q -r requirements.txt; "
    r".venv\Scripts\python run_pipeline.py": WINDOWS,
    r"py -3.11 -m venv .venv; .venv\Scripts\pip install -q -r tests\requirements.txt; "
    r".venv\Scripts\python -m pytest": WINDOWS,
    "export KERAS_BACKEND=jax KERAS_DISTRIBUTION_JOB_ADDRESSES=10.0.0.1:1234 KERAS_DISTRIBUTION_NUM_PROCESSES=2": (
        MACHINES
    ),
    "KERAS_DISTRIBUTION_PROCESS_ID=0 python train.py --train data/packed/train.h5 "
    "--validation data/packed/validation.h5 --batch-size 16": MACHINES,
    "export KERAS_BACKEND=jax KERAS_DISTRIBUTION_NUM_PROCESSES=$SLURM_NNODES": MACHINES,
    'export KERAS_DISTRIBUTION_JOB_ADDRESSES=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):1234': (
        MACHINES
    ),
    "srun bash -c 'KERAS_DISTRIBUTION_PROCESS_ID=$SLURM_PROCID python train.py --batch-size 64'": MACHINES,
}
PIPELINE = re.compile(r"&& python run_pipeline\.py$")  # README and first_model: installs, then runs the script


# --- every command


def how_it_is_run(command):
    """How a command of a page is run: id of a test, reason why it is not, or None."""
    text = " ".join(command.text.split())
    if text in NOT_RUN:
        return NOT_RUN[text]
    if text in RUN_ELSEWHERE:
        return RUN_ELSEWHERE[text]
    calls = calls_of(text)
    if len(calls) != 1 or not (ROOT / calls[0][0]).is_file():
        return None
    if command.block:
        simple = text.startswith("python ") or PIPELINE.search(text)
        return FOLLOWED.get(command.page) if simple else None
    if calls[0][0].startswith("tests/benchmarks/"):
        return f"tests/test_benchmarks.py::test_{calls[0][0].split('/')[-1].removesuffix('.py')}"
    return next((test for call, test in FOLLOWED_CALLS if is_part(calls[0], call)), None)


def is_part(call, other):
    """Whether a call is one of the same script with no flag that the other does not have."""
    return call[0] == other[0] and flags_in(call[1]) <= flags_in(other[1])


def flags_in(arguments):
    return {word for word in arguments if word.startswith("--")}


FOLLOWED_CALLS = [
    (call, test)
    for page, test in FOLLOWED.items()
    for command in commands_of(page)
    for call in calls_of(command.text)
    if command.block
]


def test_every_command_is_run_or_listed():
    missing = [f"{command.page}: {command.text}" for command in all_commands() if not how_it_is_run(command)]
    assert not missing, "no test runs these; add one, or a reason to NOT_RUN:\n" + "\n".join(missing)


def test_the_lists_name_commands_and_tests_that_exist():
    shown = {" ".join(command.text.split()) for command in all_commands()}
    assert not (NOT_RUN.keys() | RUN_ELSEWHERE.keys()) - shown
    assert {page for page in FOLLOWED if any(command.block for command in commands_of(page))} == set(FOLLOWED)
    tests = {how_it_is_run(command) or "" for command in all_commands()} | set(FOLLOWED.values())
    missing = [test for test in tests if "::" in test and test.split("::")[1] not in functions_of(test.split("::")[0])]
    assert not missing


def functions_of(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_commands_have_scripts_flags_and_values_that_exist():
    for command in all_commands():
        for script, arguments in calls_of(command.text):
            if script.startswith("tests/") or "--help" in arguments:
                continue
            try:
                check_flags(script, arguments)
            except (Exception, SystemExit) as error:
                pytest.fail(f"{command.page}: {command.text}: {error}")
        for path in re.findall(r"tests/[\w/]+\.(?:py|txt)", command.text.replace("\\", "/")):
            assert (ROOT / path).is_file(), f"{command.page}: {command.text}"


def test_commands_are_found():
    assert len(PAGES) > 15 and len(all_commands()) > 120
    texts = {command.text for command in all_commands()}
    assert {"python choose.py --cross-validations runs", ".ci/run", "python tests/benchmarks/scale.py"} <= {
        text.split("/20260102")[0] for text in texts
    }


# --- page by page


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the data that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    for seed in range(30):
        for side, image in zip(("images", "masks"), drawings.disc_slice(40, seed), strict=True):
            write_image(tmp_path / "my_data" / side / f"patient{seed // 5}" / f"{seed}.png", image)
    for number in range(3):
        image, mask = drawings.disc_slice(40, 100 + number)
        write_image(tmp_path / "my_data" / "new" / f"{number}.png", image)
        write_image(tmp_path / "my_data" / "new_masks" / f"{number}.png", mask)
    trimesh.creation.icosphere(2, 10.0).export(tmp_path / "my_data" / "heart.stl")
    return tmp_path


def replace_names(words, folder):
    """Words with the newest run, or cross-validation, of a folder in the place of the one on the page."""

    def newest(match):
        runs = [path for path in (folder / match[1]).iterdir() if path.name.endswith("_folds") == bool(match[2])]
        return f"{match[1]}/{max(runs, key=lambda path: path.stat().st_mtime).name}"

    return [re.sub(r"^(\w+)/20260102-030405_unet(_folds)?$", newest, word) for word in words]


def follow(page, folder, **extra):
    """Run the commands of a page; `extra` has further flags for a script, by the stem of its file."""
    for command in commands_of(page):
        if not command.block or " ".join(command.text.split()) in NOT_RUN:
            continue
        for script, flags in calls_of(command.text):
            run_small(script, flags, folder, extra.get(script.split("/")[-1].removesuffix(".py"), []))
    assert not leftovers(folder)


def run_small(script, flags, folder, extra=()):
    small = SMALL.get(script.split("/")[-1], [])
    if "se_resunet3d" in flags:
        small = ["--epochs", "1", "--model-settings", "{'features': 2, 'depth': 1}"]
    if "cvnet_synapse" in flags:
        small = ["--epochs", "1", "--model-settings", "{'width': 0.05}", "--batch-size", "4"]
    if "resume" in flags:
        small = ["--epochs", "2"]
    if "--folds" in flags:
        small = ["--folds", "2"]
    whole = script in ("run_pipeline.py", "tune.py") or (script == "train.py" and "--fold" in flags)
    (run_script if whole else run_here)(script, *replace_names(flags, folder), *small, *extra)


@pytest.mark.slow
def test_first_model(folder):
    follow("docs/first_model.md", folder)
    assert list(folder.glob("runs/*/*.mlmodel")) and (folder / "scores" / "report.html").exists()


@pytest.mark.slow
def test_readme(folder):
    run_small("data/make_sample.py", [], folder)  # small, so that the first command finds it
    follow("README.md", folder)
    assert (folder / "work" / "model.mlmodel").exists()
    assert len(list((folder / "predictions").glob("*.png"))) == 3


@pytest.mark.slow
def test_choosing(folder):
    cases = make_cases(folder / "data" / "mine", cases=6, slices=3, size=32)
    run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=folder / "lists")
    run_here("preprocess/3_pack_hdf5.py", LISTS=folder / "lists", PACKED=folder / "data" / "packed")
    follow("docs/choosing.md", folder)
    assert (folder / "study" / "best_settings.json").exists()
    assert all((folder / name / "index.html").exists() for name in ("runs", "study"))


@pytest.mark.slow
def test_your_data(folder):
    rng = np.random.default_rng(0)
    for number in (1, 2):
        values = rng.integers(-300, 300, (12, 24, 24)).astype(np.int16)
        for name, volume in (("scans", values), ("labels", (values > 150).astype(np.uint8))):
            image = as_volume(volume, np.eye(3), spacing=(1, 1, 3), origin=(-12, -12, -18))
            write(folder / name, f"scan{number}.nii.gz", image)
    write_decathlon(folder / "Task03_Liver", cases=5, test=1)
    for number in (1, 2):
        for patient in ("a", "b"):
            file = folder / "my_data" / "numbers" / patient / "images" / f"{number}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savetxt(file, drawings.disc_slice(40, number)[0], fmt="%d", delimiter=",")
    pairs = [drawings.disc_slice(40, number) for number in (1, 2)]
    for name, arrays in zip(("imgs", "imgs_mask"), zip(*pairs, strict=True), strict=True):
        np.save(folder / "my_data" / f"{name}_train.npy", np.stack(arrays))
    shape = {"label": "liver", "points": [[5, 5], [30, 8], [20, 30]]}
    write_json(folder / "my_data" / "outlines" / "0.json", {"imagePath": "0.png", "shapes": [shape]})
    write_nnunet(folder / "Dataset001_Liver", channels=["CT"])
    write_nnunet_images(folder / "Dataset002_Discs")
    draw_series(folder / "export" / "ct")
    write_seg(folder / "export" / "seg.dcm", sources(folder / "export" / "ct"), np.ones((6, 36, 40, 2), np.uint8))
    masks = folder / "my_data" / "masks"
    for path in masks.glob("*/*.png"):
        for name, shift in (("heart", 0), ("lung", 3)):
            moved = np.roll(read_image(path), shift, axis=1)
            write_image(folder / "my_data" / "classes" / name / path.relative_to(masks), moved)
    follow("docs/your_data.md", folder)
    assert (folder / "volume_scores" / "report.html").exists() and (folder / "run_lengths.csv").exists()
    assert len(list((folder / "liver").glob("*.nii.gz"))) == 1


@pytest.mark.slow
def test_from_ais(folder):
    make_cases(folder / "DATASET", cases=4, slices=2, size=200)
    for number in range(2):
        write_image(folder / "NEW_SLICES" / f"{number}.png", drawings.disc_slice(200, number)[0])
    follow("docs/from_ais.md", folder)
    assert len(list((folder / "predictions").glob("*.png"))) == 2
    for name in ("training", "validation"):
        with h5py.File(folder / f"image_{name}.h5", "w") as file:
            x, y = zip(*(drawings.disc_slice(32, seed) for seed in range(4)), strict=True)
            file[f"{name}_X"], file[f"{name}_Y"] = np.stack(x)[..., None], np.stack(y)[..., None]
    run_small("train.py", ["--train", "image_training.h5", "--validation", "image_validation.h5"], folder)


@pytest.mark.slow
def test_coreml(folder, packed):
    sets = ["--train", str(packed["packed"] / "train.h5"), "--validation", str(packed["packed"] / "validation.h5")]
    run_small("train.py", sets, folder)
    follow("docs/coreml.md", folder)
    flags = shlex.split("--run runs --format mlpackage --compare --replace --slices")
    run_small("convert_coreml.py", [*flags, str(packed["packed"] / "test.h5")], folder)


@pytest.mark.slow
def test_export(folder, packed):
    sets = ["--train", str(packed["packed"] / "train.h5"), "--validation", str(packed["packed"] / "validation.h5")]
    run_small("train.py", sets, folder)
    follow("docs/export.md", folder)
    (run,) = (folder / "runs").glob("*_unet")
    assert {path.name for path in (run / "export").iterdir()} == {"litert", "saved_model", "stripped"}


@pytest.mark.slow
def test_scores(folder):
    cases = make_cases(folder / "data" / "mine", cases=4, slices=2, size=32)
    run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=folder / "data" / "lists")
    for name in pd.read_csv(folder / "data" / "lists" / "test.csv")["y"]:
        write_image(folder / "predictions" / Path(name).parts[-3] / Path(name).name, drawings.disc_slice(32, 1)[1])
    labels = np.zeros((6, 16, 16), np.uint8)
    labels[2:4, 4:12, 4:12] = 1
    for name in ("scan1", "scan2"):
        for where, volume in (("volumes", labels), ("scans", labels * 100)):
            write(folder / where, f"{name}.nii.gz", as_volume(volume, np.eye(3), spacing=(1, 1, 3)))
        write(folder / "labels", f"{name}_seg.nii.gz", as_volume(np.roll(labels, 1, 2), np.eye(3), spacing=(1, 1, 3)))
    place, near = "seriesuid,coordX,coordY,coordZ,", "7.5,7.5,7.5,"
    tables = {
        "nodules": [f"{place}probability,diameter_mm", *(f"{name},{near}0.9,8" for name in ("scan1", "scan2"))],
        "annotations": [f"{place}diameter_mm", f"scan1,{near}8"],
        "annotations_excluded": [f"{place}diameter_mm", f"scan2,{near}8"],
        "seriesuids": ["scan1", "scan2"],
    }
    for name, lines in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    follow("docs/scores.md", folder)
    for name in ("volume_scores", "lesion_scores", "nodule_scores"):
        assert (folder / name / "report.html").exists()


@pytest.mark.slow
def test_benchmarks(folder):
    for seed in range(10):
        image, mask = drawings.disc_slice(40, seed)
        for side, picture in (("x", image), ("y", mask)):
            write_image(folder / "membrane" / f"case0{seed % 2 + 1}" / side / f"{seed:04d}.png", picture)
        for side, picture in (("images", image), ("masks", mask)):
            write_image(folder / "brain_tumour" / side / f"{seed}.png", picture)
    follow("docs/benchmarks.md", folder)
    assert len(list((folder / "predictions").glob("*.png"))) == 5
    assert list((folder / "br").glob("*_folds/choice.json"))
