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

from common.errors import InputError, as_input_error, show_in_one_line
from common.files import flag, read_json, write_json
from common.settings import recorded_settings, use_recorded_settings

PLAIN = (bool, int, float, str, type(None))  # what Optuna keeps as it is


def require_choices(values, setting, kind=object):
    """Raise InputError unless a setting is a list of values to choose from, none of them twice.

    Args:
        values: the setting.
        setting: its name.
        kind: type of every value.
    """
    if not isinstance(values, list) or not values:
        raise InputError(f"{setting} is {values!r}; give {flag(setting)} a list with at least one value")
    for i, value in enumerate(values):
        if not isinstance(value, kind):
            raise InputError(f"{setting} holds {value!r}; expected values of the kind of {kind('')!r}")
        if value in values[:i]:
            raise InputError(f"{setting} holds {value!r} twice")


def require_spaces(spaces, setting):
    """Raise InputError unless each value of a dict of spaces is a single value or a list of `require_choices`."""
    if not isinstance(spaces, dict):
        raise InputError(f"{setting} is {spaces!r}; expected a dict of settings")
    for name, values in spaces.items():
        if isinstance(values, list):
            require_choices(values, f"{setting}: {name}")


def require_rates(rates, setting):
    """Raise InputError unless a setting is [lowest, highest] or a list of one, positive; or None."""
    numbers = isinstance(rates, list) and all(type(rate) in (int, float) and 0 < rate < 1e9 for rate in rates)
    if rates is not None and not (numbers and (len(rates) == 1 or (len(rates) == 2 and rates[0] < rates[1]))):
        raise InputError(f"{setting} is {rates!r}; expected [lowest, highest], two positive numbers, or a list of one")


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
        raise InputError(result.stderr.partition(": error: ")[2].strip() or f"train.py cannot begin: {lines[-1]}")


def _ask_train(path):
    """Raise InputError for the first of the settings in a file that train.py would not begin with."""
    import train  # brings Keras
    from common.training.augmentation import make_augmentation
    from losses import get_loss

    keras = train.keras
    names = vars(train)
    defaults, training, built = recorded_settings(names), None, set()
    for settings in read_json(path):
        if unknown := sorted(settings.keys() - defaults.keys()):
            raise InputError(f"train.py has no setting {unknown[0]}; python train.py --help lists them")
        names.update(defaults)
        write_json(path, settings)
        use_recorded_settings(names, path, keep=())
        train.take_recommendations()
        train.check_settings()
        with as_input_error("AUGMENTATION"):
            make_augmentation(train.AUGMENTATION)
        with as_input_error("PRECISION"):
            keras.config.set_dtype_policy("float32" if train.PRECISION == "auto" else train.PRECISION)
        training = training or train.open_sets()[0]
        with as_input_error("LOSS"):
            get_loss(train.LOSS, training.classes)
        if train.MODEL not in built:
            built.add(train.MODEL)
            train.build(training)


if __name__ == "__main__":
    sys.excepthook = show_in_one_line
    _ask_train(sys.argv[1])
