"""Read a saved .mlmodel or .mlpackage."""

import json
from pathlib import Path, PurePosixPath

from common.errors import InputError
from common.system_errors import raise_system_error
from coreml import read_neural_network, read_program
from coreml.model import Feature, Model


def read_model(path):
    """Read a saved model.

    Args:
        path: .mlmodel with a neural network, or .mlpackage with an ML program.

    Returns:
        Model.

    Raises:
        InputError: if the file is missing, damaged, of another type, newer than coremltools supports, or contains an
            unsupported layer or operation, which the message names.
    """
    path = Path(path)
    spec = read_spec(path)
    _check_version(spec, path)
    readers = {"neuralNetwork": read_neural_network, "mlProgram": read_program}
    model_type = spec.WhichOneof("Type")
    if model_type not in readers:
        raise InputError(f"{path}: unsupported model type (found {model_type}); expected neuralNetwork or mlProgram")
    inputs = [_read_feature(feature, path) for feature in spec.description.input]
    outputs = [_read_feature(feature, path) for feature in spec.description.output]
    operations = readers[model_type].read_operations(spec, inputs, path)
    return Model(path, inputs, outputs, operations)


def read_spec(path):
    """Read the specification of a model file; it changes nothing in a package, which `load_spec` of coremltools does.

    Raises:
        InputError: if the file is missing, damaged or no model.
    """
    if path.suffix not in (".mlmodel", ".mlpackage"):
        raise InputError(f"{path}: not a Core ML model; use a .mlmodel or .mlpackage")
    if not path.exists():
        raise InputError(f"{path}: file does not exist")
    if path.is_dir() != (path.suffix == ".mlpackage"):
        found = "folder" if path.is_dir() else "file"
        raise InputError(f"{path}: a .mlpackage is a folder, a .mlmodel a file (found a {found}); copy it again")
    if path.is_dir() and not (path / "Manifest.json").is_file():
        raise InputError(f"{path}: not a Core ML package (Manifest.json is missing); copy or convert it again")
    file = _root_model(path) if path.is_dir() else path
    import coremltools as ct  # slow to import
    from google.protobuf.message import DecodeError  # loaded by coremltools

    try:
        spec = ct.utils.load_spec(str(file))  # of a package, it would write Manifest.json again
    except (DecodeError, RuntimeError, OSError, ValueError) as error:
        raise_system_error(error, path)
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{path}: damaged or not a Core ML model ({reason}); copy or convert it again") from None
    if not spec.specificationVersion or not spec.WhichOneof("Type"):
        raise InputError(f"{path}: damaged or not a Core ML model (no model type); copy or convert it again")
    return spec


def _root_model(package):
    """Path of the model in a package; InputError if its manifest is damaged or refers to files outside of it."""
    try:
        manifest = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
        items = manifest["itemInfoEntries"]
        paths = [PurePosixPath(item["path"]) for item in items.values()]
        root = package / "Data" / items[manifest["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{package}: damaged (Manifest.json: {type(error).__name__}: {error}); copy or convert it again"
        ) from None
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"{package}: its manifest leads out of the package (found {path}); convert it again")
    if not root.is_file():
        raise InputError(f"{package}: damaged (no file {root.relative_to(package)}); copy or convert it again")
    return root


def _check_version(spec, path):
    import coremltools as ct  # slow to import

    newest = max(version for name, version in vars(ct).items() if name.startswith("_SPECIFICATION_VERSION_IOS"))
    if spec.specificationVersion > newest:
        raise InputError(
            f"{path}: specification version too new (found {spec.specificationVersion}; coremltools {ct.__version__} "
            f"supports up to {newest}); convert for an older --target"
        )


def name_of(kinds, value):
    """Name of a value of an enum of protobuf, or its number if it has no name, as in a damaged file."""
    return kinds.Name(value) if value in kinds.values() else str(value)


def _read_feature(description, path):
    name, feature_type = description.name, description.type
    if feature_type.HasField("imageType"):
        image = feature_type.imageType
        colors = name_of(image.ColorSpace, image.colorSpace)
        if not colors.startswith(("GRAYSCALE", "RGB")):
            raise InputError(f"{path}: {name} is a {colors} image; only gray and RGB images are supported")
        shape = (image.height, image.width, *((3,) if colors == "RGB" else ()))
        return Feature(name, "image", shape, "UINT8")
    if feature_type.HasField("multiArrayType"):
        array = feature_type.multiArrayType
        return Feature(name, "array", tuple(array.shape), name_of(array.ArrayDataType, array.dataType))
    raise InputError(
        f"{path}: unsupported type of {name} (found {feature_type.WhichOneof('Type')}); expected an array or image"
    )
