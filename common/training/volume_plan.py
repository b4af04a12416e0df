"""Plan a training on packed volumes: the rules of docs/plan.md for volumes, as functions of facts only."""

import math
import os
from dataclasses import dataclass, replace

from common.devices import accelerators
from common.errors import InputError
from common.gpus import find_gpus
from common.words import number_of
from models.unet3d import COARSE, find_levels

BYTES = 300  # of memory for each voxel and each channel of the first level in training, measured with unet3d
SHARE_OF_MEMORY = 0.5  # libraries, batches to come and validation need some too
USUAL_MEMORY = 8.0  # GB, if the system does not tell
FEATURES = {True: 32, False: 8}  # with and without a GPU; with 32, a step takes sixteen times as long as with 8
MOST_VOXELS = {True: 128**3, False: 64**3}  # of a crop; with a GPU, that of nnU-Net
SMALLEST_CROP, STEP = 8, 4  # voxels
SIDES = ("left", "right")  # words in labels for which a mirrored volume is another one


@dataclass(frozen=True)
class VolumeFacts:
    """What a plan for volumes depends on.

    Attributes:
        size, spacing: medians of what a network sees, in voxels and mm, (up, back, left).
        training_sizes, validation_sizes: sizes in voxels (up, back, left) of all volumes.
        step: "whole", "patch" or "single".
        labels: names of the labels.
        channels: number of channels.
        has_gpu: whether there is a GPU or TPU.
        memory: memory of the device in GB.
        training, validation: number of volumes, or of crops by `with_crops`, in an epoch.
    """

    size: tuple
    spacing: tuple
    training_sizes: tuple
    validation_sizes: tuple
    step: str
    labels: tuple
    channels: int
    has_gpu: bool
    memory: float
    training: int
    validation: int

    smaller = "smaller volumes (--voxels of 3_pack_volumes.py)"

    def in_words(self):
        """The facts as lines of text."""
        counts = f"{number_of(self.training, 'volume')} for training, {self.validation} for validation"
        yield f"{counts} (step: {self.step}, labels: {len(self.labels)}, channels: {self.channels})"
        size, spacing = "x".join(map(str, self.size)), " x ".join(f"{mm:g}" for mm in self.spacing)
        yield f"median size {size} voxels of {spacing} mm (up, back, left)"
        yield f"{'a GPU' if self.has_gpu else 'no GPU'}, {self.memory:.0f} GB of memory"

    def with_crops(self, crop):
        """These facts with the numbers of items in an epoch for a crop size; None: whole volumes."""
        if not crop:
            return self
        training = sum(math.ceil(math.prod(size) / math.prod(crop)) for size in self.training_sizes)
        of_volumes = [[math.ceil(n / side) for n, side in zip(s, crop, strict=True)] for s in self.validation_sizes]
        return replace(self, training=training, validation=sum(map(math.prod, of_volumes)))


def read_facts(training, validation):
    """Read the facts from two sets of volumes.

    Args:
        training, validation: `common.training.volume_sets.VolumeSet`; validation may be None.

    Returns:
        VolumeFacts.

    Raises:
        InputError: if no volume for training has a label.
    """
    if not training.has_foreground():
        raise InputError(f"{training.path}: no volume has a label, so there is nothing to learn; check the labels")
    sizes = [[] if one is None else [grid.size[::-1] for grid in one.shown_grids()] for one in (training, validation)]
    grid, has_gpu = training.typical_grid(), bool(accelerators())
    return VolumeFacts(
        tuple(grid["size"]),
        tuple(grid["spacing"]),
        *map(tuple, sizes),
        training.step,
        tuple(training.labels),
        training.channels,
        has_gpu,
        device_memory(has_gpu),
        *map(len, sizes),
    )


def device_memory(has_gpu):
    """Memory of the first GPU, or of the machine, in GB."""
    known = [gpu.memory for gpu in find_gpus() if gpu.memory] if has_gpu else []
    if known:
        return known[0]
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return USUAL_MEMORY


def network_of(facts, crop=None, can_crop=True):
    """Choose network, crops, batch size, augmentation, loss and sampling.

    Args:
        facts: VolumeFacts.
        crop: crop size that is already decided.
        can_crop: whether to choose one; False: without `crop`, whole volumes.

    Returns:
        dict of setting of train.py to (value, reason).
    """
    features, chosen = FEATURES[facts.has_gpu], {}
    room = int(SHARE_OF_MEMORY * facts.memory * 1e9 / (BYTES * features))  # voxels
    chosen["CROP"] = crop_of(facts, room) if can_crop and crop is None else (crop, "as set")
    is_cropped = chosen["CROP"][0] is not None
    size = list(chosen["CROP"][0] or facts.size)
    chosen["MODEL"] = "unet3d", "its kernels and pooling fit the spacing"
    device = "a GPU has time and room for 32" if facts.has_gpu else "without a GPU, more than 8 would take hours"
    own = {"features": features, "spacing": list(facts.spacing), "size": size}
    chosen["MODEL_SETTINGS"] = own, f"{device}; {levels_in_words(facts.spacing, size)}"
    if is_cropped:
        chosen["BATCH_SIZE"] = 2, "two crops, so that most batches contain a label"
        chosen["FOREGROUND"] = 0.5, "half of the crops are around a labeled voxel, each label equally often"
        chosen["LOSS"] = "bce+batch_dice", "Dice over the batch: crops without a label count by their false positives"
    else:
        chosen["BATCH_SIZE"] = 1, "whole volumes differ in size"
        chosen["FOREGROUND"] = 0.0, "whole volumes are shown as they are"
        chosen["LOSS"] = "bce+dice", "every voxel and the overlap"
    chosen["AUGMENTATION"] = augmentation_of(facts)
    return chosen


def crop_of(facts, room):
    """Choose CROP: (value, reason); `room` is the number of voxels that memory has room for."""
    voxels, most = math.prod(facts.size), MOST_VOXELS[facts.has_gpu]
    if voxels <= room and (facts.step != "single" or voxels <= most):
        reason = "they are limited to few voxels" if voxels <= most else f'the step "{facts.step}" needs all of them'
        return None, f"whole volumes: {reason}"
    crop = sides_of_crop(facts.size, facts.spacing, min(most, room // 2))
    mm = " x ".join(f"{side * step:.0f}" for side, step in zip(crop, facts.spacing, strict=True))
    why = "memory has room for" if room // 2 < most else "a step has time for"
    return crop, f"{mm} mm, as near to a cube as the volumes are, of as many voxels as {why}"


def sides_of_crop(size, spacing, voxels):
    """Sides of a crop of about equal length in mm with up to `voxels` voxels, none longer than the volumes.

    Args:
        size, spacing: median size in voxels and spacing in mm, (up, back, left).
        voxels: maximum number of voxels, if sides of SMALLEST_CROP allow.

    Returns:
        list of three int: multiples of STEP unless a side is as long as the volumes.
    """
    sides, free = [0, 0, 0], [0, 1, 2]
    while free:
        left = voxels / math.prod(side for side in sides if side)
        mm = (left * math.prod(spacing[axis] for axis in free)) ** (1 / len(free))
        short = [axis for axis in free if size[axis] * spacing[axis] <= mm]
        for axis in short or free:
            side = size[axis] if short else int(mm / spacing[axis]) // STEP * STEP
            sides[axis] = max(SMALLEST_CROP, side)
        free = [axis for axis in free if not sides[axis]]
    return sides


def levels_in_words(spacing, size):
    """Kernels and pooling of unet3d as text."""
    kernels, strides = find_levels(spacing, size, depth=8)
    flat = sum(kernel != (3, 3, 3) for kernel in kernels)
    pools = ", ".join("x".join(map(str, stride)) for stride in strides) or "nothing"
    first = f"kernels of {'x'.join(map(str, kernels[0]))} on {number_of(flat, 'level')} and " if flat else ""
    return f"{first}pooling by {pools} fit the spacing"


def augmentation_of(facts):
    """Choose AUGMENTATION: (value, reason)."""
    thick = max(facts.spacing) >= COARSE * min(facts.spacing)
    chosen = {"rotation": 5 if thick else 10, "zoom": 0.1, "shift": 0.05, "shear": 0.05, "gamma": 0.3}
    reasons = ["changes within what scanners and patients vary by"]
    if thick:
        reasons.append("thick slices turn little")
    if not any(word in str(label).lower() for label in facts.labels for word in SIDES):
        chosen["flip"] = "x"
    else:
        reasons.append("no flip, since labels have a side")
    if facts.step == "patch" and facts.training > 1:
        chosen |= {"margins": [0.1, 0.2, 0.3], "anywhere": 0.2}
        reasons.append("boxes vary, since the first step finds them")
    return chosen, "; ".join(reasons)
