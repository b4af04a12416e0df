"""Search spaces: check them, choose from them, and check that train.py accepts every value in them."""

import math
import subprocess
import sys
import tempfile
from pathlib import Path

from common.child import toolkit_environment
from common.errors import InputError, SettingError
from common.files import write_json
from common.training.cross_validation import find_folds

PLAIN_TYPES = (bool, int, float, str, type(None))  # Optuna keeps values of these types as they are


def require_choices(values, setting):
    """Raise SettingError unless a setting is a list of values to choose from without duplicates.

    Args:
        values: value of the setting.
        setting: its name.
    """
    if not isinstance(values, list) or not values:
        raise SettingError(f"{setting}: expected a list with at least one value (found {values!r})")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise SettingError(f"{setting}: duplicate value (found {value!r} twice); remove one")


def require_spaces(spaces, setting):
    """Raise SettingError unless a setting is a dict of single values, of ranges, and lists as in `require_choices`."""
    if not isinstance(spaces, dict):
        raise SettingError(f"{setting}: expected a dict of settings (found {spaces!r})")
    for name, values in spaces.items():
        if isinstance(values, list):
            require_choices(values, f"{setting}: {name}")
        if is_range(values):
            _require_range(values, f"{setting}: {name}")


def require_sets(training, validation):
    """Raise SettingError unless TRAIN and VALIDATION are two paths, or two lists of as many, without duplicates."""
    counts = [len(value) if isinstance(value, list) else None for value in (training, validation)]
    if isinstance(training, list):
        require_choices(training, "TRAIN")
    if counts[0] != counts[1]:
        found = " and ".join("one path" if count is None else f"a list of {count}" for count in counts)
        raise SettingError(f"VALIDATION: expected one set for each of TRAIN (found {found}); list as many")


def is_range(values):
    """Whether a space is a range of numbers: {"low": 0, "high": 30}, perhaps with "log" or "step"."""
    return isinstance(values, dict) and {"low", "high"} <= values.keys() <= {"low", "high", "log", "step"}


def _require_range(values, where):
    low, high, step = values["low"], values["high"], values.get("step")
    kinds = int if "step" in values else int | float
    are_numbers = all(isinstance(n, kinds) and not isinstance(n, bool) for n in (low, high, *([step] if step else [])))
    fits = are_numbers and math.isfinite(low) and low < high < math.inf and (low > 0 or not values.get("log"))
    if not fits or ("step" in values and (values.get("log") or not step or step < 1)):
        raise SettingError(
            f'{where}: expected low < high, such as {{"low": 0, "high": 30}}, above 0 with "log": True, or whole '
            f'numbers with "step": 1 (found {values}); correct it'
        )


def choose_settings(settings, trial):
    """Let a trial choose the settings of its training.

    Args:
        settings: `common.settings.Settings` of tune.py.
        trial: optuna trial; a trial that already has its values chooses them again.

    Returns:
        dict of settings of train.py.
    """
    model = choose(trial, "MODEL", settings.MODELS)
    augmentation = choose_each(trial, "AUGMENTATION", settings.AUGMENTATION)
    train, validation = choose(trial, "TRAIN", settings.TRAIN), settings.VALIDATION
    return {
        "TRAIN": train,
        "VALIDATION": validation[settings.TRAIN.index(train)] if isinstance(validation, list) else validation,
        **({"FOLD": find_folds(train)[0]} if settings.FOLDS else {}),
        "MODEL": model,
        "MODEL_SETTINGS": choose_each(trial, model, settings.MODEL_SETTINGS.get(model, {})),
        "LOSS": choose(trial, "LOSS", settings.LOSSES),
        "LEARNING_RATE": choose_learning_rate(trial, settings.LEARNING_RATE),
        "AUGMENTATION": {name: amount for name, amount in augmentation.items() if amount},
        "PRECISION": choose(trial, "PRECISION", settings.PRECISIONS),
        **choose_each(trial, "", settings.OTHERS),
        "EPOCHS": settings.EPOCHS,
        "MAX_MINUTES": settings.MINUTES,
        "SEED": settings.SEED,
    }


def choose(trial, name, values):
    """Let a trial choose a value.

    Args:
        trial: optuna trial, or a stand-in for one.
        name: name of the parameter.
        values: list to choose from, or a range as in `is_range`; a list of one value, or a single value, leaves no
            choice.
    """
    if is_range(values):
        if "step" in values:
            return trial.suggest_int(name, values["low"], values["high"], step=values["step"])
        return trial.suggest_float(name, float(values["low"]), float(values["high"]), log=bool(values.get("log")))
    if not isinstance(values, list):
        return values
    if len(values) == 1:
        return values[0]
    labels = [value if isinstance(value, PLAIN_TYPES) else str(value) for value in values]
    return values[labels.index(trial.suggest_categorical(name, labels))]


def choose_each(trial, prefix, spaces):
    """Let a trial choose a value from each space of a dict; a parameter's name is the prefix and the space's name."""
    return {name: choose(trial, f"{prefix} {name}".lstrip(), values) for name, values in spaces.items()}


def choose_learning_rate(trial, rates):
    """Let a trial choose LEARNING_RATE.

    Args:
        trial: as in `choose`.
        rates: [lowest, highest], uniform on a log scale; a list of one, or None, leaves no choice.
    """
    if rates is None or len(rates) == 1:
        return rates and float(rates[0])
    return trial.suggest_float("LEARNING_RATE", *map(float, rates), log=True)


class _PresetTrial:
    """Stand-in for a trial: chooses the given values, otherwise the first ones; records all choices."""

    def __init__(self, **values):
        self.values, self.choices = values, {}

    def suggest_categorical(self, name, choices):
        self.choices[name] = choices
        return self.values.get(name, choices[0])

    def suggest_float(self, name, low, high, log):
        return self.suggest_categorical(name, [low, high])

    def suggest_int(self, name, low, high, step):
        return self.suggest_categorical(name, [low, low + (high - low) // step * step])


def settings_with_every_value(choose_settings):
    """Settings that contain every value of a search at least once with every network.

    Args:
        choose_settings: function of a trial that returns settings of train.py.

    Returns:
        list of dicts.
    """
    first = _PresetTrial()
    choose_settings(first)
    settings = []
    for model in first.choices.get("MODEL", [None]):
        preset = {} if model is None else {"MODEL": model}
        trial = _PresetTrial(**preset)
        settings.append(choose_settings(trial))
        for name, choices in trial.choices.items():
            if name != "MODEL":
                settings += [choose_settings(_PresetTrial(**preset, **{name: choice})) for choice in choices[1:]]
    return settings


def check_every_value(choose_settings):
    """Check that train.py accepts every value, before a search starts; takes about ten seconds.

    Args:
        choose_settings: function of a trial that returns settings of train.py.

    Raises:
        InputError: with the message of the first error; a SettingError if a setting cannot work.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "settings.json")
        write_json(file, settings_with_every_value(choose_settings))
        # in a separate process: here, Keras would keep devices and their memory
        command = [sys.executable, "-P", "-m", "common.tuning.check_values", str(file)]
        result = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            env=toolkit_environment(PYTHONIOENCODING="utf-8"),
            check=False,
            start_new_session=True,  # the user's Ctrl-C reaches only this process
        )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        kind = SettingError if result.returncode == 2 else InputError
        raise kind(result.stderr.partition(": error: ")[2].strip() or f"train.py cannot start: {lines[-1]}")
