"""Words of messages."""


def number_of(count, one, several=None):
    """A number with its noun: "1 case", "2 cases".

    Args:
        count: whole number.
        one: the noun for one.
        several: the noun for several; None: `one` with an s.
    """
    return f"{count} {one if count == 1 else several or one + 's'}"
