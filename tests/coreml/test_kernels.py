"""The arithmetic of Core ML models against loops over pixels."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixelwise import close, convolve_by_hand, random, spread_by_hand

from coreml import kernels


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_convolutions_of_any_form(data):
    """Against loops over pixels: kernels, strides, borders, dilations, groups."""
    numbers = data.draw(st.integers(0, 2**31), "seed")
    groups = data.draw(st.sampled_from([1, 2, 4]))
    kernel, strides, dilations = ([data.draw(st.integers(1, high)) for _ in range(2)] for high in (3, 2, 2))
    if groups > 1 and max(dilations) > 1:
        strides = [1, 1]
    padding = [tuple(data.draw(st.integers(0, 2)) for _ in range(2)) for _ in range(2)]
    x, weight = random(1, 4, 7, 6, seed=numbers), random(4, 4 // groups, *kernel, seed=numbers + 1)
    if max(strides) > 1 and max(dilations) > 1:
        dilations = [1, 1]  # backends have one or the other
    got = kernels.convolve(x, weight, None, strides, padding, dilations, groups)
    close(got, convolve_by_hand(x, weight, None, strides, padding, dilations, groups))
    up = random(4, 3, *kernel, seed=numbers + 2)
    sizes = [(n - 1) * s + k for n, s, k in zip((7, 6), strides, kernel, strict=True)]
    got = kernels.convolve_transposed(x, up, None, strides, [(0, 0)] * 2, groups)
    close(got, spread_by_hand(x, up, None, strides, (0, 0), groups, sizes))


def test_sample_positions_stay_within_the_image():
    modes = (kernels.ALIGNED, kernels.UNALIGNED, kernels.DEFAULT, kernels.OFFSET, kernels.STRICTLY_ALIGNED)
    for mode, size, count in itertools.product(modes, (1, 2, 5), (1, 3, 11)):
        positions = kernels.sample_positions(size, count, mode)
        assert len(positions) == count and positions.min() >= 0 and positions.max() <= size - 1
    with pytest.raises(ValueError, match="sampling mode CUBIC is not supported"):
        kernels.sample_positions(2, 3, "CUBIC")
