"""Which slices an epoch shows, and in which order."""

import math

import numpy as np


def with_share(order, has_foreground, batch_size, share, rng):
    """Order of an epoch in which every batch has a share of slices with foreground.

    Args:
        order: (N,) slice numbers.
        has_foreground: (N,) bool, by slice number.
        batch_size: slices per batch.
        share: least share of every batch.
        rng: numpy.random.Generator.

    Returns:
        (N,) slice numbers: the last empty ones of a batch with too few are replaced, by all others in turn.
    """
    order, spare = order.copy(), []
    if not has_foreground.any():
        return order
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]  # a view
        empty = np.flatnonzero(~has_foreground[batch])
        missing = math.ceil(round(share * len(batch), 9)) - (len(batch) - len(empty))
        for place in empty[::-1][: max(missing, 0)]:
            found = next((number for number in spare if number not in batch), None)
            if found is None:
                spare += rng.permutation(np.flatnonzero(has_foreground)).tolist()
                found = next((number for number in spare if number not in batch), spare[0])
            batch[place] = found
            spare.remove(found)
    return order
