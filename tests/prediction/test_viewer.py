"""Pages of predicted volumes: what they show, in a real browser."""

import base64
import json
import re

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
from browsing import MODES, check_page, opened
from drawings import as_volume, write, write_copying_network
from running import run_here

from common.prediction import viewer
from common.prediction.inputs import GrayRange
from common.slices.cases import Slice
from common.slices.classes import sets_of_classes
from common.slices.drawing import CLASS_COLORS
from common.slices.images import read_image

SHAPE = (7, 24, 32)
PIXELS = """([x, y]) => {
    const canvas = document.querySelector('canvas'), copy = new OffscreenCanvas(canvas.width, canvas.height);
    const context = copy.getContext('2d');
    context.drawImage(canvas, 0, 0);
    return [...context.getImageData(x, y, 1, 1).data].slice(0, 3);
}"""


@pytest.fixture(scope="session")
def predicted(made_once):
    """Output of predict.py for a volume whose mask is a square at 150 HU in air; above 100 HU is foreground."""

    def predict(root):
        values = np.full(SHAPE, -1000, np.int16)
        values[:, 4:20, 4:28] = 40
        values[1:6, 8:16, 8:16] = 150
        values += np.arange(SHAPE[0], dtype=np.int16)[:, None, None]  # tells the slices from each other
        write(root, "scan.nii.gz", as_volume(values, np.eye(3), (1.0, 2.0, 3.0)))
        network = write_copying_network(root / "copying.keras", 24)
        settings = {"RUN": network, "INPUT": root / "scan.nii.gz", "WINDOW": [0, 200], "FIT": "tile"}
        return run_here("predict.py", OUTPUT=root / "out", **settings, UNCERTAINTY=True).stdout

    root, said = made_once("viewed", predict)
    assert "with overlays, 1 label volume, 1 viewer" in said
    return root / "out"


@pytest.fixture(scope="session")
def page_file(predicted):
    (file,) = (predicted / "viewers").iterdir()
    assert (predicted / f"{file.stem}.nii.gz").is_file()
    return file


def wait_for(page, number):
    page.wait_for_function(f"document.querySelector('canvas').dataset.drawn === '{number}'")


@pytest.mark.parametrize(("width", "scheme"), MODES)
def test_page_of_a_volume(browser, page_file, width, scheme):
    check_page(browser, page_file, width, scheme)


def test_slices_are_chosen_by_keys_wheel_and_slider(browser, page_file):
    with opened(browser, page_file) as page:
        wait_for(page, 4)
        for key, number in (("ArrowUp", 5), ("ArrowLeft", 4), ("PageUp", 7), ("PageDown", 1), ("End", 7), ("Home", 1)):
            page.keyboard.press(key)
            wait_for(page, number)
            assert page.locator("canvas").get_attribute("aria-label") == f"slice {number} of 7"
        page.locator("canvas").hover()
        page.mouse.wheel(0, 100)
        wait_for(page, 2)
        page.locator("#slice").fill("6")
        wait_for(page, 6)
        assert page.locator("#slice").get_attribute("aria-valuetext") == "6 of 7"
        page.locator("#width").press("Home")  # of this slider
        assert page.locator("#slice").input_value() == "6"
        page.emulate_media(media="print")
        assert page.locator("canvas").is_visible() and not page.locator("#mask").is_visible()


def test_mask_and_window_change_the_pixels(browser, page_file, predicted):
    with opened(browser, page_file) as page:
        wait_for(page, 4)
        inside, outside, air = [12, 12], [24, 12], [0, 0]
        orange, gray = np.array(CLASS_COLORS[0]), 255 * 153 / 200
        assert np.allclose(page.evaluate(PIXELS, inside), 0.6 * gray + 0.4 * orange, atol=5)
        assert np.allclose(page.evaluate(PIXELS, outside), 255 * 43 / 200, atol=5)
        assert page.evaluate(PIXELS, [8, 12]) == list(CLASS_COLORS[0]), "the outline is opaque"
        assert page.evaluate(PIXELS, air) == [0, 0, 0]
        page.keyboard.press("m")
        assert page.locator("#mask").get_attribute("aria-pressed") == "false"
        page.wait_for_function(f"(({PIXELS})([12, 12])[0] === ({PIXELS})([12, 12])[2])")
        assert np.allclose(page.evaluate(PIXELS, inside), gray, atol=5)
        page.locator("#whole").click()
        page.wait_for_function(f"({PIXELS})([24, 12])[0] > 70")
        page.locator("#predicted").click()
        page.wait_for_function(f"({PIXELS})([24, 12])[0] < 70")
        page.locator("#width").fill("40")
        page.wait_for_function(f"({PIXELS})([24, 12])[0] === 0")
        page.locator("#center").fill("43")
        page.wait_for_function(f"Math.abs(({PIXELS})([24, 12])[0] - 127) < 20")
        page.locator("#mask").click()
        page.locator("#opacity").fill("100")
        page.wait_for_function(f"({PIXELS})([12, 12]).join() === '{','.join(map(str, CLASS_COLORS[0]))}'")
        box = page.locator("canvas").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(32 / (24 * 2), rel=0.02), "as wide and high as in mm"


def test_the_page_contains_every_mask(page_file, predicted):
    text = page_file.read_text()
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", text)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(next(predicted.glob("*.nii.gz")))))
    assert labels[3].any() and not labels[0].any()
    for number, mask in enumerate(labels, 1):
        image, *numbers = re.search(f'id="slice-{number}">(.*)</script>', text)[1].split(" ")
        image, *numbers = (base64.b64decode(address.partition(",")[2]) for address in (image, *numbers))
        found = np.zeros_like(mask)
        if numbers:
            found = cv2.imdecode(np.frombuffer(numbers[0], np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(found, mask) and image.startswith(b"\xff\xd8")


def test_each_of_several_overlapping_classes_is_shown(browser, tmp_path):
    """Classes 1, 2 and 9, of which some pixels have several: the mean of their colors, and the outline of each."""
    masks = np.zeros((9, 24, 32), bool)
    masks[0, 4:20, 4:20], masks[1, 4:20, 12:28], masks[8, 8:16, 14:18] = True, True, True
    sets, slices = sets_of_classes(list(masks)), viewer.Compressor(1)
    content = slices.compress(np.full((24, 32), 100, np.uint8), sets)
    shown, names = GrayRange(0, 255, (0, 255)), [f"class {number}" for number in range(1, 10)]
    viewer.write_viewer(tmp_path / "a.html", [content], (24, 32), shown, None, names, overlapping=True)
    colors = np.array([CLASS_COLORS[number % len(CLASS_COLORS)] for number in range(9)])
    with opened(browser, tmp_path / "a.html") as page:
        wait_for(page, 1)
        for x, y, inside in ((8, 12, [0]), (24, 12, [1]), (13, 6, [0, 1]), (15, 12, [0, 1, 8])):
            expected = 0.6 * 100 + 0.4 * colors[inside].mean(axis=0)
            assert np.allclose(page.evaluate(PIXELS, [x, y]), expected, atol=5), (x, y)
        for x, y, outline in ((12, 10, 1), (19, 10, 0), (14, 12, 8), (4, 12, 0)):
            assert page.evaluate(PIXELS, [x, y]) == colors[outline].tolist(), (x, y)
        page.keyboard.press("m")
        page.wait_for_function(f"({PIXELS})([15, 12]).every(value => Math.abs(value - 100) < 5)")
    check_page(browser, tmp_path / "a.html", *MODES[0])


def test_uncertainty_of_a_volume_is_one_row(predicted):
    lines = (predicted / "cases_to_label.csv").read_text().splitlines()
    assert lines[0] == "case,image,uncertainty" and len(lines) == 2
    p = read_image(predicted / "probability" / "0004.png")
    assert p[12, 12] == round(255 / (1 + np.exp(10 - 20 * 153 / 200))) and p[0, 0] == 0
    assert not (predicted / "disagreement").exists()
    assert json.loads((predicted / "prediction.json").read_text())["UNCERTAINTY"] is True


def test_pages_stay_small(monkeypatch):
    """Noise compresses badly: quality, and then size, go down until all slices fit."""
    monkeypatch.setattr(viewer, "MOST_BYTES", 800_000)
    noise = np.random.default_rng(0).integers(0, 256, (40, 256, 256)).astype(np.uint8)
    compressor = viewer.Compressor(len(noise))
    sizes = [len(image) + len(mask) for image, mask in (compressor.compress(image, image // 128) for image in noise)]
    assert 600_000 < sum(sizes) <= 800_000
    calm, mask = viewer.Compressor(1).compress(*np.zeros((2, 256, 256), np.uint8))
    assert mask == b"" and cv2.imdecode(np.frombuffer(calm, np.uint8), cv2.IMREAD_UNCHANGED).shape == (256, 256)


def test_the_widest_window_stays_within_the_volume():
    assert GrayRange.around(0, 200, -1000, 3000) == (-200, 400, (0, 200))
    assert GrayRange.around(0, 200, -50, 150) == (-50, 200, (0, 200))


class Drawn:
    """In place of an input of predict.py."""

    def viewed(self, s, image):
        return image

    def range_of(self, s):
        return GrayRange(0, 255, (0, 255))

    def spacing_of(self, s):
        return None


def test_masks_of_the_page_are_cleaned_as_the_volume_is(tmp_path):
    """The largest part in 3-D stays; a part that is the only one of its slice goes. Each case has its own page."""
    masks = np.zeros((3, 24, 24), np.uint8)
    masks[:2, 4:12, 4:12], masks[2, 20:22, 20:22] = 1, 1
    record = {"slices": {name: {} for name in "abc"}}
    pages = viewer.Viewers(tmp_path, Drawn(), ["one"], {"share": 1})
    for case in ("case1", "case2"):
        for name, mask in zip(record["slices"], masks, strict=True):
            pages.add(Slice(case, name, tmp_path / name), np.full((24, 24), 90, np.uint8), mask, case, record)
    assert pages.close() == 2
    for case in ("case1", "case2"):
        shown = re.findall(r'id="slice-(\d)">(.*)</script>', (tmp_path / "viewers" / f"{case}.html").read_text())
        assert {number: "image/png" in text for number, text in shown} == {"1": True, "2": True, "3": False}
