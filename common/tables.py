"""Tables as CSV files: any name in a cell, formulas quoted against spreadsheets, and strict reading.

A spreadsheet executes text cells that begin with =, +, - or @. As OWASP recommends, such a cell is written with a
single quote in front; `read_table` removes it again.
"""

import csv
import io
import os
import sys
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from common.errors import InputError
from common.system_errors import errors_of

FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"  # the last four are full-width =+-@
FILE_NAMES_ARE_UTF8 = sys.getfilesystemencoding() == "utf-8"
LONGEST_CELL = 2**24  # characters
SEPARATORS = {";": "semicolons", "\t": "tabs"}  # that spreadsheets write in some languages


def write_table(path, table):
    """Write a table that `read_table` reads back unchanged.

    Args:
        path: CSV file to write; bytes of file names that are not UTF-8 (surrogate escapes) are written as they are.
        table: DataFrame, or list of dicts of column to value.
    """
    table = pd.DataFrame(table)
    texts = {name: list(map(_quote, table[name])) for name in table if not is_numeric_dtype(table[name])}
    returns = any("\r" in cell for cells in texts.values() for cell in cells if isinstance(cell, str))
    quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL  # the minimal one forgets carriage returns
    table = table.assign(**texts)
    with errors_of(path):  # absolute, since pandas takes ~ for a home folder
        table.to_csv(os.path.abspath(path), index=False, quoting=quoting, encoding="utf-8", errors="surrogateescape")


def read_table(path, columns, advice):
    """Read a table strictly: a file that was cut, edited or mixed up is refused.

    Args:
        path: CSV file with a header.
        columns: names of columns that must be in the header; others may be there too.
        advice: what to do about a bad file, for messages.

    Returns:
        DataFrame of str; its index contains the line number of each row in the file.

    Raises:
        InputError: if the file is missing or is no such table; with the line for a bad row.
    """
    path, lines = Path(path), []
    reader = csv.reader(_lines_of(path, advice), strict=True)
    csv.field_size_limit(LONGEST_CELL)
    try:
        header = next(reader, [])
        _check_header(header, columns, path, advice)
        cells = [[] for _ in header]
        start = reader.line_num + 1
        for row in reader:
            if row:  # not a blank line
                if len(row) != len(header):
                    raise InputError(
                        f"{path}: line {start} is incomplete or too long "
                        f"(found {len(row)} field{'s' * (len(row) != 1)}, expected {len(header)}); {advice}"
                    )
                for column, cell in zip(cells, row, strict=True):
                    column.append(_unquote(cell) if cell[:1] == "'" else cell)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is not CSV ({error}); {advice}") from None
    return pd.DataFrame(dict(zip(header, cells, strict=True)), index=lines, dtype=object)


def _quote(cell):
    """Cell with a single quote in front if a spreadsheet would execute it, or if `_unquote` would change it."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip("'")[:1] in FORMULA and cell.strip("'") else cell


def _unquote(cell):
    return cell[1:] if cell.strip("'") and cell.lstrip("'")[:1] in FORMULA else cell  # of a cell with a quote in front


def as_file_name(text):
    """Cell of a table as a name that the system's functions accept, whatever the encoding of its file names is."""
    return text if FILE_NAMES_ARE_UTF8 else os.fsdecode(text.encode("utf-8", "surrogateescape"))


def refuse_duplicates(table, columns, path, advice):
    """Raise InputError, with both lines, if two rows of a table from `read_table` agree in the columns."""
    if (again := table.duplicated(columns)).any():
        line = table.index[again][0]
        key = table.loc[line, columns]
        first = table.index[(table[columns] == key).all(axis=1)][0]
        raise InputError(
            f"{path}: lines {first} and {line} have the same {' and '.join(columns)} "
            f"(found {', '.join(map(str, key))}); {advice}"
        )


def to_numbers(table, column, path, advice, limits=(-float("inf"), float("inf")), whole=False, required=False):
    """Convert a column of a table from `read_table` to numbers; empty cells become NaN.

    Args:
        table, column: the table, and the name of its column.
        path, advice: as for `read_table`.
        limits: smallest and largest valid number.
        whole: whether to accept whole numbers only, and no empty cell; the result is of type int.
        required: whether to accept no empty cell.

    Raises:
        InputError: with the line of a cell that is not such a number, or not finite.
    """
    numbers = pd.to_numeric(table[column].replace("", "nan"), errors="coerce").astype(float)
    wrong = (numbers.isna() & (table[column] != "")) | (numbers < limits[0]) | (numbers > limits[1])
    wrong |= numbers.isna() & (whole | required)
    wrong |= (numbers.abs() == float("inf")) | (whole & (numbers % 1 != 0))
    if wrong.any():
        line = table.index[wrong][0]
        expected = "a whole number" if whole else "a number"
        expected += "" if limits[0] == -float("inf") else f" from {limits[0]:g} to {limits[1]:g}"
        found = f"found {table[column][line]!r}, expected {expected}"
        raise InputError(f"{path}: line {line} has an invalid {column} ({found}); {advice}")
    return numbers.astype(int) if whole else numbers


def _lines_of(path, advice):
    """Lines of a UTF-8 file with their ends; other bytes become surrogate escapes, as in file names."""
    if path.is_dir():
        raise InputError(f"{path}: expected a file (found a folder); {advice}")
    if path.exists() and not path.is_file():  # reading a FIFO would wait
        raise InputError(f"{path}: expected a file (found a FIFO or device); {advice}")
    try:
        with errors_of(path):
            content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: file does not exist; {advice}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: UTF-16 text (expected UTF-8); save it as CSV UTF-8")
    if b"\0" in content:
        raise InputError(f"{path}: not a CSV file (contains zero bytes); {advice}")
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    return io.StringIO(text, newline="")


def _check_header(header, columns, path, advice):
    if not header:
        raise InputError(f"{path}: the file is empty (expected a header with {','.join(columns)}); {advice}")
    if missing := [name for name in columns if name not in header]:
        found = f"expected a header with {','.join(columns)}, found {','.join(header)[:200]}"
        separator = next((sign for sign in SEPARATORS if len(header) == 1 and sign in header[0]), None)
        advice = f"save it with commas, not {SEPARATORS[separator]}, between the columns" if separator else advice
        raise InputError(f"{path}: no column {missing[0]} ({found}); {advice}")
    if twice := {name for name in header if header.count(name) > 1}:
        raise InputError(f"{path}: two columns have the name {min(twice)!r}; {advice}")
