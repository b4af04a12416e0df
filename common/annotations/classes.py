"""Names of shapes become class numbers."""

from fnmatch import fnmatchcase

from common.errors import InputError, SettingError
from common.volumes.privacy import identifies
from common.words import number_of

MOST_CLASSES = 99
MOST_SHOWN = 10  # names in a message


def as_numbers(classes):
    """Setting CLASSES as a dict of name to number; a list has class 1, 2 and so on."""
    return classes if isinstance(classes, dict) else {name: number for number, name in enumerate(classes, 1)}


def number_classes(names, classes):
    """Class number of each name.

    Args:
        names: set of str, the names of all shapes.
        classes: result of `as_numbers`; "*" in a name fits any text. {}: the names, sorted, are numbered from 1.

    Returns:
        dict of name to number; without names that `classes` does not have.

    Raises:
        InputError: if there are no names, or too many.
        SettingError: if there are none that `classes` has.
    """
    if not names:
        raise InputError("ANNOTATIONS: no shape with an area in any file; choose another folder")
    if not classes:
        if len(names) > MOST_CLASSES:
            raise InputError(
                f"CLASSES: {len(names)} different names (such as {shown(names)}), at most {MOST_CLASSES} classes; "
                "set the class numbers, or pass --classes \"{'*': 1}\" for one class"
            )
        return {name: number for number, name in enumerate(sorted(names), 1)}
    numbers = {}
    for name in sorted(names):
        fits = [number for pattern, number in classes.items() if _is_like(name, pattern)]
        if fits:
            numbers[name] = classes.get(name, fits[0])
    if not numbers:
        raise SettingError(
            f"CLASSES: no shape has one of these names (found {shown(names)}); use the names of the file"
        )
    return numbers


def _is_like(name, pattern):
    return name == pattern or ("*" in pattern and fnmatchcase(name, pattern.replace("[", "[[]").replace("?", "[?]")))


def names_of(numbers, classes, secrets=()):
    """Class names for CLASS_NAMES of train.py.

    Args:
        numbers: result of `number_classes`.
        classes: result of `as_numbers`.
        secrets: texts that identify patients; a name in the files that contains a part of one becomes its number.

    Returns:
        list of str: the name of class 1, 2 and so on; the number if it has no name.
    """
    if not classes:
        classes = {("" if is_secret(name, secrets) else name): number for name, number in numbers.items()}
    named = {number: name.replace("*", "").strip() for name, number in reversed(classes.items())}
    return [named.get(number) or str(number) for number in range(1, max(numbers.values()) + 1)]


def is_secret(name, secrets):
    """Whether a name contains a part of texts that identify patients."""
    return bool(secrets) and identifies(name, secrets)


def shown(names):
    """The first names of a set, for a message."""
    names = sorted(names)
    return ", ".join(map(repr, names[:MOST_SHOWN])) + (", ..." if len(names) > MOST_SHOWN else "")


def print_classes(numbers, counts, secrets=()):
    """Print the table of classes.

    Args:
        numbers: result of `number_classes`.
        counts: Counter of the shapes of each name.
        secrets: as for `names_of`.
    """
    for name, number in sorted(numbers.items(), key=lambda item: (item[1], item[0])):
        public = "(contains a part of a patient's name or number)" if is_secret(name, secrets) else name
        print(f"  class {number}: {public} ({number_of(counts[name], 'shape')})")
    if others := {name: count for name, count in counts.items() if name not in numbers}:
        left = number_of(sum(others.values()), "shape")
        public = shown(name for name in others if not is_secret(name, secrets))
        print(f"  background: {left} with a name that CLASSES does not have" + (f" ({public})" if public else ""))
