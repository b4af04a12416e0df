"""Scales and percentiles of gray values."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from common.volumes.intensity import (
    TASKS,
    ForegroundStatistics,
    Scale,
    VolumeStatistics,
    fixed_rule,
    percentiles_of,
    scales_of,
)


def test_scales_of_the_decathlon():
    """Figures of the second place of 2018, in HU and units of the window."""
    assert TASKS["liver"] == (10, 190, 0.0938, 0.2265) and TASKS["pancreas"] == (-91, 251, 0.1234, 0.2345)
    values = np.array([-2000, -1129, -271, 587, 900], np.int16)
    expected = (np.array([0, 0, 0.5, 1, 1]) - 0.3140) / 0.2799
    assert np.allclose(TASKS["lung"].apply(values), expected, atol=1e-6)


@given(st.integers(0, 2**31), st.floats(0.5, 300))
def test_statistics_of_the_foreground_are_numpys(seed, deviation):
    values = np.random.default_rng(seed).normal(40, deviation, 2000).round()
    statistics = ForegroundStatistics()
    for part in np.split(values, 4):
        statistics.add(np.stack([part, part - 9999]), np.array([[True], [False]]) | np.zeros(len(part), bool))
    low, high = np.percentile(values, (0.5, 99.5), method="lower")
    if low == high:
        with pytest.raises(ValueError):
            statistics.scale()
        return
    unit = (np.clip(values, low, high) - low) / (high - low)
    assert np.allclose(statistics.scale(), (low, high, unit.mean(), unit.std()), atol=1e-9)


def test_the_rule_of_the_runner_up_is_a_mean_over_volumes():
    """The formula in numpy, on volumes of different sizes and shares of labeled voxels."""
    rng, volumes = np.random.default_rng(0), []
    statistics = VolumeStatistics()
    for size, middle in ((8, 40), (12, 90), (10, 60)):
        values = rng.normal(0, 300, (size, 9, 7)).round().astype(np.int16)
        is_labeled = rng.random(values.shape) < 0.1 * size / 10
        values[is_labeled] = rng.normal(middle, 20 + size, is_labeled.sum()).round()
        statistics.add(values, is_labeled)
        volumes.append((values, is_labeled))
    mean, sd = (np.mean([f(values[is_labeled]) for values, is_labeled in volumes]) for f in (np.mean, np.std))
    low, high = mean - 3 * sd, mean + 3 * sd
    units = [(np.clip(values, low, high) - low) / (high - low) for values, _ in volumes]
    expected = low, high, np.mean([unit.mean() for unit in units]), np.mean([unit.std() for unit in units])
    assert np.allclose(statistics.scale(), expected, atol=1e-9)
    constant = VolumeStatistics()
    constant.add(np.full((3, 3, 3), 7), np.ones((3, 3, 3), bool))
    with pytest.raises(ValueError, match=r"have the same value \(7\)"):
        constant.scale()


def test_gray_values_of_mr_are_standardized_volume_by_volume():
    rng = np.random.default_rng(0)
    for kind in (np.int16, np.float32):
        array = rng.gamma(2, 200, (20, 30, 30)).astype(kind)
        array[0, 0, 0] = 30000
        (scale,) = scales_of({"kind": "volume"}, [sitk.GetImageFromArray(array)])
        expected = np.minimum(array, np.percentile(array, 99.99)).astype(float)
        expected = (expected - expected.mean()) / expected.std()
        assert np.allclose(scale.apply(array), expected, atol=1e-3)
    with pytest.raises(ValueError, match=r"channel 1 is constant \(value 5\)"):
        scales_of({"kind": "volume"}, [sitk.GetImageFromArray(np.full((4, 4, 4), 5, np.int16))])
    with pytest.raises(ValueError, match="expected 1"):
        scales_of(fixed_rule([Scale(0, 1, 0, 1)]), [None, None])


@given(
    arrays.arrays(
        st.sampled_from([np.int16, np.uint16, np.int32, np.float32]), (3, 4, 5), elements=st.integers(0, 32767)
    ),
    st.tuples(st.floats(0, 49), st.floats(50, 100)),
)
def test_percentiles_are_those_of_numpy(values, percentiles):
    for array in (values, -values) if values.dtype != np.uint16 else (values, values * 2):
        np.testing.assert_allclose(percentiles_of(array, percentiles), np.percentile(array, percentiles), rtol=1e-6)
