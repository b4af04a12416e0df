"""Network files of AIS Training Codeset, with `Build_Model()` instead of `build_model`, as networks of this toolkit."""

import types

import keras

USUAL_BATCH = 32  # what AIS Training Codeset takes for what a file does not say
USUAL_OPTIMIZER = "nadam"
USUAL_RATES = {
    "formula": [None, 0.0, 0],
    "graph": [[0, 4e-3], [100, 2e-3]],
    "step": [0.1, 2.5],
    "limit": [0.001, 1.0],
    "patience": [1000, 1000],
    "stop_count": 50,
}
COMPARISON = {  # with which its author compared U-net, DeepLab v3+ and CV-net SYNAPSE
    "OPTIMIZER": "nadam",
    "LEARNING_RATE": 5e-3,
    "SCHEDULE": "graph",
    "SCHEDULE_SETTINGS": {"points": [[0, 5e-3], [5, 1.5e-2], [10, 1.5e-2], [20, 1e-2], [30, 7.5e-3], [50, 5e-3]]},
    "CONTROLLER": {},
    "EPOCHS": 50,
    "EARLY_STOP": 50,
}
OWN_FUNCTIONS = {  # of files without Learning_Rate_Parameters
    "formula": ("Learning_Rate_Formula",),
    "graph": ("Learning_Rate_Lsit", "Learning_Rate_List"),  # the first one is spelled so there
    "patience": ("Count_before_LR_Step",),
    "stop_count": ("Count_before_Stop",),
}


def adapt(module, path):
    """Give a module with `Build_Model` what modules of `models.NETWORKS` have, and make its layers known to Keras.

    Args:
        module: module of the file, executed by `models.find_network`.
        path: path of the file, for messages.

    Raises:
        ValueError: if a function of the file fails, or returns something else than in AIS Training Codeset.
    """
    module.build_model = _make_builder(module, path)
    module.RECOMMENDED, module.PUBLISHED = _settings_of(module, path)
    for value in list(vars(module).values()):
        is_layer = isinstance(value, type) and issubclass(value, keras.layers.Layer)
        if (is_layer or isinstance(value, types.FunctionType)) and value.__module__ == module.__name__:
            keras.saving.register_keras_serializable(package="codeset")(value)


def _make_builder(module, path):
    def build_model(input_shape, classes=1):
        model = _ask(module, path, "Build_Model")
        if not isinstance(model, keras.Model) or len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ValueError(f"{path}: Build_Model() does not return a Keras model with one input and one output")
        own, found = ("x".join(map(str, shape)) for shape in (model.input_shape[1:], input_shape))
        if own != found:
            raise ValueError(
                f"{path}: Build_Model() is for images of {own} (found {found} in the sets); import the images with its "
                "size, or change its Input"
            )
        return model

    return build_model


def _ask(module, path, name, **arguments):
    """Result of a function of the file; None if the file does not have it."""
    function = getattr(module, name, None)
    try:
        return function and function(**arguments)
    except Exception as error:  # a user's file can raise anything
        reason = next(filter(None, str(error).splitlines()), "no message")
        raise ValueError(
            f"{path}: {name}() does not run in Keras 3 ({type(error).__name__}: {reason}); correct it there"
        ) from error


def _settings_of(module, path):
    """Settings of train.py in a file: those that train.py takes by itself, and all that its author published."""
    rates = _rates_of(module, path)
    kind, start, epochs = rates["formula"]
    points = [list(point) for point in rates["graph"]]
    if kind:
        schedule = {"SCHEDULE": kind, "SCHEDULE_SETTINGS": {}}
    else:
        start, epochs = points[0][1], points[-1][0]
        schedule = {"SCHEDULE": "graph", "SCHEDULE_SETTINGS": {"points": points}}
    optimizer = _ask(module, path, "Optimizer", base_lr=start)
    recommended = {
        "BATCH_SIZE": int(_ask(module, path, "Batch_Size") or USUAL_BATCH),
        "OPTIMIZER": USUAL_OPTIMIZER if optimizer is None else _as_setting(optimizer),
        "LEARNING_RATE": start,
        **schedule,
    }
    controller = {name: list(rates[name]) for name in ("step", "limit", "patience")}
    is_used = min(controller["patience"]) < epochs
    counts = {"EPOCHS": int(epochs), "EARLY_STOP": int(rates["stop_count"])}
    return recommended, recommended | counts | {"CONTROLLER": controller if is_used else {}}


def _rates_of(module, path):
    own = _ask(module, path, "Learning_Rate_Parameters")
    if own is None:
        found = {key: (_ask(module, path, name) for name in names) for key, names in OWN_FUNCTIONS.items()}
        own = {key: value for key, values in found.items() for value in values if value is not None}
    try:
        rates = USUAL_RATES | own
        kind, start, epochs = rates["formula"]
        fits = kind in (None, "poly") and epochs >= bool(kind) and start >= 0
        fits &= all(len(rates[name]) == 2 for name in ("step", "limit", "patience"))
        fits &= len(rates["graph"]) > 1 and all(len(point) == 2 for point in rates["graph"])
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"{path}: its learning rates are not as in AIS Training Codeset (found {own}); expected a formula such as "
            "['poly', 0.5, 100], or a graph such as [[0, 5e-3], [50, 1e-3]]"
        )
    return rates


def _as_setting(optimizer):
    """OPTIMIZER of train.py for a Keras optimizer: its name, with what it changes."""
    usual = type(optimizer)().get_config()
    changed = {
        name: value
        for name, value in optimizer.get_config().items()
        if value != usual.get(name) and name not in ("name", "learning_rate") and isinstance(value, bool | int | float)
    }
    name = type(optimizer).__name__.lower()
    return {"name": name, **changed} if changed else name
