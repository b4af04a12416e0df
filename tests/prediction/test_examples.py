"""Images of the best and the worst predictions."""

import numpy as np
import pytest
from drawings import make_cases

from common.prediction.examples import best_and_worst
from common.slices.classes import mean_dice
from common.training.sets import open_set


class Bright:
    """In place of a network: foreground is what is bright."""

    def predict_on_batch(self, x):
        return (x > 0.5).astype(np.float32)


@pytest.fixture
def slices(tmp_path):
    """A list of ten slices, of which two have no foreground."""
    cases = make_cases(tmp_path / "cases", cases=2, slices=5, empty=True)
    rows = [f"{x},{x.parents[1] / 'y' / x.name},{x.parents[1].name}" for x in sorted(cases.glob("*/x/*.png"))]
    (tmp_path / "list.csv").write_text("\n".join(["x,y,case", *rows]) + "\n")
    return open_set(tmp_path / "list.csv")


def test_the_worst_come_first_and_none_twice(slices):
    x, y = slices.batch(np.arange(len(slices)))
    scores = sorted(mean_dice((a > 0.5).astype(np.uint8), b) for a, b in zip(x, y, strict=True) if b.any())
    for count, expected in ((2, scores[:2] + scores[-2:]), (6, scores)):
        examples = best_and_worst(slices, Bright(), batch_size=3, count=count)
        captions = [caption for _, caption in examples]
        assert [caption.split()[1] for caption in captions] == [f"{score:.3f}" for score in expected]
        assert len(set(captions)) == len(captions) and all("case0" in caption for caption in captions)
        assert all(picture.shape == (24, 24, 3) and picture.dtype == np.uint8 for picture, _ in examples)
