"""Normalize gray values of volumes: clip to two values, scale to 0..1, then (value - mean) / sd.

A rule defines the four numbers of each channel. {"kind": "fixed", "channels": [...]}, for CT, uses the same for all
volumes of a data set. {"kind": "volume"}, for MR, computes them for each volume, since MR values have no unit.
"""

from typing import NamedTuple

import cv2
import numpy as np

from common.lazy import Lazy
from common.parallel import ordered_map

sitk = Lazy("SimpleITK")

MR_PERCENTILE = 99.99  # upper clipping percentile of an MR volume
CT_SDS = 3  # of labeled voxels, on each side of their mean, that "ct_3sd" keeps
CT_PERCENTILES = (0.5, 99.5)  # clipping percentiles of labeled voxels for CT


class Scale(NamedTuple):
    """Scaling of a channel; mean and sd are computed from the clipped values, in units of 0..1."""

    low: float
    high: float
    mean: float
    sd: float

    def apply(self, values):
        """Standardize an array of any shape to float32; a float32 array is changed in place."""
        values = np.asarray(values, np.float32)
        np.clip(values, self.low, self.high, out=values)
        values -= self.low + self.mean * (self.high - self.low)
        values /= (self.high - self.low) * self.sd
        return values


# Medical Segmentation Decathlon tasks: HU, and the mean and sd used by the runner-up of 2018.
TASKS = {
    "liver": Scale(10, 190, 0.0938, 0.2265),
    "lung": Scale(-1129, 587, 0.3140, 0.2799),
    "pancreas": Scale(-91, 251, 0.1234, 0.2345),
}


def rule_of(intensity, is_ct=None):
    """Rule for the setting INTENSITY.

    Args:
        intensity: "auto", "ct", "ct_3sd", "mr", a name in TASKS, or a dict of Scale fields.
        is_ct: whether the volumes are CT; None if unknown.

    Returns:
        dict, see above; None for "ct" and "ct_3sd", whose scales come from statistics of the data set.
    """
    if intensity == "auto":
        intensity = "ct" if is_ct else "mr"
    if intensity in ("ct", "ct_3sd"):
        return None
    if intensity == "mr":
        return {"kind": "volume"}
    return fixed_rule([Scale(**intensity) if isinstance(intensity, dict) else TASKS[intensity]])


def fixed_rule(scales):
    """Rule with these Scales, one per channel."""
    return {"kind": "fixed", "channels": [scale._asdict() for scale in scales]}


def scales_of(rule, channels):
    """Scale of each channel of a volume.

    Args:
        rule: dict, see above.
        channels: list of SimpleITK.Image.

    Raises:
        ValueError: if the number of channels differs from the rule, or a channel is constant.
    """
    if rule["kind"] == "volume":
        return [_scale_of_volume(channel, number) for number, channel in enumerate(channels, 1)]
    if len(rule["channels"]) != len(channels):
        raise ValueError(f"wrong number of channels ({len(channels)}); expected {len(rule['channels'])}")
    return [Scale(**scale) for scale in rule["channels"]]


def _scale_of_volume(image, number):
    values = sitk.GetArrayViewFromImage(image)
    low, high = float(values.min()), percentiles_of(values, [MR_PERCENTILE])[0]
    if not low < high:
        raise ValueError(f"channel {number} is constant (value {low:g}); remove this volume")
    unit = np.minimum(values, high, dtype=np.float32)
    unit -= low
    unit /= high - low
    return Scale(low, float(high), float(unit.mean(dtype=np.float64)), float(unit.std(dtype=np.float64)))


LOWEST, HIGHEST = -32768, 32767  # of the whole numbers that statistics of CT count
NUMBERS = np.arange(LOWEST, HIGHEST + 1)


def count_numbers(values):
    """How often each of NUMBERS is in an array, rounded."""
    counts = np.zeros(len(NUMBERS), np.int64)
    for part in np.atleast_2d(values):  # a slice at a time, for memory
        whole = np.clip(np.rint(part), LOWEST, HIGHEST).astype(np.int64) - LOWEST
        counts += np.bincount(whole.ravel(), minlength=len(counts))
    return counts


class ForegroundStatistics:
    """Histogram of a channel over the labeled voxels of many volumes, with bins of whole numbers."""

    def __init__(self):
        self.counts = np.zeros(len(NUMBERS), np.int64)

    def add(self, values, is_labeled):
        """Add the labeled voxels of a volume, rounded to whole numbers; arrays of one shape."""
        self.counts += count_numbers(values[is_labeled])

    def include(self, other):
        """Add the volumes of another ForegroundStatistics."""
        self.counts += other.counts

    def scale(self):
        """Scale between CT_PERCENTILES, with mean and sd of the same voxels.

        Raises:
            ValueError: if all voxels have the same value.
        """
        ranks = np.array(CT_PERCENTILES) / 100 * (self.counts.sum() - 1)
        low, high = (float(NUMBERS[i]) for i in np.searchsorted(self.counts.cumsum(), ranks, "right"))
        if not low < high:
            raise ValueError(f'all labeled voxels have the same value ({low:g}); use "mr"')
        return Scale(low, high, *_mean_and_sd(self.counts, _in_unit(low, high)))


class VolumeStatistics:
    """Statistics of a channel in each of many volumes, by the rule of the runner-up of the Decathlon 2018.

    Each number is a mean over the volumes, of which each counts the same.
    """

    def __init__(self):
        self.of_labels, self.volumes = [], []  # mean and sd of the labeled voxels; NUMBERS of a volume and their counts

    def add(self, values, is_labeled):
        """Add a volume, rounded to whole numbers; arrays of one shape."""
        counts = count_numbers(values)
        (present,) = np.nonzero(counts)
        self.volumes.append((present, counts[present]))
        if is_labeled.any():
            self.of_labels.append(_mean_and_sd(count_numbers(values[is_labeled])))

    def include(self, other):
        """Add the volumes of another VolumeStatistics, after those here."""
        self.of_labels += other.of_labels
        self.volumes += other.volumes

    def scale(self):
        """Scale between the mean of the labeled voxels +- CT_SDS times their sd, with mean and sd of whole volumes.

        Raises:
            ValueError: if all labeled voxels of each volume, or all voxels within these limits, have the same value.
        """
        mean, sd = np.mean(self.of_labels, axis=0).tolist() if self.of_labels else (0, 0)
        low, high = mean - CT_SDS * sd, mean + CT_SDS * sd
        if not low < high:
            raise ValueError(f'all labeled voxels of a volume have the same value ({mean:g}); use "mr"')
        unit = _in_unit(low, high)
        of_volumes = [_mean_and_sd(counts, unit[present]) for present, counts in self.volumes]
        mean, sd = np.mean(of_volumes, axis=0).tolist()
        if not sd:
            raise ValueError(f'all voxels from {low:g} to {high:g} have the same value; use "ct"')
        return Scale(low, high, mean, sd)


def _in_unit(low, high):
    """NUMBERS clipped to two values and scaled to 0..1."""
    return (np.clip(NUMBERS, low, high) - low) / (high - low)


def _mean_and_sd(counts, values=NUMBERS):
    """Mean and standard deviation of values that occur `counts` times, float."""
    mean = np.average(values, weights=counts)
    return float(mean), float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))


def percentiles_of(values, percentiles):
    """Percentiles of a volume, as by `numpy.percentile`; 16-bit values use a histogram, which is faster.

    Args:
        values: (slices, H, W) array.
        percentiles: in percent.

    Returns:
        list of float.
    """
    if values.dtype not in (np.int16, np.uint16):
        return np.percentile(values, percentiles).tolist()
    lowest = np.iinfo(values.dtype).min
    counts = np.zeros(65536, np.int64)
    for counts_of_slice in ordered_map(lambda values: _histogram(values, lowest), values):
        counts += counts_of_slice
    ranks = np.asarray(percentiles) / 100 * (values.size - 1)
    below, above = (
        np.searchsorted(counts.cumsum(), rank, "right") + lowest for rank in (np.floor(ranks), np.ceil(ranks))
    )
    return (below + (ranks - np.floor(ranks)) * (above - below)).tolist()


def _histogram(values, lowest):
    values = np.ascontiguousarray(values).view(np.uint16)
    counts = cv2.calcHist([values], [0], None, [65536], [0, 65536]).ravel().astype(np.int64)
    return np.roll(counts, lowest)  # negative numbers are the upper half of unsigned ones
