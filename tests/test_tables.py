"""Tables: any name survives, spreadsheets execute nothing, and a bad row is refused with its line."""

import pandas as pd
import pytest

from common.errors import InputError
from common.tables import as_file_name, read_table, refuse_duplicates, to_numbers, write_table

NAMES = [
    *(
        "a",
        "",
        " lead",
        "'",
        "''",
        "'a",
        'q"q',
        "a,b",
        "a\nb",
        "a\rb",
        "a\r\nb",
        "caf\u00e9",
        "caf\udce9",
        "\U0001f600",
    ),
    *("=1+1", "'=1", "''=x", "-5", "+1", "@x", "\tx", "\rx", "\r", "\uff1d1", "\ufeffx", "\u2028x", "\x0bx\x85y\x1cz"),
]


def written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_any_name_reads_back_unchanged(tmp_path):
    table = pd.DataFrame({"name": NAMES, "number": [-0.1] * len(NAMES)})
    write_table(tmp_path / "t.csv", table)
    found = read_table(tmp_path / "t.csv", ["name"], "fix it")
    assert found["name"].tolist() == NAMES and set(found["number"]) == {"-0.1"}
    assert found.index[0] == 2 and found.index[NAMES.index("a\rb")] == 12, "line numbers in the file"
    one = pd.DataFrame({"name": [name for name in NAMES if "\r" not in name]})
    write_table(tmp_path / "u.csv", one)
    assert read_table(tmp_path / "u.csv", ["name"], "")["name"].tolist() == one["name"].tolist()


def test_formulas_are_quoted_against_spreadsheets(tmp_path):
    """The rule of OWASP: a cell must not begin with one of these characters."""
    formulas = ["=cmd|' /C calc'!A0", "+1", "-1+cmd", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"]
    write_table(tmp_path / "t.csv", [{"case": formula, "dice": -0.5} for formula in formulas])
    as_pandas = pd.read_csv(tmp_path / "t.csv")
    assert all(cell.startswith("'") for cell in as_pandas["case"]) and as_pandas["dice"].eq(-0.5).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "file is empty"),
        (
            "x;y\n1;2\n",
            "no column x (expected a header with x,y, found x;y); save it with commas, not semicolons, between",
        ),
        ("x,y\n1,2\n3\n", "line 3 is incomplete or too long (found 1 field, expected 2); fix it"),
        ("x,y\n\n1,2,3\n", "line 3 is incomplete or too long (found 3 fields, expected 2)"),
        ('x,y\n"a\nb",2\n3\n', "line 4 is incomplete"),
        ('x,y\n1,2\n3,"4\n', "line 3 is not CSV"),
        ('x,y\n1,"2"3\n', "line 2 is not CSV"),
        ("x,y,x\n1,2,3\n", "two columns have the name 'x'"),
        ("x,y\n1,2\n".encode("utf-16"), "UTF-16"),
        (b"x,y\n1,\0\n", "zero bytes"),
        ("x,y\n1," + "2" * (2**24 + 1), "line 2 is not CSV"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(tmp_path, text, words):
    path = written(tmp_path / "t.csv", text)
    with pytest.raises(InputError) as caught:
        read_table(path, ["x", "y"], "fix it")
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and words in message and "\n" not in message


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InputError, match="does not exist; fix it"):
        read_table(tmp_path / "gone.csv", ["x"], "fix it")
    with pytest.raises(InputError, match=r"expected a file \(found a folder\)"):
        read_table(tmp_path, ["x"], "fix it")


@pytest.mark.parametrize("text", ["\ufeffx,y\r\n1,2\r\n", "x,y\r1,2", "x,y\n\n1,2\n\n", '"x","y"\n"1",2\n'])
def test_tables_of_other_programs(tmp_path, text):
    assert read_table(written(tmp_path / "t.csv", text), ["x", "y"], "")[["x", "y"]].values.tolist() == [["1", "2"]]


def test_duplicates_and_numbers(tmp_path):
    path = written(tmp_path / "t.csv", "x,y,z\na,1,\nb,1,0.5\na,1,2\n")
    table = read_table(path, ["x"], "")
    refuse_duplicates(table, ["x", "z"], path, "fix it")
    with pytest.raises(InputError, match=r"lines 2 and 4 have the same x and y \(found a, 1\); fix it"):
        refuse_duplicates(table, ["x", "y"], path, "fix it")
    assert to_numbers(table, "z", path, "").tolist()[1:] == [0.5, 2] and to_numbers(table, "z", path, "").isna()[2]
    with pytest.raises(InputError, match=r"line 4 has an invalid z \(found '2', expected a number from 0 to 1\); fix"):
        to_numbers(table, "z", path, "fix it", (0, 1))
    with pytest.raises(InputError, match=r"line 2 has an invalid x \(found 'a', expected a number\)"):
        to_numbers(table, "x", path, "fix it")
    table["z"] = ["inf", "1", "1"]
    with pytest.raises(InputError, match="line 2 has an invalid z"):
        to_numbers(table, "z", path, "fix it")


def test_names_of_files_whatever_the_encoding():
    assert as_file_name("caf\u00e9 \udce9") == "caf\u00e9 \udce9"
