"""How large the page of a predicted volume is, and how soon Chromium shows its first slice from disk.

    python tests/benchmarks/viewer.py [slices [noise]]

A volume of 512x512x300 (or so many slices) with noise of 20 HU (or as given) is drawn with a mask, and its page is
opened five times.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SIDE, ROUNDS = 512, 5


def draw(slices, noise):
    """Body with noise and a ball in it, shown in the window from -200 to 200 HU, and the masks of the ball."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    body = np.where(x**2 + (y * 1.4) ** 2 < 0.8, 40, -1000)
    for z in np.linspace(-1, 1, slices):
        mask = ((x / 0.3) ** 2 + (y / 0.3) ** 2 + z**2 < 1).astype(np.uint8)
        yield body + 60 * mask + rng.normal(0, noise, body.shape), mask


def write(path, slices, noise):
    from common.prediction.inputs import GrayRange
    from common.prediction.viewer import Compressor, write_viewer
    from common.slices.images import window_to_gray

    shown = GrayRange.around(-200, 200, -1100, 1100)
    compressor, made = Compressor(slices), []
    for values, mask in draw(slices, noise):
        made.append(compressor.compress(window_to_gray(values, shown.black, shown.white, 8), mask))
    start = time.perf_counter()
    write_viewer(path, made, (SIDE, SIDE), shown, (0.8, 0.8), ["ball"])
    print(f"written in {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e6:.1f} MB")


def seconds_to_first_slice(browser, path):
    """Seconds from the start of the navigation until the first slice is drawn, in a new context."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(path.absolute().as_uri(), wait_until="commit")
    page.wait_for_function("performance.getEntriesByName('drawn').length")
    seconds = page.evaluate("performance.getEntriesByName('drawn')[0].startTime") / 1000
    context.close()
    return seconds


def main(slices=300, noise=20):
    from browsing import start_browser
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "volume.html"
        write(path, slices, noise)
        browser = start_browser(playwright)
        found = [seconds_to_first_slice(browser, path) for _ in range(ROUNDS)]
        browser.close()
    print(f"first slice after {statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
