"""Counts of voxels on out-of-fold predictions of packed volumes, for `common.evaluation.selection`."""

import itertools

import numpy as np

from common.parallel import progress
from common.prediction.networks_in_workers import load_for_prediction
from common.prediction.packed_volumes import numbers_of
from common.prediction.volume_tiles import MIRRORS, mean_probabilities
from common.scores import COUNTS, count_pixels
from common.slices.classes import as_sets, has_class
from common.training.run_folder import Run
from common.training.trained_models import model_file


def probabilities_of(volumes, runs, groups, flips, title):
    """Predict each case with each group of networks and each kind of flips, case by case.

    All networks of a fold are in memory, and the probabilities of one case.

    Args:
        volumes: VolumeSet of the fold's validation cases.
        runs: dict of cross-validation folder to the run of the fold.
        groups: as returned by `common.evaluation.selection.groups_of_networks`.
        flips: names in MIRRORS.
        title: of the progress bar.

    Yields:
        number of the case, its true label numbers (S, H, W), and a dict of (group title, name in MIRRORS) to mean
        probabilities (S, H, W, K).
    """
    networks = {}
    for name, checkpoint in itertools.chain(*groups.values()):
        file = model_file(runs[name], checkpoint)
        networks.setdefault((name, checkpoint), (load_for_prediction(file), Run(file.parent).crop))
    for i in progress(range(len(volumes)), len(volumes), title):
        image, truth = volumes.shown_volume(i)
        found = {
            (member, kind): mean_probabilities([network], image, volumes.voxels, tile, flips=kind)
            for (member, (network, tile)), kind in itertools.product(networks.items(), flips)
        }
        means = {
            (name, kind): sum(found[tuple(member), kind] for member in group) / np.float32(len(group))
            for (name, group), kind in itertools.product(groups.items(), flips)
        }
        yield i, truth, means


def count_cases(volumes, runs, groups, cleanings, title):
    """Rows of counts of a fold, for each case, group of networks, kind of flips, cleaning and class.

    Args:
        cleanings: list of arguments of `common.slices.masks.clean`.
        volumes, runs, groups, title: as for `probabilities_of`.
    """
    for i, truth, means in probabilities_of(volumes, runs, groups, MIRRORS, title):
        for ((name, flips), probabilities), cleaning in itertools.product(means.items(), cleanings):
            numbers = numbers_of(probabilities, overlap=volumes.overlap, cleaning=cleaning)
            key = {"networks": name, "flips": flips, "clean": str(cleaning), "case": volumes.names[i]}
            for number, counts in counts_of(volumes, numbers, truth):
                yield {**key, "class": number, **counts}


def count_thresholds(volumes, runs, networks, flips, cleaning, thresholds, title):
    """Rows of counts of a fold with one label, for each case and threshold; arguments as for `count_cases`."""
    for i, truth, means in probabilities_of(volumes, runs, {"chosen": networks}, [flips], title):
        for threshold in thresholds:
            numbers = numbers_of(means["chosen", flips], threshold, volumes.overlap, cleaning)
            for _, counts in counts_of(volumes, numbers, truth):
                yield {"threshold": threshold, "case": volumes.names[i], **counts}


def counts_of(volumes, numbers, truth):
    """Class number and dict of COUNTS for each label of a case, nested ones as the regions that they stand for."""
    if volumes.overlapping:
        numbers, truth = as_sets(numbers, volumes.overlap), as_sets(truth, volumes.overlap)
    for number in range(1, volumes.classes + 1):
        counts = count_pixels(has_class(numbers, number), has_class(truth, number))
        yield number, dict(zip(COUNTS, counts, strict=True))
