"""Ways to damage a file, each a function of a random.Random and the bytes of a good file to the bytes of a bad one.

The same random.Random always gives the same damage. `WATCHED` in a word becomes the path of a folder that no script may
touch.
"""

import contextlib
import copy
import io
import json
import re
import sqlite3
import struct
import tempfile
import zipfile
from pathlib import Path

WATCHED = "@WATCHED@"

PATH_TRICKS = [
    *("../../beside", "../../../beside/case99", f"{WATCHED}/beside", "..", ".", "", "x", "y", "../x", "/", "/dev/null"),
    *("x/../../../../beside", "beside\0", "a\nb", "\ud800", "~", "NUL", "C:\\Windows", "a" * 300, "=1+1", "-x"),
]

NUMBERS = [
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        -1,
        0,
        0.5,
        -0.5,
        1,
        2,
        3,
        255,
        256,
        65536,
        2**31,
        2**32,
        2**63,
        2**64,
    ),
    *(10**30, 1e308, -1e308, 1e-308, 10**400),
]

WORDS = [
    "",
    "nonsense",
    "None",
    "true",
    "1,2",
    "1;2",
    '"',
    "'",
    "{}",
    "é",
    "\ufeff",
    "\x1b[31m",
    "a" * 10**5,
    "{id}",
    "%s",
]

EMPTY = [None, True, False, [], {}, [[]], [None], {"a": 1}, [1, 2, 3, 4, 5]]


def deep(levels=10**5):
    return "[" * levels + "]" * levels


def value(rng):
    """A value that is wrong at nearly every place of a JSON file."""
    return copy.deepcopy(rng.choice([*NUMBERS, *PATH_TRICKS, *WORDS, *EMPTY]))


def word(rng):
    """A word that is wrong at nearly every place of a table."""
    return str(rng.choice([*NUMBERS[:-1], "1" + "0" * 400, *PATH_TRICKS, *WORDS]))


# --- any file


def cut(rng, data):
    return data[: rng.choice([0, 1, rng.randrange(len(data) + 1), max(len(data) - rng.randrange(1, 64), 0)])]


def of_bytes(rng, data):
    """Bits flipped; bytes deleted, inserted, swapped or set; often near the start, with the headers."""
    if not data:
        return b"\0"
    data = bytearray(data)
    reach = rng.choice([64, 400, len(data), len(data)])
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        at = rng.randrange(min(reach, len(data)) or 1)
        length = rng.choice([1, 2, 4, 8, 64])
        way = rng.randrange(7)
        if way == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[at] = rng.randrange(256)
        elif way == 2 and len(data) > 2 * length:
            del data[at : at + length]
        elif way == 3:
            data[at:at] = rng.randbytes(length)
        elif way == 4:
            other = rng.randrange(len(data))
            data[at : at + length], data[other : other + length] = (
                data[other : other + length],
                data[at : at + length],
            )
        elif way == 5:
            data[at : at + length] = rng.choice([b"\0", b"\xff"]) * length
        else:
            number = rng.choice([0, 1, -1, 2**31 - 1, -(2**31), 65536])
            data[at : at + 4] = struct.pack(rng.choice("<>") + "i", number)
    return bytes(data)


def foreign(rng, data):
    """Another file altogether, or the file with something before or after it."""
    others = [b"", b"\0" * 1000, b"%PDF-1.4", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"{}", b"[]", b"null", b"a,b\n1,2\n"]
    other = rng.choice([*others, rng.randbytes(3000), b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"])
    return rng.choice([other, other + data, data + other, data * 2, data[::-1]])


BINARY = [of_bytes, of_bytes, of_bytes, cut, foreign]


# --- text


def of_words(rng, data):
    """Words or numbers replaced, dropped, doubled or swapped."""
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(rng.choice([1, 1, 2, 5])):
        found = list(re.finditer(r"[\w.+-]+", text))
        if not found:
            break
        first, second = rng.choice(found), rng.choice(found)
        new = rng.choice([word(rng), word(rng), "", first[0] * 2, second[0], "-" + first[0], first[0] + ".5"])
        text = text[: first.start()] + new + text[first.end() :]
    return encoded(text)


def of_lines(rng, data):
    """Lines dropped, doubled, swapped, joined, or with fields dropped or doubled."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(rng.choice([1, 1, 3])):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        way = rng.randrange(6)
        if way == 0 and len(lines) > 1:
            del lines[at]
        elif way == 1:
            lines.insert(other, lines[at])
        elif way == 2:
            lines[at], lines[other] = lines[other], lines[at]
        elif way == 3:
            lines[at] = ",".join(rng.sample(lines[at].split(","), rng.randrange(lines[at].count(",") + 2)))
        elif way == 4:
            lines[at] += rng.choice([",", "," + word(rng), '"', "\r", ";", "\t"])
        else:
            lines.insert(at, rng.choice(["", "#", ",,,", word(rng), "\0"]))
    return encoded("\n".join(lines))


def of_encoding(rng, data):
    """Other encodings, line ends, quotes and separators."""
    text = data.decode("utf-8", "replace")
    return rng.choice(
        [
            b"\xef\xbb\xbf" + data,
            data.replace(b"\n", b"\r\n"),
            data.replace(b"\n", b"\r"),
            text.encode("utf-16"),
            text.encode("utf-16-le"),
            text.encode("utf-32"),
            data.replace(b"\n", b"\0\n"),
            data.replace(b",", b";"),
            data.replace(b",", b"\t"),
            data.replace(b".", b","),
            data.replace(b'"', b"'"),
            b'"' + data,
            data + b"\xe9",
            data.replace(b"e", b"\xe9", 1),
            data.rstrip(b"\n"),
            data + b"\n\n\n",
            b"",
            b"\n",
        ]
    )


def encoded(text):
    return text.encode("utf-8", "surrogatepass" if re.search("[\ud800-\udbff]", text) else "surrogateescape")


TEXT = [of_words, of_words, of_words, of_lines, of_lines, of_encoding, of_bytes, cut, foreign]


# --- JSON


def of_json(rng, data):
    """Values replaced, keys dropped, doubled, renamed or swapped, in the text of a JSON file."""
    tree = json.loads(data)
    for _ in range(rng.choice([1, 1, 1, 3])):
        tree = _changed(rng, tree)
    text = json.dumps(tree)
    if rng.random() < 0.05:
        text = text.replace(rng.choice(re.findall(r'[\d.]+|"[^"]*"(?!:)', text) or ["{"]), deep(), 1)
    if rng.random() < 0.05:
        text = re.sub(r"\{", '{"a": 1, "a": 2, ', text, count=1)
    return text.encode("utf-8", "surrogatepass")


def _changed(rng, tree):
    places = list(_places(tree)) if isinstance(tree, dict | list) else []
    if not places or rng.random() < 0.08:
        return value(rng) if rng.random() < 0.7 else [tree]
    inside, key = rng.choice(places)
    way = rng.randrange(8)
    if way <= 3:
        inside[key] = value(rng)
    elif way == 4:
        del inside[key]
    elif way == 5:
        other, name = rng.choice(places)
        inside[key], other[name] = copy.deepcopy(other[name]), copy.deepcopy(inside[key])
    elif way == 6:
        inside[key] = rng.choice([[inside[key]], str(inside[key]), {"a": inside[key]}])
    elif isinstance(inside, dict):
        inside[str(rng.choice([*PATH_TRICKS[:8], *WORDS[:6], key + "x", key.upper()]))] = inside.pop(key)
    else:
        inside.insert(key, value(rng))
    return tree


def _places(tree):
    for key, inner in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


JSON = [of_json, of_json, of_json, of_json, of_json, of_words, of_encoding, of_bytes, cut, foreign]


# --- containers


def of_hdf5(rng, data):
    """Datasets, groups and attributes removed, replaced, of other types and shapes, or links to elsewhere."""
    import h5py

    memory = io.BytesIO(data)
    with h5py.File(memory, "a") as file:
        found = []
        file.visit(found.append)
        for _ in range(rng.choice([1, 1, 2])):
            name = rng.choice([*found, "/"])
            if name != "/" and name not in file:
                continue
            if name == "/" or (file[name].attrs and rng.random() < 0.5):
                _change_attribute(rng, file[name].attrs)
            else:
                _change_object(rng, file, name, found)
    return memory.getvalue()


def _change_attribute(rng, attributes):
    import numpy as np

    if not attributes or rng.random() < 0.1:
        attributes["added"] = 1
        return
    name = rng.choice(sorted(attributes))
    way = rng.randrange(6)
    if way == 0:
        del attributes[name]
    elif way == 1:
        attributes[name] = rng.choice([[], [1.0], [1.0, 2.0, 3.0], np.zeros((2, 2)), b"\xff", [b"a", b"b"]])
    elif way == 2 and isinstance(attributes[name], str):
        attributes[name] = encoded(of_json(rng, attributes[name].encode()).decode("utf-8", "replace")[:30000])[:30000]
    else:
        new = value(rng)
        new = new if isinstance(new, int | float | str) and abs(hash(new)) < 2**60 else 7
        new = float(new) if isinstance(new, int) and abs(new) >= 2**63 else new
        if isinstance(new, str):
            new = new.replace("\0", "").encode("utf-8", "surrogatepass")[:30000] or b"-"
        attributes[name] = new


def _change_object(rng, file, name, found):
    import h5py
    import numpy as np

    attributes = {key: file[name].attrs[key] for key in file[name].attrs}
    is_small = isinstance(file[name], h5py.Dataset) and file[name].nbytes < 2**20
    old = file[name][()] if is_small else np.zeros(3)
    way = rng.randrange(10)
    if way == 0 and old.dtype.kind in "uif" and old.size:
        changed = old.copy()
        wrong = np.array([0, 1, 7, 255, -1 if old.dtype.kind != "u" else 77, np.nan if old.dtype.kind == "f" else 3])
        changed.flat[rng.randrange(old.size)] = wrong.astype(old.dtype)[rng.randrange(6)]
        file[name][()] = changed
        return
    del file[name]
    numeric = old if old.dtype.kind in "uif" else np.arange(old.size).reshape(old.shape)
    replacements = [
        lambda: file.create_group(name),
        lambda: file.__setitem__(name, h5py.SoftLink("/gone")),
        lambda: file.__setitem__(name, h5py.SoftLink(rng.choice(["/", f"/{name}", f"/{rng.choice(found)}"]))),
        lambda: file.__setitem__(name, h5py.ExternalLink(rng.choice([f"{WATCHED}/o.h5", "../o.h5"]), "x")),
        lambda: file.__setitem__(name, rng.choice(["text", 5, np.float64(np.nan)])),
        lambda: file.create_dataset(name, data=numeric[: len(numeric) // 2] if numeric.ndim else numeric),
        lambda: file.create_dataset(name, data=numeric.astype(rng.choice(["f4", "f8", "i8", "i2", "?", "c8"]))),
        lambda: file.create_dataset(name, data=numeric[..., None] if numeric.ndim < 6 else numeric[0]),
        lambda: file.create_dataset(name, (2**40, 8), "u1", chunks=(1024, 8)),
        lambda: None,
    ]
    rng.choice(replacements)()
    if name in file and rng.random() < 0.7:
        for key, content in attributes.items():
            try:
                file[name].attrs[key] = content
            except (OSError, KeyError):
                break


HDF5 = [of_hdf5, of_hdf5, of_hdf5, of_bytes, of_bytes, cut, foreign]


def of_members(**ways):
    """Damage for zip files whose members are damaged inside a zip file that is sound.

    Args:
        ways: dict of member suffix, such as "json", to a list of damages; a member of another suffix is damaged as
            BINARY.
    """

    def of_zip(rng, data):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice(sorted(members))
        way = rng.randrange(12)
        if way == 0:
            del members[name]
        elif way == 1:
            members[rng.choice(["../../beside/made", f"{WATCHED}/made", "x" * 300])] = members[name]
        elif way == 2:
            other = rng.choice(sorted(members))
            members[name], members[other] = members[other], members[name]
        else:
            members[name] = rng.choice(ways.get(name.rpartition(".")[2], BINARY))(rng, members[name])
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return memory.getvalue()

    return of_zip


KERAS = [of_members(json=[of_json], h5=HDF5)] * 3 + BINARY


def of_database(rng, data):
    """Cells of an SQLite database replaced, rows and tables dropped."""
    with tempfile.NamedTemporaryFile(suffix=".db") as file:
        Path(file.name).write_bytes(data)
        with sqlite3.connect(file.name) as database:
            tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
            for _ in range(rng.choice([1, 1, 3])):
                table = rng.choice(tables)
                rows = [row for (row,) in database.execute(f"select rowid from {table}")]
                columns = [column[1] for column in database.execute(f"pragma table_info({table})")]
                if rng.random() < 0.08 or not columns:
                    database.execute(f"drop table if exists {table}")
                elif rows and rng.random() < 0.15:
                    database.execute(f"delete from {table} where rowid = ?", (rng.choice(rows),))
                elif rows:
                    row, column = rng.choice(rows), rng.choice(columns)
                    (old,) = database.execute(f"select {column} from {table} where rowid = ?", (row,)).fetchone()
                    try:
                        database.execute(f"update {table} set {column} = ? where rowid = ?", (_cell(rng, old), row))
                    except sqlite3.Error:
                        continue
        database.close()
        return Path(file.name).read_bytes()


def _cell(rng, old):
    if isinstance(old, str) and rng.random() < 0.5:
        damage = of_json if old.startswith(("{", "[")) else of_words
        return damage(rng, old.encode()).decode("utf-8", "replace")[:30000]
    new = value(rng)
    if isinstance(new, int):
        return new if abs(new) < 2**63 else str(new)[:100]
    return new if isinstance(new, float | None) else str(new).encode("utf-8", "replace").decode()[:30000]


DATABASE = [of_database] * 4 + BINARY


# --- headers of volumes and surfaces


def of_nifti(rng, data):
    """Fields of a NIfTI-1 header set to extremes."""
    data = bytearray(data)
    shorts = [0, *range(40, 56, 2), 68, 70, 72, 74, 252, 254]  # size of the header, dimensions, types, forms
    floats = [*range(56, 68, 4), *range(76, 112, 4), 112, 116, *range(256, 328, 4)]  # spacing, offset, slope, forms
    for _ in range(rng.choice([1, 1, 2])):
        if rng.random() < 0.4:
            number = rng.choice([0, 1, -1, 2, 3, 5, 7, 8, 16, 64, 512, 1792, 32767, -32768])
            struct.pack_into("<h", data, rng.choice(shorts), number)
        else:
            number = rng.choice([float("nan"), float("inf"), -1.0, 0.0, 1e30, 1e-30, 3e38, 0.5, 400.0])
            struct.pack_into("<f", data, rng.choice(floats), number)
    return bytes(data)


def of_stl(rng, data):
    """Corners of a binary STL file set to extremes, and its count of triangles changed."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 9])):
        triangle = rng.randrange((len(data) - 84) // 50)
        number = rng.choice([float("nan"), float("inf"), -float("inf"), 1e38, -1e30, 0.0, 1e-30, 1e6, 5e3])
        struct.pack_into("<f", data, 84 + 50 * triangle + 12 + 4 * rng.randrange(9), number)
    if rng.random() < 0.2:
        struct.pack_into("<I", data, 80, rng.choice([0, 1, 2**31, 2**32 - 1]))
    return bytes(data)


def of_dicom(rng, data):
    """Elements of a DICOM file removed or set to wrong values."""
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(data))
    for _ in range(rng.choice([1, 1, 3])):
        item = dataset
        while deeper := [child for element in item if element.VR == "SQ" for child in element.value]:
            if rng.random() < 0.3:
                break
            item = rng.choice(deeper)
        element = rng.choice([element for element in item if element.tag != 0x00020010])
        if rng.random() < 0.3:
            del item[element.tag]
            continue
        texts = ["", "nonsense", "0", "-1", "nan", "1e30", "1\\2", "1\\2\\3", "99999", "1.5", "1\\0\\0\\0\\nan\\0"]
        if element.VR in ("US", "SS", "UL"):
            element.value = rng.choice([0, 1, 2, 7, 8, 12, 16, 32, 65535])
        elif element.VR in ("OW", "OB"):
            element.value = rng.choice([b"", element.value[:100], element.value * 2, b"\0" * 2])
        else:
            element._value = rng.choice(texts)
            element.VR = "LO"
    memory = io.BytesIO()
    try:
        dataset.save_as(memory)
    except Exception:  # pydicom refuses to write it
        return of_bytes(rng, data)
    return memory.getvalue()


def damaged(rng, ways, data, watched):
    """A damaged file that differs from the good one.

    Args:
        rng: random.Random.
        ways: list of functions of this module.
        data: bytes of the good file.
        watched: path of the folder that no script may touch.
    """
    bad = b""
    for _ in range(20):
        with contextlib.suppress(Exception):  # a library refuses to write such nonsense
            bad = rng.choice(ways)(rng, data)
            if bad != data:
                break
    return bad.replace(WATCHED.encode(), str(watched).encode())


NIFTI = [of_nifti] * 3 + [of_bytes, cut]
STL = [of_stl] * 3 + BINARY
DICOM = [of_dicom] * 3 + BINARY
