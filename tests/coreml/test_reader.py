"""Saved models that are read and run, and files that are damaged or not known."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pixelwise import X, close, convolve_by_hand, random
from running import bytes_of

from common.errors import InputError
from coreml.convert import describe_file
from coreml.reader import read_model

ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb


def save_program(function, path, *shapes, **options):
    """Write a small ML program; `function` takes the inputs a, b, ... of the builder."""
    specs = [mb.TensorSpec(shape=shape) for shape in shapes]
    made = mb.program(input_specs=specs, opset_version=ct.target.iOS16)(function)
    model = ct.convert(
        made, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16, skip_model_load=True, **options
    )
    model.save(str(path))
    return path


@pytest.fixture(scope="module")
def a_program(tmp_path_factory):
    def function(a):
        return mb.relu(x=mb.conv(x=a, weight=random(200, 60, 1, 1), bias=random(200)), name="result")

    folder = tmp_path_factory.mktemp("program")
    return save_program(function, folder / "model.mlpackage", (1, 60, 2, 2), compute_precision=ct.precision.FLOAT32)


def test_program_from_its_file(a_program):
    x = random(1, 60, 2, 2, seed=5)
    (result,) = read_model(a_program).run({"a": x}).values()
    close(
        result, np.maximum(convolve_by_hand(x, random(200, 60, 1, 1), random(200), (1, 1), [(0, 0)] * 2, (1, 1), 1), 0)
    )


def test_half_precision_is_rounded_after_every_operation(tmp_path):
    def function(a):
        return mb.mul(x=mb.add(x=a, y=np.float32(1000.3)), y=np.float32(100.0), name="result")

    path = save_program(function, tmp_path / "m.mlpackage", (3,), compute_precision=ct.precision.FLOAT16)
    (result,) = read_model(path).run({"a": np.float32([0.1, 0.4, -900])}).values()
    with np.errstate(over="ignore"):
        expected = (np.float16([0.1, 0.4, -900]) + np.float16(1000.3)) * np.float16(100)  # beyond 65504: infinite
    np.testing.assert_array_equal(result, expected.astype(np.float32))
    assert np.isinf(result[:2]).all()


# --- bad files


@pytest.fixture(scope="module")
def a_network(tmp_path_factory):
    """A neural network of one layer."""
    builder = ct.models.neural_network.NeuralNetworkBuilder(
        [("input", ct.models.datatypes.Array(4, 6, 5))], [("output", None)], disable_rank5_shape_mapping=True
    )
    builder.add_activation("last", "RELU", "input", "output")
    path = tmp_path_factory.mktemp("network") / "model.mlmodel"
    ct.utils.save_spec(builder.spec, str(path))
    return path


def changed(path, folder, change):
    """A copy of a model whose message `change` has changed."""
    spec = ct.utils.load_spec(str(path))
    change(spec)
    target = folder / path.name
    if path.suffix == ".mlmodel":
        target.write_bytes(spec.SerializeToString())
    else:
        shutil.copytree(path, target)
        (target / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(spec.SerializeToString())
    return target


def test_network_from_its_file(a_network):
    (result,) = read_model(a_network).run({"input": X[0]}).values()
    close(result, np.maximum(X[0], 0))
    with pytest.raises(ValueError, match=r"input: wrong shape \(found \(1, 4, 6, 5\), expected \(4, 6, 5\)\)"):
        read_model(a_network).run({"input": X})


def retype(spec):
    spec.pipeline.SetInParent()


def set_version(spec):
    spec.specificationVersion = 99


def unknown_layer(spec):
    spec.neuralNetwork.layers[0].lrn.SetInParent()


def five_axes(spec):
    spec.neuralNetwork.arrayInputShapeMapping = 0


def lost_input(spec):
    spec.neuralNetwork.layers[0].input[0] = "elsewhere"


def lost_output(spec):
    spec.neuralNetwork.layers[0].output[0] = "elsewhere"


def short_weights(spec):
    layer = spec.neuralNetwork.layers[0].convolution
    layer.outputChannels, layer.kernelChannels = 3, 4
    layer.weights.floatValue.extend([1.0] * 7)


def preprocess(spec):
    spec.neuralNetwork.preprocessing.add().meanImage.SetInParent()


def unknown_kind(spec):
    spec.description.input[0].type.multiArrayType.dataType = 655392


def unknown_operation_of_a_layer(spec):
    spec.neuralNetwork.layers[0].unary.type = 99


def color_input(spec):
    spec.description.input[0].type.imageType.colorSpace = 30  # blue first


@pytest.mark.parametrize(
    "change, text",
    [
        (retype, r"unsupported model type \(found pipeline\)"),
        (set_version, r"specification version too new \(found 99"),
        (unknown_layer, r"unsupported type of layer last \(found lrn\)"),
        (five_axes, "five axes"),
        (lost_input, "activation last reads 'elsewhere', which nothing computes"),
        (lost_output, "nothing computes the output output"),
        (short_weights, r"convolution last cannot be read: wrong number of weights \(found 7"),
        (preprocess, "meanImage before the network"),
        (color_input, "a BGR image"),
        (unknown_operation_of_a_layer, "unary last cannot be read: Enum Operation has no name defined for value 99"),
    ],
)
def test_foreign_networks_are_named(tmp_path, a_network, change, text):
    path = changed(a_network, tmp_path, change)
    with pytest.raises(InputError, match=text):
        read_model(path).run({"input": X[0]})


def test_an_unknown_type_of_values_is_its_number(tmp_path, a_network):
    path = changed(a_network, tmp_path, unknown_kind)
    assert read_model(path).inputs[0].data_type == "655392"
    assert next(describe_file(path)) == "input   array of (4, 6, 5), 655392"


@pytest.mark.parametrize("manifest", [{"fileFormatVersion": None}, {"fileFormatVersion": 7}])
def test_a_package_is_described_without_its_manifest_being_written(tmp_path, a_program, manifest):
    package = tmp_path / a_program.name
    shutil.copytree(a_program, package)
    file = package / "Manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | manifest))
    before = file.read_bytes()
    assert len(list(describe_file(package))) == 3
    assert file.read_bytes() == before


def first_operation(spec):
    function = spec.mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    return next(operation for operation in operations if operation.type != "const")


def unknown_operation(spec):
    first_operation(spec).type = "gru"


def lost_function(spec):
    del spec.mlProgram.functions["main"]


def wrong_parameter(spec):
    operation = first_operation(spec)
    operation.inputs["x"].arguments[0].name = "elsewhere"


@pytest.mark.parametrize(
    "change, text",
    [
        (unknown_operation, r"unsupported type of operation .* \(found gru\)"),
        (lost_function, "no function main"),
        (wrong_parameter, "coremltools cannot read its program"),
        (set_version, r"specification version too new \(found 99"),
    ],
)
def test_foreign_programs_are_named(tmp_path, a_program, change, text):
    with pytest.raises(InputError, match=text):
        read_model(changed(a_program, tmp_path, change))


def cut_file(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def move_model_out(package):
    manifest = package / "Manifest.json"
    manifest.write_text(manifest.read_text().replace("com.apple.CoreML\\/model", "..\\/..\\/model"))
    manifest.write_text(manifest.read_text().replace("com.apple.CoreML/model", "../../model"))


def rewrite_manifest(package, **changes):
    manifest = package / "Manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


DATA = Path("Data") / "com.apple.CoreML"


@pytest.mark.parametrize(
    "harm, text",
    [
        (lambda p: (p / "Manifest.json").unlink(), "Manifest.json is missing"),
        (lambda p: (p / "Manifest.json").write_text("{"), "damaged"),
        (lambda p: (p / "Manifest.json").write_text("[]"), "damaged"),
        (lambda p: rewrite_manifest(p, rootModelIdentifier="x"), "damaged .Manifest.json: KeyError"),
        (lambda p: rewrite_manifest(p, rootModelIdentifier=[]), "damaged .Manifest.json: TypeError"),
        (move_model_out, "leads out of the package .found ../../model.mlmodel"),
        (lambda p: (p / DATA / "model.mlmodel").unlink(), "damaged"),
        (lambda p: cut_file(p / DATA / "model.mlmodel", 0.6), "damaged"),
        (lambda p: (p / DATA / "weights" / "weight.bin").unlink(), "damaged"),
        (lambda p: cut_file(p / DATA / "weights" / "weight.bin", 0.5), "damaged"),
        (lambda p: (p / DATA / "weights" / "weight.bin").write_bytes(b""), "damaged"),
    ],
)
def test_damaged_packages_are_named(tmp_path, a_program, harm, text):
    path = tmp_path / "model.mlpackage"
    shutil.copytree(a_program, path)
    harm(path)
    with pytest.raises(InputError, match=text):
        read_model(path)


def test_reading_a_package_changes_nothing_in_it(tmp_path, a_program):
    """coremltools writes the manifest again when it opens a package."""
    path = shutil.copytree(a_program, tmp_path / "model.mlpackage")
    rewrite_manifest(path, note="mine")
    before = bytes_of(path)
    assert read_model(path).operations and bytes_of(path) == before


def test_damaged_files_are_named(tmp_path, a_network):
    for name, content, text in (
        ("empty.mlmodel", b"", "no model type"),
        ("text.mlmodel", b"this is no model" * 10, "damaged"),
        ("cut.mlmodel", a_network.read_bytes()[:-3], "damaged"),
        ("model.onnx", b"", "not a Core ML model"),
        ("file.mlpackage", b"", "found a file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=text):
            read_model(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        read_model(tmp_path / "gone.mlmodel")
