"""Metadata of a Core ML model: its input, its output, and its origin."""

import json

from common.public_settings import without_own_paths
from common.streams import as_utf8


def recorded_facts(run, source):
    """What a run recorded about a model, for its metadata.

    Args:
        run: `common.training.run_folder.Run`; empty for a single .keras file.
        source: Path of the .keras file.

    Returns:
        dict; None for unknown values.

    Raises:
        InputError: if a file of the run is damaged.
    """
    intensity = getattr(run.data, "intensity", None)
    return {
        "network": without_own_paths(run.settings.get("MODEL")),
        "run": run.name if run.exists else None,
        "weights": source.name,
        "score": run.score(source),
        "scores": run.validation_metrics(source),
        "class_names": run.class_names(run.data) or None,
        "spacing": run.data.spacing,
        "window": getattr(run.data, "window", None),  # volumes have none
        "intensity": intensity and intensity.model_dump(),  # how volumes were standardized
        "settings": without_own_paths(run.settings) or None,
    }


def complete_spec(model, contract, network, texts, facts):
    """Name the output of a model and add its metadata.

    Args:
        model: coremltools.models.MLModel.
        contract: Contract.
        network: keras.Model that was converted.
        texts: dict of author, licence, description, input and output; empty descriptions get a default text.
        facts: dict of further metadata; None values are skipped.

    Returns:
        Model message.
    """
    spec, input_shape, output_shape = model.get_spec(), network.input_shape, network.output_shape
    _declare_features(spec, output_shape, contract)
    _describe(spec.description, contract, input_shape, output_shape, texts, facts)
    return spec


def _declare_features(spec, output_shape, contract):
    """Name the output, and declare neural network arrays as doubles, which A.I.Segmentation reads."""
    import coremltools as ct  # slow to import

    ct.utils.rename_feature(spec, spec.description.output[0].name, "output")
    if contract.format == "mlpackage":  # ML programs have no doubles
        return
    *sides, channels = output_shape[1:]
    channels = channels if contract.output_kind == "probabilities" else 1
    spec.description.output[0].type.multiArrayType.shape[:] = (channels, *sides)
    for feature in (*spec.description.input, *spec.description.output):
        if feature.type.HasField("multiArrayType"):
            feature.type.multiArrayType.dataType = ct.proto.FeatureTypes_pb2.ArrayFeatureType.DOUBLE


def _describe(description, contract, input_shape, output_shape, texts, facts):
    *sides, channels = output_shape[1:]
    size, is_volume = "x".join(map(str, sides)), len(sides) == 3
    classes = contract.classes_of(channels)
    kind = {1: "gray", 3: "RGB"}.get(input_shape[-1])
    values = f"{kind} values divided by 255" if kind else f"{input_shape[-1]} channels of values divided by 255"
    if is_volume:
        values = f"standardized as in training, channels: {input_shape[-1]}"
    elif contract.input_kind == "image":
        values = f"{'an RGB' if kind == 'RGB' else 'a gray'} image of 0..255"
    several = "each class, which may overlap" if is_volume or contract.overlapping else "background and classes"
    meaning = f"probability of {'the mask' if channels == 1 else several}, 0..1"
    if contract.output_kind == "image" and channels == 1:
        meaning = "probability of the mask times 255, a gray image"
    elif contract.output_kind != "probabilities":
        meaning = f"class numbers, 0 (background) to {classes}"
    metadata, texts = description.metadata, {name: as_utf8(text) for name, text in texts.items()}
    metadata.author, metadata.license = texts["author"], texts["licence"]
    metadata.shortDescription = texts["description"] or f"{facts['network']}, {size}, classes: {classes}"
    description.input[0].shortDescription = texts["input"] or f"{'volume' if is_volume else 'slice'}, {values}"
    description.output[0].shortDescription = texts["output"] or meaning
    for key, value in facts.items():
        if value is not None:
            metadata.userDefined[key] = as_utf8(value) if isinstance(value, str) else json.dumps(value)
