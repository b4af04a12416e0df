"""The commands that README and docs show, in the order of each page, in small and on drawn data.

The recipes have tests of their own (test_recipes.py); commands that install, start servers or need several machines are
left out: see LEFT_OUT.
"""

import re
import shlex

import drawings
import numpy as np
import pytest
import trimesh
from drawings import as_volume, make_cases, write, write_decathlon, write_picture
from running import ROOT, leftovers, run_here, run_script

TINY = ["--epochs", "1", "--model-settings", "{'features': 2, 'depth': 1}", "--batch-size", "4"]
SMALL = {
    "0_import_images.py": ["--size", "32"],
    "0_import_volumes.py": ["--size", "32", "--slices", "all"],
    "0_import_stl.py": ["--interval", "8", "--size", "32"],
    "1_augment_cases.py": ["--filters", "['O']", "--shapes", "['']"],
    "3_pack_volumes.py": ["--voxels", "8000"],
    "make_sample.py": ["--count", "5", "--slices", "6", "--size", "64"],
    "train.py": TINY,
    "run_pipeline.py": TINY,
    "tune.py": shlex.split(
        """--trials 2 --epochs 1 --models "['unet']" --precisions "['float32']" --losses "['dice']"
        --model-settings "{'unet': {'features': 2, 'depth': [1, 2]}}" """
    ),
}
LEFT_OUT = re.compile(r"python3? -m (venv|pytest|common)|^(\.|source|export|srun|ruff|tensorboard|[A-Z_]+=)")


def commands_of(page):
    """Commands of the bash blocks of a page that run a script, as lists of words."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip() and not LEFT_OUT.search(line.strip())]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the data that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    for seed in range(30):
        for side, image in zip(("images", "masks"), drawings.disc_slice(40, seed), strict=True):
            write_picture(tmp_path / "my_data" / side / f"patient{seed // 5}" / f"{seed}.png", image)
    for number in range(3):
        image, mask = drawings.disc_slice(40, 100 + number)
        write_picture(tmp_path / "my_data" / "new" / f"{number}.png", image)
        write_picture(tmp_path / "my_data" / "new_masks" / f"{number}.png", mask)
    trimesh.creation.icosphere(2, 10.0).export(tmp_path / "my_data" / "heart.stl")
    return tmp_path


def replace_names(words, folder):
    """Words with the names of runs that exist now in the place of those on the page."""
    newest = sorted(folder.glob("runs/*"), key=lambda path: path.stat().st_mtime)
    names = {True: "", False: ""} | {path.name.endswith("_folds"): f"runs/{path.name}" for path in newest}
    words = [re.sub(r"^runs/\d{8}-\d{6}_unet_folds$", names[True], word) for word in words]
    return [re.sub(r"^runs/\d{8}-\d{6}_unet$", names[False], word) for word in words]


def follow(page, folder):
    """Run the commands of a page."""
    for program, script, *flags in commands_of(page):
        assert program == "python"
        run = run_script if script in ("run_pipeline.py", "tune.py") else run_here
        if script == "train.py" and "--fold" in flags:
            run = run_script
        extra = SMALL.get(script.split("/")[-1], [])
        if "se_resunet3d" in flags:
            extra = ["--epochs", "1", "--model-settings", "{'features': 2, 'depth': 1}"]
        if "resume" in flags:
            extra = ["--epochs", "2"]
        run(script, *replace_names(flags, folder), *extra)
    assert not leftovers(folder)


@pytest.mark.slow
def test_first_model(folder):
    follow("docs/first_model.md", folder)
    assert list(folder.glob("runs/*/*.mlmodel")) and (folder / "scores" / "report.html").exists()


@pytest.mark.slow
def test_readme(folder):
    follow("README.md", folder)
    assert len(list((folder / "predictions").glob("*.png"))) == 3


@pytest.mark.slow
def test_choosing(folder):
    cases = make_cases(folder / "data" / "mine", cases=6, slices=3, size=32)
    run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=folder / "lists")
    run_here("preprocess/3_pack_hdf5.py", LISTS=folder / "lists", PACKED=folder / "data" / "packed")
    follow("docs/choosing.md", folder)
    assert (folder / "study" / "best_settings.json").exists()


@pytest.mark.slow
def test_your_data(folder):
    values = np.random.default_rng(0).integers(-300, 300, (12, 24, 24)).astype(np.int16)
    for name, volume in (("scans", values), ("labels", (values > 150).astype(np.uint8))):
        write(folder / name, "scan1.nii.gz", as_volume(volume, np.eye(3), spacing=(1, 1, 3), origin=(-12, -12, -18)))
        write(folder / name, "scan2.nii.gz", as_volume(volume, np.eye(3), spacing=(1, 1, 3), origin=(-12, -12, -18)))
    write_decathlon(folder / "Task03_Liver", cases=5, test=1)
    follow("docs/your_data.md", folder)
    assert (folder / "volume_scores" / "report.html").exists() and (folder / "run_lengths.csv").exists()
    assert len(list((folder / "liver").glob("*.nii.gz"))) == 1
