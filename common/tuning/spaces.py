"""The spaces of a search: their form, a choice from them, and whether train.py takes every value.

    python common/tuning/spaces.py FILE.json

looks at the settings in FILE.json, a list of dicts. It is a process of its own, since Keras holds on to devices.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from common.command_line import flag
from common.errors import InputError, SettingError, as_setting_error, report_error
from common.files import read_json, write_json
from common.settings import Settings

PLAIN = (bool, int, float, str, type(None))  # what Optuna keeps as it is


def require_choices(values, setting):
    """Raise SettingError unless a setting is a list of values to choose from, none of them twice.

    Args:
        values: the setting.
        setting: its name.
    """
    if not isinstance(values, list) or not values:
        raise SettingError(f"{setting} is {values!r}; give {flag(setting)} a list with at least one value")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise SettingError(f"{setting} holds {value!r} twice")


def require_spaces(spaces, setting):
    """Raise SettingError unless each value of a dict of spaces is a single value or a list of `require_choices`."""
    if not isinstance(spaces, dict):
        raise SettingError(f"{setting} is {spaces!r}; expected a dict of settings")
    for name, values in spaces.items():
        if isinstance(values, list):
            require_choices(values, f"{setting}: {name}")


def draw(settings, trial):
    """Choose the settings of a training.

    Args:
        settings: `common.settings.Settings` of tune.py.
        trial: optuna trial; one that has its values gives them again.

    Returns:
        dict of settings of train.py.
    """
    model = choose(trial, "MODEL", settings.MODELS)
    return {
        "TRAIN": settings.TRAIN,
        "VALIDATION": settings.VALIDATION,
        "MODEL": model,
        "MODEL_SETTINGS": choose_each(trial, model, settings.MODEL_SETTINGS.get(model, {})),
        "LOSS": choose(trial, "LOSS", settings.LOSSES),
        "LEARNING_RATE": choose_rate(trial, "LEARNING_RATE", settings.LEARNING_RATE),
        "AUGMENTATION": {
            k: amount for k, amount in choose_each(trial, "AUGMENTATION", settings.AUGMENTATION).items() if amount
        },
        "PRECISION": choose(trial, "PRECISION", settings.PRECISIONS),
        **choose_each(trial, "", settings.OTHERS),
        "EPOCHS": settings.EPOCHS,
        "MAX_MINUTES": settings.MINUTES,
        "SEED": settings.SEED,
    }


def choose(trial, name, values):
    """One value of a list, chosen by a trial; of a list of one that one, and a value that is no list as it is.

    Args:
        trial: optuna trial, or what stands for one.
        name: of the parameter.
        values: list, or a single value.
    """
    if not isinstance(values, list):
        return values
    if len(values) == 1:
        return values[0]
    labels = [value if isinstance(value, PLAIN) else str(value) for value in values]
    return values[labels.index(trial.suggest_categorical(name, labels))]


def choose_each(trial, prefix, spaces):
    """A dict of values, each chosen from the space of its name; arguments as `choose`."""
    return {name: choose(trial, f"{prefix} {name}".lstrip(), values) for name, values in spaces.items()}


def choose_rate(trial, name, rates):
    """A number between two, evenly by its logarithm; of a list of one that one; None of None."""
    if rates is None or len(rates) == 1:
        return rates and float(rates[0])
    return trial.suggest_float(name, *map(float, rates), log=True)


class _Given:
    """Stands for a trial that takes given values, and else the first one; `seen` is what there was to choose from."""

    def __init__(self, **values):
        self.values, self.seen = values, {}

    def suggest_categorical(self, name, choices):
        self.seen[name] = choices
        return self.values.get(name, choices[0])

    def suggest_float(self, name, low, high, log):
        return low


def each_value(draw):
    """Settings in which every value of a search occurs with every network.

    Args:
        draw: function of a trial that gives settings of train.py.

    Returns:
        list of dicts.
    """
    first = _Given()
    draw(first)
    settings = []
    for model in first.seen.get("MODEL", [None]):
        given = {} if model is None else {"MODEL": model}
        trial = _Given(**given)
        settings.append(draw(trial))
        for name, choices in trial.seen.items():
            if name != "MODEL":
                settings += [draw(_Given(**given, **{name: choice})) for choice in choices[1:]]
    return settings


def check_values(draw):
    """Let train.py look at every value before a search begins; takes about ten seconds.

    Raises:
        InputError: with its message on the first value that it does not take.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "settings.json")
        write_json(file, each_value(draw))
        command = [sys.executable, str(Path(__file__).resolve()), str(file)]
        apart = {} if sys.platform == "win32" else {"start_new_session": True}
        result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, **apart)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        kind = SettingError if result.returncode == 2 else InputError
        raise kind(result.stderr.partition(": error: ")[2].strip() or f"train.py cannot begin: {lines[-1]}")


def _ask_train(path):
    """Raise InputError for the first of the settings in a file that train.py would not begin with."""
    from common.devices import import_keras

    import_keras()
    from common.training.augmentation import make_augmentation
    from common.training.configure import build_network, configure, open_sets, set_precision
    from losses import get_loss

    training, built = None, set()
    for given in read_json(path):
        settings = configure(Settings.of("train.py", **given))
        with as_setting_error("AUGMENTATION"):
            make_augmentation(settings.AUGMENTATION)
        set_precision("float32" if settings.PRECISION == "auto" else settings.PRECISION)
        training = training or open_sets(settings)[0]
        with as_setting_error("LOSS"):
            get_loss(settings.LOSS, training.classes)
        if settings.MODEL not in built:
            built.add(settings.MODEL)
            build_network(settings, training)


if __name__ == "__main__":
    sys.excepthook = report_error
    _ask_train(sys.argv[1])
