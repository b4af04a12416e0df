"""Images of probability and uncertainty against numpy, and the order of what is worth outlining."""

import keras
import numpy as np
import pandas as pd
import pytest
from running import run_here

from common.prediction.uncertainty import (
    TABLE,
    Uncertainty,
    entropy,
    foreground,
    moments_of_volume,
    spread,
)
from common.prediction.volume_tiles import mean_probabilities
from common.slices.cases import Slice
from common.slices.images import read_image, to_unit


def test_entropy_and_spread_are_those_of_numpy():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), (3, 5)).astype(np.float32)
    assert np.allclose(entropy(p), -(p * np.log(p)).sum(-1) / np.log(4), atol=1e-5)
    assert np.allclose(foreground(p), p[..., 1:].sum(-1), atol=1e-6)
    assert np.allclose(entropy(np.float32([[0], [0.5], [1]])), [0, 1, 0], atol=1e-5)
    of_models = rng.uniform(size=(5, 6, 7)).astype(np.float32)
    found = spread(of_models.mean(0), (of_models**2).mean(0))
    assert np.allclose(found, of_models.std(0), atol=1e-3) and spread(np.ones(3), np.ones(3)).max() == 0


@pytest.fixture(scope="module")
def two_models(trained, packed, made_once):
    """Output of predict.py for test cases by two checkpoints of a run."""
    run, _ = trained
    models = [str(run / "best_dice.keras"), str(run / "last.keras")]

    def predict(root):
        settings = {"RUN": models, "INPUT": packed["cases"], "OVERLAYS": False, "UNCERTAINTY": True}
        return run_here("predict.py", OUTPUT=root / "out", **settings).stdout

    return models, made_once("two_models", predict)[0] / "out"


def test_images_and_table_are_those_of_the_models(two_models, packed):
    files, output = two_models
    models = [keras.saving.load_model(file, compile=False) for file in files]
    images = sorted(packed["cases"].glob("*/x/*.png"))
    expected = []
    for path in images:
        x = to_unit(read_image(path))[None, ..., None]
        p = np.stack([np.asarray(model.predict_on_batch(x))[0, ..., 0] for model in models])
        mean, deviation = p.mean(0), p.std(0)
        unsure = -(mean * np.log2(mean) + (1 - mean) * np.log2(1 - mean))
        case = path.parent.parent.name
        for folder, values in (("probability", mean), ("uncertainty", unsure), ("disagreement", 2 * deviation)):
            found = read_image(output / folder / case / path.name)
            assert found.dtype == np.uint8 and np.abs(found - 255 * values).max() <= 1, folder
        mask = read_image(output / case / path.name) > 0
        counted = mask | (unsure >= 0.5)
        least = max(counted.sum(), mask.size / 1000)
        expected.append((case, path.stem, unsure[counted].sum() / least, deviation[counted].sum() / least))
    table = pd.read_csv(output / TABLE, dtype={"image": str})
    assert list(table.columns) == ["case", "image", "uncertainty", "disagreement"] and len(table) == len(images)
    assert table["disagreement"].is_monotonic_decreasing
    expected = pd.DataFrame(expected, columns=table.columns).set_index(["case", "image"])
    found = table.set_index(["case", "image"]).loc[expected.index]
    assert np.allclose(found, expected, atol=2e-3)


def test_images_and_volumes(tmp_path):
    """Rows are sorted by what is most worth outlining; slices of a volume are one row, with its least certain slice."""
    unsure, mask = np.zeros((2, 40, 40, 3), np.float32), np.ones((40, 40), np.uint8)
    unsure[0, ..., 0], unsure[1, ..., 0] = 0.9, 0.6
    record, found = {"volume": {}, "slices": {"0001": {}, "0002": {}}}, Uncertainty(tmp_path, 1)
    for case, level in (("case1", 0.95), ("case2", 0.5)):
        loose = Slice("", case[-1], tmp_path / f"{case}.png")
        found.add(loose, "x", {}, np.full((40, 40, 3), level, np.float32), mask)
        for name, probabilities in zip(record["slices"], unsure, strict=True):
            found.add(Slice(case, name, tmp_path / "b.png"), case, record, probabilities, mask)
    found.close()
    table = pd.read_csv(tmp_path / TABLE, dtype=str, keep_default_na=False)
    assert table[["case", "image"]].values.tolist() == [["", "2"], ["case1", "0002"], ["case2", "0002"], ["", "1"]]
    both = (entropy(unsure[0, 0, 0, :1]) + entropy(unsure[1, 0, 0, :1])) / 2
    assert np.allclose(table["uncertainty"].astype(float), [1, both, both, 0.2864], atol=1e-3)


def test_a_speck_is_not_worth_more_than_a_large_unsure_region(tmp_path):
    sure = np.zeros((100, 100, 3), np.float32)
    speck, region = sure.copy(), sure.copy()
    speck[0, 0, 0], region[:50, :, 0] = 0.5, 0.4
    found = Uncertainty(tmp_path, 1)
    for name, probabilities in (("speck", speck), ("region", region), ("sure", sure)):
        numbers = np.zeros((100, 100), np.uint8)
        found.add(Slice("", name, tmp_path / name), "", {}, probabilities, numbers)
    found.close()
    table = pd.read_csv(tmp_path / TABLE, keep_default_na=False)
    assert table["image"].tolist() == ["region", "speck", "sure"] and table["uncertainty"].iloc[-1] == 0


def test_names_are_quoted_once(tmp_path):
    """A case that begins with = would be a formula."""
    found = Uncertainty(tmp_path, 1)
    for case, level in (("=case1", 0.95), ("case2", 0.5)):
        p = np.full((40, 40, 3), level, np.float32)
        found.add(Slice(case, "0001", tmp_path / case), case, {}, p, np.ones((40, 40), np.uint8))
    found.close()
    assert [line.split(",")[0] for line in (tmp_path / TABLE).read_text().splitlines()[1:]] == ["case2", "'=case1"]


# --- volumes


class Fixed:
    """A network whose probabilities are fixed, (S, H, W, K)."""

    def __init__(self, probabilities):
        self.probabilities, self.output_shape = probabilities, (None, *probabilities.shape)

    def predict_on_batch(self, x):
        return self.probabilities[None]


@pytest.mark.parametrize("nested", [False, True])
def test_maps_and_row_of_a_volume_are_those_of_numpy(tmp_path, nested):
    """Two networks with two labels, without the background."""
    rng = np.random.default_rng(0)
    of_networks = rng.dirichlet(np.ones(3), (2, 4, 5, 6))[..., 1:].astype(np.float32)
    of_networks[:, 1] = 0.01
    image = np.zeros((4, 5, 6, 1), np.float32)
    mean = mean_probabilities(list(map(Fixed, of_networks)), image, further=lambda p: moments_of_volume(p, nested))
    assert np.allclose(mean[..., :2], of_networks.mean(0), atol=1e-6)

    any_label = of_networks.max(-1) if nested else of_networks.sum(-1)
    p = of_networks.mean(0)
    if nested:
        probability = any_label.mean(0)
        unsure = np.max(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)), axis=-1)
    else:
        probability = p.sum(-1)
        full = np.concatenate([1 - probability[..., None], p], axis=-1)
        unsure = -(full * np.log(full)).sum(-1) / np.log(3)
    deviation = any_label.std(0)
    found = Uncertainty(tmp_path, 2, nested)
    maps = found.add_volume("a", mean, 0.3, ["1", "2", "3", "4"])
    assert list(maps) == ["probability", "uncertainty", "disagreement"]
    for name, values in zip(maps, (probability, unsure, 2 * deviation), strict=True):
        assert np.allclose(maps[name], values, atol=2e-3), name
    counted = (probability > 0.3) | (unsure >= 0.5)
    (row,) = found.rows()
    assert np.isclose(row["uncertainty"], unsure[counted].mean(), atol=1e-3)
    assert np.isclose(row["disagreement"], deviation[counted].mean(), atol=2e-3)
    least_sure = [d[c].sum() / max(c.sum(), c.size / 1000) for d, c in zip(deviation, counted, strict=True)]
    assert row["case"] == "a" and row["image"] == str(np.argmax(least_sure) + 1) and row["image"] != "2"
