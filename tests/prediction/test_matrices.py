"""predict.py on files of numbers: masks of the same shape and format come back."""

import numpy as np
import pytest
from drawings import disc_slice, write_copying_network
from running import assert_refused, run_here

from common.prediction.matrices import MatrixInput
from common.slices.images import read_image, read_mask
from common.slices.matrices import are_matrices

SIDE = 32


@pytest.fixture
def network(tmp_path):
    """A network whose probability is the brightness."""
    write_copying_network(tmp_path / "copy.keras", SIDE)
    return tmp_path / "copy.keras"


def hounsfield(seed, size=(SIDE, SIDE)):
    """Odd numbers, since 0 is exactly between gray level 127 and 128 of the window."""
    return 2 * np.random.default_rng(seed).integers(-500, 500, size).astype(np.float32) + 1


def test_text_and_arrays_come_back_as_masks(network, tmp_path):
    source, window = tmp_path / "in", [-200, 200]
    (source / "p1" / "images").mkdir(parents=True)
    np.savetxt(source / "p1" / "images" / "s1.csv", hounsfield(1), fmt="%g", delimiter=",")
    np.savetxt(source / "p1" / "images" / "s2", hounsfield(2), fmt="%.3f", delimiter="\t")
    np.save(source / "one.npy", hounsfield(3).astype(np.float64))
    stack = hounsfield(4, (3, 1, SIDE, SIDE)).astype(np.int16)
    np.save(source / "set.npy", stack)
    out = tmp_path / "out"
    said = run_here("predict.py", RUN=network, INPUT=source, OUTPUT=out, WINDOW=window).stdout
    assert "wrote 6 masks with overlays, 4 files of numbers to" in said
    for file, mask, values in (
        ("p1/images/s1.csv", "p1_s1.png", hounsfield(1)),
        ("p1/images/s2", "p1_s2.png", hounsfield(2)),
        ("one.npy", "one.png", hounsfield(3)),
    ):
        path = out / "matrices" / file
        found = np.load(path) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",")
        assert found.shape == values.shape and set(np.unique(found)) == {0, 1}
        np.testing.assert_array_equal(found, values > 0)
        np.testing.assert_array_equal(read_mask(out / mask), 255 * found)
    found = np.load(out / "matrices" / "set.npy")
    assert found.shape == stack.shape and found.dtype == np.uint8
    for number in range(3):
        np.testing.assert_array_equal(read_mask(out / "set" / f"000{number + 1}.png"), 255 * found[number, 0])
    np.testing.assert_array_equal(found, stack > 0)


def test_the_same_slices_as_after_import(network, tmp_path):
    """Without a window: minimum and maximum of each file, as the importer."""
    (tmp_path / "in").mkdir()
    for seed in (1, 2):
        np.save(tmp_path / "in" / f"{seed}.npy", hounsfield(seed, (2, SIDE, SIDE)))
    run_here("preprocess/0_import_matrices.py", IMAGES=tmp_path / "in", CASES=tmp_path / "cases", SIZE=SIDE)
    source = MatrixInput(tmp_path / "in", None)
    assert [(s.case, s.name) for s in source.slices] == [(c, n) for c in "12" for n in ("0001", "0002")]
    for s in source.slices:
        imported = read_image(tmp_path / "cases" / f"case_{s.case}" / "x" / f"{s.name}.png")
        np.testing.assert_array_equal(source.read(s), imported)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"1,2\n3,4\n", True),
        ("a.csv", b'"x","y","case"\n', False),
        ("a.csv", b"x,y,case\na,b,c\n", False),
        ("a", b"-1000\t3\n", True),
        ("a.txt", b"These are notes\n", False),
        ("a.npy", b"\x93NUMPY\x01\0v\0", True),
        ("a.bin", b"1,2\n", False),
    ],
)
def test_files_of_numbers_are_told_from_lists(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert are_matrices(tmp_path / name) == are_matrices(tmp_path) == expected
    (tmp_path / "b.png").write_bytes(b"")
    assert not are_matrices(tmp_path)


def test_bad_files(network, tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "good.npy", hounsfield(1))
    np.save(tmp_path / "in" / "flat.npy", np.zeros((SIDE, SIDE)))
    np.save(tmp_path / "in" / "words.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "in" / "objects.npy", np.array([{}, []], object))
    np.save(tmp_path / "in" / "four.npy", np.zeros((2, 3, SIDE, SIDE)))
    np.save(tmp_path / "in" / "nan.npy", np.full((2, SIDE, SIDE), np.nan))
    (tmp_path / "in" / "cut.npy").write_bytes((tmp_path / "in" / "good.npy").read_bytes()[:500])
    said = assert_refused("predict.py", "6 files cannot be read", RUN=network, INPUT=tmp_path / "in", OUTPUT="out")
    for words in (
        "flat.npy: expected different values (found only 0)",
        "words.npy: expected numbers (found <U1)",
        "objects.npy: not an array of NumPy, or damaged",
        "four.npy: expected (rows, columns) or (slices, rows, columns), with axes of length 1 (found 2x3x32x32)",
        "nan.npy: no finite number (found nan in row 1, column 1 of slice 1",
        "cut.npy: not an array of NumPy, or damaged",
    ):
        assert words in said, said
    np.save(tmp_path / "overlays.npy", hounsfield(1))
    assert_refused("predict.py", "as a folder that predict.py writes", RUN=network, INPUT=tmp_path / "overlays.npy")


def test_a_disc_survives_semicolons_and_decimal_commas(tmp_path):
    image, _ = disc_slice(SIDE, 0)
    text = "\n".join(";".join(f"{value / 10:.1f}".replace(".", ",") for value in row) for row in image.astype(float))
    (tmp_path / "german.csv").write_text(text, encoding="utf-8-sig")
    source = MatrixInput(tmp_path / "german.csv", [0, 25.5])
    np.testing.assert_array_equal(source.read(source.slices[0]), image)
