"""Images in two cases: equal ones, changed copies, and what is no copy."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from drawings import disc_slice, textured, write_image

from common.checking import leaks
from common.checking.leaks import SIGNATURE, find_alike, find_candidates, find_equal, signature_of
from common.slices.checks import Pair, check_images

RNG = np.random.default_rng(5)


def organ(seed):
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(textured(rng, (96, 96), 120, 40, 8), (0, 0), 1.0).clip(0, 255).astype(np.uint8)


def as_jpeg(image, quality):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


CHANGES = {
    "brighter": lambda image: np.clip(image * 1.15 + 12, 0, 255).astype(np.uint8),
    "darker": lambda image: (image * 0.7).astype(np.uint8),
    "jpeg": lambda image: as_jpeg(image, 40),
    "noise": lambda image: np.clip(image + RNG.normal(0, 4, image.shape), 0, 255).astype(np.uint8),
    "16 bits": lambda image: image.astype(np.uint16) * 200 + 3,
}


def check(folder, images):
    """Checked slices and signatures of images: dict of "case/name" to image."""
    slices = []
    for name, image in images.items():
        case, file = name.split("/")
        path = folder / case / "x" / f"{file}.png"
        write_image(path, image)
        slices.append(check_images(Pair(folder / case, file, path, path, ""), image, np.zeros(image.shape, np.uint8)))
    return slices, [signature_of(image) for image in images.values()]


def alike(slices, signatures):
    return find_alike(slices, find_candidates(slices, signatures))


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_others_are_not(tmp_path, change):
    images = {f"case{case}/{number}": organ(10 * case + number) for case in (1, 2, 3) for number in range(4)}
    images["case3/copy"] = CHANGES[change](images["case1/2"])
    slices, signatures = check(tmp_path, images)
    (found,) = alike(slices, signatures)
    assert (found.first.name, found.second.name) == ("2", "copy") and 0.95 < found.correlation <= 1
    assert find_equal(slices) == []


def test_equal_images_are_found_first_and_only_across_cases(tmp_path):
    images = {"case1/a": organ(1), "case1/b": organ(1), "case2/c": organ(2), "case3/d": organ(1)}
    slices, signatures = check(tmp_path, images)
    ((first, second, correlation),) = find_equal(slices)
    assert (first.name, second.name, correlation) == ("a", "d", 1.0)
    assert alike(slices, signatures) == []


def test_air_is_not_the_same_image(tmp_path):
    """Black, one gray level, and a table in air, which all patients lie on."""
    table = np.zeros((96, 96), np.uint8)
    table[90, 5:90] = 200
    noise = (RNG.random((2, 96, 96)) * 3).astype(np.uint8)
    nearly = table.copy()
    nearly[91, 40] = 30
    images = {"case1/a": table * 0, "case2/a": table * 0, "case1/b": table, "case2/b": nearly}
    images |= {"case1/c": noise[0], "case2/c": noise[1]}
    slices, signatures = check(tmp_path, images)
    assert signatures[:4] == [b""] * 4 and find_equal(slices) == [] and alike(slices, signatures) == []


def test_scans_of_one_body_are_not_the_same_image_but_a_copy_of_a_slice_is(tmp_path):
    """All slices have the same outlines in the same places, as a long phantom has, and noise of their own."""
    rng = np.random.default_rng(3)
    body = cv2.GaussianBlur(organ(1), (0, 0), 3.0).astype(float)

    cv2.ellipse(body, (48, 48), (40, 30), 0, 0, 360, 200.0, 3)

    def new_slice():
        return (body + rng.normal(0, 6, body.shape)).clip(0, 255).astype(np.uint8)

    images = {f"case{case}/{number}": new_slice() for case in (1, 2, 3) for number in range(4)}
    slices, signatures = check(tmp_path / "a", images)
    assert find_candidates(slices, signatures) and alike(slices, signatures) == []
    images["case3/copy"] = as_jpeg(CHANGES["brighter"](images["case1/2"]), 80)
    (found,) = alike(*check(tmp_path / "b", images))
    assert (found.first.name, found.second.name) == ("2", "copy")


def test_drawn_slices_are_all_different(tmp_path):
    images = {f"case{case}/{n}": disc_slice(24, 100 * case + n)[0] for case in range(6) for n in range(5)}
    assert alike(*check(tmp_path, images)) == []


def test_signatures_do_not_depend_on_brightness_and_have_64_bytes():
    image = organ(7)
    assert len(signature_of(image)) == SIGNATURE == 64
    assert signature_of(image) == signature_of(image.astype(np.uint16) * 256)


class Named:
    """A slice of a case."""

    def __init__(self, case):
        self.case = Path(case)


@pytest.mark.parametrize("chunk", [2, 3, 512])
def test_every_pair_is_compared_in_any_chunks(monkeypatch, chunk):
    """Against a plain comparison of all pairs; slices without a signature are left out."""
    monkeypatch.setattr(leaks, "CHUNK", chunk)
    rng = np.random.default_rng(1)
    base = rng.bytes(SIGNATURE)
    signatures = [b"" if i % 5 == 4 else _flip(base, rng, 8 * i) for i in range(17)]
    slices = [Named(f"case{i // 3}") for i in range(17)]
    expected = {
        (i, j)
        for i in range(17)
        for j in range(i)
        if signatures[i] and signatures[j] and i // 3 != j // 3 and _distance(signatures[i], signatures[j]) <= 64
    }
    assert {tuple(sorted(pair, reverse=True)) for pair in find_candidates(slices, signatures)} == expected
    assert expected


def test_only_the_most_similar_candidates_are_kept(monkeypatch):
    monkeypatch.setattr(leaks, "MOST_CANDIDATES", 3)
    rng = np.random.default_rng(1)
    base = rng.bytes(SIGNATURE)
    signatures = [_flip(base, rng, bits) for bits in (0, 30, 2, 20, 10, 40)]
    assert find_candidates([Named(f"case{i}") for i in range(6)], signatures)[0] == (0, 2)
    assert len(find_candidates([Named(f"case{i}") for i in range(6)], signatures)) == 3


def _flip(signature, rng, bits):
    array = np.unpackbits(np.frombuffer(signature, np.uint8))
    array[rng.choice(len(array), bits, replace=False)] ^= 1
    return np.packbits(array).tobytes()


def _distance(a, b):
    return int(np.bitwise_count(np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)).sum())
