"""Labels of a volume: what is accepted, and the one message for what is not."""

import numpy as np
import pytest
import SimpleITK as sitk

from common.errors import InputError
from common.volumes.labels import labels_in


def volume(values, kind=np.int16):
    return sitk.GetImageFromArray(np.array(values, kind).reshape(1, 1, -1))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_labels_are_taken_as_they_are_or_mapped(kind):
    image = volume([0, 5, 6, 99], kind)
    labels = labels_in(image, "a.nrrd")
    assert labels.dtype == np.uint8 and labels.ravel().tolist() == [0, 5, 6, 99]
    assert labels_in(image, "a.nrrd", {5: 1, 99: 2}).ravel().tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("values", [[0, 100], [-1, 3], [0, 0.5], [0, np.nan], [0, np.inf], [0, 255]])
def test_other_values_are_refused(values):
    words = r"a\.nrrd: invalid labels \(values from .*; expected whole numbers from 0 to 99; use --label-values"
    with pytest.raises(InputError, match=words):
        labels_in(volume(values, np.float64), "a.nrrd")


def test_labels_with_names_end_with_the_last_name():
    names = {1: "organ", 2: "lesion"}
    assert labels_in(volume([0, 2]), "a.nrrd", names=names).max() == 2
    with pytest.raises(InputError, match=r"from 0 to 3\); expected .* 0 to 2 \(organ, lesion\); use --label-values"):
        labels_in(volume([0, 3]), "a.nrrd", names=names)


def test_masks_of_0_and_255_are_accepted_if_the_caller_says_so():
    assert labels_in(volume([0, 255]), "a.nrrd", allow_255=True).ravel().tolist() == [0, 255]
    for values in ([0, 1, 255], [0, 100], [0, 254.5, 255]):
        with pytest.raises(InputError, match=r"expected whole numbers from 0 to 99, or 0 and 255$"):
            labels_in(volume(values, np.float64), "a.nrrd", allow_255=True)
