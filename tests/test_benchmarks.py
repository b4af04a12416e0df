"""The benchmarks of tests/benchmarks/ run through, in small: their figures are not looked at."""

import importlib.util
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
from drawings import disc_slice, write_image
from running import ROOT, run_script

from common.training.sets import open_set

pytestmark = pytest.mark.slow
FOLDER = ROOT / "tests" / "benchmarks"
TINY = {"features": 2, "depth": 1}


@pytest.fixture
def benchmark(monkeypatch):
    """Function that loads a benchmark with other constants, and one round of each comparison."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["benchmark"])

    def load(name, **constants):
        import comparing

        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for constant, value in constants.items():
            assert hasattr(module, constant)
            monkeypatch.setattr(module, constant, value)
        if hasattr(module, "compare"):
            once = partial(comparing.compare, rounds=1, warm_up=False)
            monkeypatch.setattr(module, "compare", lambda what, ours, theirs, **_: once(what, ours, theirs))
        return module

    return load


@pytest.fixture
def slices(tmp_path):
    """Folder of a data set like ../shared/data/membrane."""
    for number in range(3):
        for side, picture in zip("xy", disc_slice(64, number), strict=True):
            write_image(tmp_path / "membrane" / "case01" / side / f"{number + 1:04d}.png", picture)
    return tmp_path / "membrane"


def test_anisotropic(benchmark, tmp_path, capfd):
    small = {"VOLUMES": {"train": 3, "test": 1}, "SHAPE": (8, 24, 24), "TRIAL": (1, 2), "SEEDS": (1,)}
    module = benchmark("anisotropic", **small, TRAINING=["--epochs", "1"])
    _, labels = module.draw(0)
    assert set(labels.ravel().tolist()) == {0, 1, 2}
    module.main(tmp_path)
    table = capfd.readouterr().out.split("minutes of training each")[1].split("\n")[1:]
    assert [line.split()[0] for line in table if line][-2:] == ["plan", "kernels"]


def test_augment(benchmark, capsys):
    benchmark("augment", CASES=1).main()
    assert "times as fast" in capsys.readouterr().out


def test_viewer(benchmark, capsys):
    pytest.importorskip("playwright")
    benchmark("viewer", SIDE=64, ROUNDS=1).main(3)
    assert "first slice after" in capsys.readouterr().out


def test_augmentation(benchmark, capsys):
    benchmark("augmentation", CASES=3, EPOCHS=1, SIDE=64, SMALLEST=TINY).waiting()
    assert "training and validation: " in capsys.readouterr().out
    code = "import augmentation as a; a.SIDES, a.ROUNDS = (32,), 1; a.speed()"  # it keeps its process on one core
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), str(ROOT)])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "times as fast as Keras" in result.stdout


def test_coreml(benchmark, slices, tmp_path):
    coreml = benchmark("coreml", NETWORKS={"tiny": ("unet", 32, TINY)}, SLICES=slices / "case01")
    coreml.train("tiny", tmp_path / "network.keras")
    assert "error" not in coreml.convert(tmp_path / "network.keras", coreml.OPTIONS[0])


def test_evaluate(benchmark, capsys):
    benchmark("evaluate", IMAGES=3).main()
    assert "times as fast" in capsys.readouterr().out


def test_hausdorff(benchmark, capsys):
    benchmark("hausdorff", BATCH=1, SIZE=24, FEATURES=2).main()
    assert capsys.readouterr().out.count("times as fast") == 2


def test_large_sets(benchmark, capsys, monkeypatch):
    large_sets = benchmark("large_sets", SIDE=32, BLOCK=4, OF_CASE=5)
    monkeypatch.setattr(sys, "argv", ["large_sets.py", "--images", "40", "--subset", "16", "--sizes", "20,30"])
    large_sets.main()
    assert "microseconds for each further image" in capsys.readouterr().out


def test_learning(benchmark, capsys):
    benchmark("learning", RUNS=2).main(["losses"])
    assert capsys.readouterr().out.strip() == "2 runs, 0 without learning"


def test_display(benchmark, capfd):
    benchmark("display", CASES=5, SIZE=64, FEATURES=2).main(2)
    assert "2 epochs: " in (out := capfd.readouterr().out) and "move_to: " in out


def test_memory(benchmark, capsys):
    memory = benchmark("memory", NETWORKS=("se_resunet3d",))
    memory.main(8, 2)
    assert "a step takes" in capsys.readouterr().out
    memory.main("8", "2", "low")
    assert "with MEMORY low" in capsys.readouterr().out


def test_networks(benchmark, capsys):
    benchmark("networks", NETWORKS={"tiny": ("unet", 32, TINY)}).main([])
    assert "tiny: " in capsys.readouterr().out


def test_overfit(benchmark, slices, capsys):
    overfit = benchmark("overfit", NETWORKS={"tiny": ("unet", 32, TINY, 1)}, SLICES=slices, COUNT=2, GOAL=0.01)
    overfit.main([])
    assert "converts to mlmodel, mlpackage" in capsys.readouterr().out


def test_own_images(benchmark, monkeypatch, tmp_path, capsys):
    for number in range(1, 9):
        image, mask = disc_slice(48, number)
        write_image(tmp_path / "images" / f"{number}.png", image)
        write_image(tmp_path / "masks" / f"{number}_mask.png", mask)
    peer = f"{sys.executable} -c \"print('Dice mean 0.5')\""
    flags = ["--minutes", "1.5", "--folds", "2", "--seeds", "1", "--peer", peer, "--against", "--final 0.5"]
    places = [str(tmp_path / name) for name in ("images", "masks", "work")]
    monkeypatch.setattr(sys, "argv", ["own_images.py", *places, *flags])
    benchmark("own_images", FLAGS=["--size", "48"]).main()
    out = capsys.readouterr().out
    assert "seed 1, fold 2: ours 0." in out and "peer: mean Dice 0.5000" in out and "--final 0.5: mean Dice 0." in out
    (seen,) = (tmp_path / "work" / "ours-final-0-5" / "fold1-seed1" / "final" / "packed").glob("train.h5")
    assert len(open_set(seen)) == 4, "the images of the fold are in no set"


def test_pack(benchmark, capsys):
    benchmark("pack", DISTINCT=2, SIZE=32, COUNTS=(2, 4, 6)).main()
    assert "peak memory" in capsys.readouterr().out


def test_precision(benchmark, packed, tmp_path, capsys):
    sets = [str(packed["packed"] / f"{name}.h5") for name in ("train", "validation")]
    flags = ["--seeds", "1", "--epochs", "2", "--model-settings", repr(TINY)]
    benchmark("precision").main([*sets, str(tmp_path / "work"), *flags])
    printed = capsys.readouterr().out
    assert "\n    2 " in printed and "mixed_bfloat16: best Dice " in printed


def test_predict(benchmark, capsys):
    benchmark("predict", SIDE=32, SLICES=3, BATCH=2, ROUNDS=1).main(2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("3 slices", "  largest"))]
    pairs = list(zip(lines[::2], (float(line.split()[-1]) for line in lines[1::2]), strict=True))
    assert pairs and all(difference < (1e-2 if "bfloat16" in what else 1e-5) for what, difference in pairs)


def test_predict_script(benchmark, capsys):
    benchmark("predict_script", SIDE=32, FEATURES=2).main("3", "1", ROOT)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("volume of 32x32x3, ")]
    assert lines and "mixed" not in lines[0] and "auto, against predict.py of " in lines[-1]


def test_recipes(benchmark, tmp_path, capfd):
    """Of the recipe only the drawing and the first command, an import; test_recipes.py runs all of them in small."""
    recipes = benchmark("recipes", COMMANDS=1)
    recipes.RECIPES["muscle"] = ("muscle", partial(recipes.drawings.muscle, slices=4, side=64))
    recipes.main(tmp_path, ["muscle"])
    assert "wrote 4 slices" in capfd.readouterr().out


def test_sample(benchmark, tmp_path, capsys):
    networks = {"first": ("unet", TINY), "second": ("unet", TINY)}
    sample = ["--count", 8, "--slices", 6, "--size", 64]
    benchmark("sample", NETWORKS=networks, EPOCHS=1, SAMPLE=sample).main(tmp_path)
    assert capsys.readouterr().out.count("test Dice") == 2


def test_scale(benchmark, monkeypatch):
    """It starts the others, which have tests of their own."""
    started = []
    scale = benchmark("scale")
    monkeypatch.setattr(scale.subprocess, "run", lambda command, **_: started.append(command) or Done())
    scale.main()
    files = [word for command in started for word in command if word.endswith(".py")]
    assert len(started) == 3 and all((ROOT / file).is_file() for file in files)


class Done:
    returncode = 0


def test_second_stage(benchmark, tmp_path, capfd):
    tiny = ["--model-settings", "{'features': 4, 'depth': 2}", "--epochs", "8"]
    benchmark(
        "second_stage",
        SCANS={"train": 4, "test": 2},
        FIRST=["--model", "unet", "--learning-rate", "1e-2", *tiny],
        SECOND=["--model", "crop_classifier", *tiny],
    ).main(tmp_path)
    assert "false positives a scan at 0.9 sensitivity" in capfd.readouterr().out


def test_train(benchmark, capsys):
    small = {"cases": 5, "size": 64, "epochs": 2}
    benchmark("train", SPEED=small, DICE=small, DICE_FEATURES=2, BATCH=8, PRECISIONS=["float32"], SEEDS=[1]).main("2")
    assert "best validation Dice" in capsys.readouterr().out


def test_tune(benchmark, packed, tmp_path, capfd):
    for folder in ("packed", "lists"):
        shutil.copytree(packed[folder], tmp_path / folder)
    tune = benchmark("tune", TRIALS=3, EPOCHS=1, WAIT=(0.5, 1.5))
    tune.SETTINGS.update({"--trials": 3, "--epochs": 1, "--models": ["unet"], "--model-settings": {"unet": TINY}})
    tune.main(tmp_path)
    assert "0 lost, 0 run twice" in capfd.readouterr().out


def test_volume():
    assert "predict.py: " in run_script("tests/benchmarks/volume.py", "3").stdout


def test_volumes(benchmark, tmp_path, capsys):
    """The part on memory; the commands of the recipe in `steps` are followed in conftest.py."""
    volumes = benchmark("volumes", SCAN=(48, 48, 24), COUNTS=(2, 3), VOXELS=(("whole", 5000), ("patch", 5000)))
    volumes.memory(tmp_path)
    assert "prediction of 48x48x24 in two steps" in capsys.readouterr().out
