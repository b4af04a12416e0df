"""Batches with a share of foreground: what they contain, and what the order depends on."""

import math

import numpy as np
import pytest
from drawings import make_cases
from hypothesis import given
from hypothesis import strategies as st
from running import assert_refused, run_here, training

from common.files import write_json
from common.training.augmentation import make_augmentation
from common.training.sampling import with_share
from common.training.sets import Batches, open_set
from common.training.volume_sets import VolumeSet


@given(
    st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 12), st.sampled_from([0, 0.1, 0.33, 0.5, 0.7, 1])
)
def test_every_batch_has_its_share_of_foreground(flags, size, share):
    flags = np.array(flags)
    order = np.random.default_rng(1).permutation(len(flags))
    before = order.copy()
    made = with_share(order, flags, size, share, np.random.default_rng(2))
    assert np.array_equal(order, before) and made.shape == order.shape
    for start in range(0, len(order), size):
        ours, theirs = made[start : start + size], order[start : start + size]
        wanted = math.ceil(round(share * len(ours), 9)) if flags.any() else 0
        assert flags[ours].sum() == max(flags[theirs].sum(), wanted), "no more than needed are replaced"
        assert np.array_equal(ours[flags[theirs]], theirs[flags[theirs]]), "slices with foreground stay"
        if flags.sum() >= wanted:
            assert len(set(ours)) == len(ours), "no slice comes twice in a batch if there are others"


def test_slices_with_foreground_take_turns():
    flags = np.arange(40) < 4
    made = with_share(np.arange(40), flags, 4, 0.5, np.random.default_rng(0))
    times = np.bincount(made, minlength=40)[:4]
    assert times.max() - times.min() <= 1 and times.sum() == 4 + 2 * 9


def test_the_order_follows_from_seed_and_epoch_and_repeats_differ(packed):
    """One of four slices of each case is empty; with a share of 1 none is left."""
    slices = open_set(packed["packed"] / "train.h5")
    assert not slices.with_foreground.all()
    augment = make_augmentation("medical")
    batches, again = (Batches(slices, 3, 1, augment, foreground=1) for _ in range(2))
    plain = Batches(slices, 3, 1, augment)
    for epoch in (0, 1, 5):
        batches.set_epoch(epoch), plain.set_epoch(epoch)
        assert slices.with_foreground[batches.order].all() and not np.array_equal(batches.order, plain.order)
    again.set_epoch(5)
    assert np.array_equal(batches.order, again.order) and np.array_equal(batches.times, again.times)
    assert len(batches) == len(plain) and (batches[0][1] > 0).any((1, 2, 3)).sum() >= 2, "a mask may leave the image"
    place = np.flatnonzero(batches.times == 1)[0]
    first = np.flatnonzero(batches.order == batches.order[place])[0]
    x, _ = batches.first(len(batches.order))
    assert not np.array_equal(x[place], x[first]), "the same slice changes in another way"
    assert all(map(np.array_equal, Batches(slices, 3, 1, augment, foreground=0)[0], Batches(slices, 3, 1, augment)[0]))


def test_a_share_out_of_range_is_refused(packed, tmp_path):
    settings = training(packed, tmp_path / "runs", FOREGROUND=1.5)
    assert_refused("train.py", "FOREGROUND: expected a number from 0 to 1 or None (found 1.5)", status=2, **settings)


def test_whole_volumes_have_no_share():
    with pytest.raises(ValueError, match=r"^FOREGROUND: whole volumes are shown as they are \(found 0.5\)"):
        VolumeSet.batches(None, 1, foreground=0.5)


def test_names_of_classes_come_from_the_cases(tmp_path):
    """If all cases agree on as many names as there are classes, from packed sets and from lists."""
    cases = make_cases(tmp_path / "cases", cases=3, slices=2, classes=2)

    def names(folder, **of_cases):
        for case in cases.iterdir():
            write_json(case / "case.json", {"class_names": of_cases.get(case.name, ["liver", "tumor"])})
        lists, packed = tmp_path / folder / "lists", tmp_path / folder / "packed"
        run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=lists, VALIDATION_SHARE=0, TEST_SHARE=0)
        run_here("preprocess/3_pack_hdf5.py", LISTS=lists, PACKED=packed)
        found = [open_set(path).record().labels for path in (lists / "train.csv", packed / "train.h5")]
        assert found[0] == found[1]
        return found[0]

    assert names("same") == ["liver", "tumor"]
    assert names("other", case02=["tumor", "liver"]) is None
    assert names("few", case01=["a"], case02=["a"], case03=["a"]) is None
