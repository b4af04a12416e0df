"""export.py: what it writes, executed by each runtime, and what it says of bad input."""

import io
import json
import os
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from running import assert_refused, leftovers, run_here

import coreml.exports as exports
from common.errors import InputError
from common.training.run_folder import Run
from common.training.trained_models import load_network
from coreml.compare import compare_on_slices
from coreml.convert import Contract
from coreml.exports import EXPORTS, ExportedModel, write_model
from models import build_model

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exported from TensorFlow only")
SCRIPT = "export.py"
MISSING = sorted({package for format in EXPORTS.values() for package in format.missing_packages()})
needs_all = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")


def with_random_weights(network):
    rng = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(rng.uniform(0.5 if "variance" in weight.name else -0.5, 1, weight.shape))
    return network


@needs_all
def test_every_format_is_written_executed_and_described(trained, packed, tmp_path):
    run, out = trained[0], tmp_path / "out"
    result = run_here(SCRIPT, RUN=run, OUTPUT=out, COMPARE=True, CLASS_NAMES=["disc"], CHECKED=2)
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line}
    assert sorted(path.name for path in out.iterdir()) == sorted(EXPORTS)
    network = load_network(run / "best_dice.keras")
    image = np.random.default_rng(0).random((3, *network.input_shape[1:]), np.float32)
    for name, kind in EXPORTS.items():
        assert float(rows[name][2]) < 1e-5 and rows[name][4] == "1.0000" and float(rows[name][6]) > 0
        card = json.loads((out / name / f"{run.name}.json").read_text())
        assert (card["format"], card["file"]) == (name, f"{run.name}{kind.ending}")
        assert card["input"]["shape"] == [None, *network.input_shape[1:]] and card["input"]["name"] == "input"
        assert card["normalization"] == {"divide_by": 255} and card["class_names"] == ["disc"]
        assert card["threshold"] == 0.5 and card["check"]["largest"] < 1e-5
        model = ExportedModel(out / name / card["file"], name)
        assert model.run({"input": image[0].transpose(2, 0, 1)})["output"].shape == (1, *network.output_shape[1:3])
        files = [path for path in (out / name).rglob("*") if path.is_file()]
        assert not [path for path in files if str(tmp_path.parent).encode() in path.read_bytes()]
    session = EXPORTS["onnx"].load(out / "onnx" / f"{run.name}.onnx")
    assert session(image).shape == (3, *network.output_shape[1:])  # any number of images
    assert not leftovers(out)


@needs_all
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_colors_classes_and_sides_that_need_padding(tmp_path, name):
    network = with_random_weights(build_model("unet", (34, 34, 3), 2, features=2, depth=2))
    write_model(network, name, tmp_path / f"m{EXPORTS[name].ending}", "x.keras")
    images = list(np.random.default_rng(1).random((2, 34, 34, 3), np.float32))
    model = ExportedModel(tmp_path / f"m{EXPORTS[name].ending}", name)
    comparison = compare_on_slices(network, model, Contract(name), images, [None, None])
    assert comparison.max_difference < 1e-4 and comparison.changed_pixels == 0
    assert len(list(tmp_path.iterdir())) == (2 if name == "openvino" else 1)


def test_a_model_that_differs_is_marked_and_ends_the_script(trained, tmp_path, monkeypatch):
    def write_another(network, name, path, source):
        weights = [weight + 0.3 for weight in network.get_weights()]
        other = keras.models.clone_model(network)
        other.set_weights(weights)
        write_model(other, name, path, source)

    with monkeypatch.context() as patch:
        patch.setattr(exports, "write_model", write_another)
        settings = {"RUN": trained[0], "OUTPUT": tmp_path / "out", "FORMATS": ["saved_model"], "CHECKED": 1}
        said = assert_refused(SCRIPT, "-unverified does not match Keras: the probabilities differ", **settings)
        assert len(said.splitlines()) == 1
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["saved_model-unverified"]
    run_here(SCRIPT, **settings)
    assert_refused(SCRIPT, "saved_model: already exists", **settings)


def test_volumes_are_exported(tmp_path):
    network = build_model("se_resunet3d", (None, None, None, 2), 1, features=2, depth=1, ratio=2)
    network.save(tmp_path / "net.keras")
    said = run_here(SCRIPT, RUN=tmp_path / "net.keras", FORMATS=["saved_model"], CHECKED=1).stdout
    assert "checking on 1 drawn volume" in said
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["saved_model"]
    card = json.loads((tmp_path / "export" / "saved_model" / "net.json").read_text())
    assert card["input"]["shape"] == [None, None, None, None, 2] and card["check"]["largest"] < 1e-5


def test_names_that_are_not_utf8(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / os.fsdecode(b"r\xe9"))
    flags = {"RUN": run, "FORMATS": ["saved_model"], "CHECKED": 1}
    run_here(SCRIPT, OUTPUT=tmp_path / "out", **flags)
    assert (tmp_path / "out" / "saved_model" / "r_xe9.json").is_file()
    assert_refused(SCRIPT, "OUTPUT", "not UTF-8; use another folder", **flags)
    assert_refused(SCRIPT, "OUTPUT", "[ ]", "use another folder for saved_model", OUTPUT=tmp_path / "out [1]", **flags)


def test_what_is_missing_or_wrong_is_one_line(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "find_spec", lambda name: None if name == "tf2onnx" else True)
    run = {"RUN": trained[0], "OUTPUT": tmp_path / "out"}
    assert_refused(SCRIPT, "FORMATS: onnx needs packages", "(tf2onnx); pip install -r requirements-export.txt", **run)
    assert_refused(SCRIPT, "CLASS_NAMES: wrong number", FORMATS=["litert"], CLASS_NAMES=["a", "b"], **run)
    assert_refused(SCRIPT, "FORMATS", status=2, FORMATS=["tflite"], **run)
    assert_refused(SCRIPT, "SLICES", FORMATS=["litert"], SLICES=tmp_path / "gone", **run)
    two = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    keras.Model(two, keras.layers.Add()(two)).save(tmp_path / "two.keras")
    assert_refused(SCRIPT, "unexpected input or output", RUN=tmp_path / "two.keras", FORMATS=["litert"])
    assert not (tmp_path / "out").exists() and not leftovers(tmp_path)


def test_a_stripped_model_predicts_the_same_in_less_space(trained, tmp_path):
    run = trained[0]
    said = run_here(SCRIPT, RUN=run, OUTPUT=tmp_path, STRIP=True).stdout
    stripped = Run(tmp_path / "stripped")
    assert f"wrote {stripped}" in said
    files = run / "best_dice.keras", stripped.folder / "best_dice.keras"
    assert files[1].stat().st_size < files[0].stat().st_size
    for file, kept in zip(files, (True, False), strict=True):
        with zipfile.ZipFile(file) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
            assert bool(weights.get("optimizer")) == kept
    before, after = map(load_network, files)
    for pair in zip(before.get_weights(), after.get_weights(), strict=True):
        np.testing.assert_array_equal(*pair)
    original = Run(run)
    assert stripped.data == original.data and stripped.class_names(stripped.data) == original.class_names(original.data)
    assert stripped.score(files[1]) == original.score(files[0])
    calibration = stripped.calibration_of(files[1])
    assert calibration and calibration.threshold == original.calibration_of(files[0]).threshold
    assert str(tmp_path.parent) not in stripped.settings_file.read_text()


@needs_all
@pytest.mark.parametrize("name", ["onnx", "litert", "openvino"])
def test_what_a_runtime_cannot_read_is_one_line(tmp_path, name):
    path = tmp_path / f"m{EXPORTS[name].ending}"
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match=rf"^{path.name}: cannot be executed \([^\n]+\); use another format$"):
        ExportedModel(path, name)


def test_a_layer_that_a_format_lacks_is_reported(tmp_path):
    """LiteRT has no 3-D pooling."""
    network = keras.Sequential([keras.Input((4, 4, 4, 1), name="input"), keras.layers.MaxPooling3D(2, name="pool")])
    write_model(network, "litert", tmp_path / "m.tflite", "x.keras")
    with pytest.raises(InputError, match=r"m\.tflite: cannot be executed \(LiteRT has no operation MaxPool3D\)"):
        ExportedModel(tmp_path / "m.tflite", "litert").run({"input": np.zeros((1, 4, 4, 4), np.float32)})
