"""Case names that do not identify a patient: DICOM is numbered, other files keep names that their headers allow.

The table of numbers and names (setting NAMES_TABLE) is the only way back from a number to its source.
"""

import re
import unicodedata
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from common.claims import claimed
from common.errors import InputError, SettingError
from common.files import real_path
from common.replacing import new_file, refuse_existing
from common.volumes.finding import ending_of, is_dicom
from common.volumes.headers import HEADER
from common.volumes.paths import is_plain

NIFTI_TEXTS = ("descrip", "aux_file", "intent_name", "ITK_FileNotes")  # the other entries are numbers
TECHNICAL = ("ITK_Input", "ITK_original", "NRRD_kinds", "NRRD_space", "NRRD_meas", "Modality")  # starts of entries
# Words in headers and names of anyone.
COMMON_WORDS = frozenset(re.findall(r"\w+", """
    anonymized anonymous axial brain case colon coronal derived head heart image kidney label labels liver lung lungs
    mask masks none original pancreas patient phase primary prostate sagittal scan segmentation series spleen study
    subject synthetic test time train training unknown volume
"""))  # fmt: skip
UNFOLDED = str.maketrans({"ß": "ss", "ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "þ": "th"})
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})


# --- names


def safe_names(volumes, names="numbers"):
    """Case name of each volume: a number such as "case_0001" if its own name could identify a patient.

    Args:
        volumes: dict of `find_volumes`, whose order gives the numbers; the same folder gives the same numbers.
        names: setting NAMES. "numbers": numbers for DICOM, and for other files whose names contain what their headers
            say of the patient; "folder": all keep their names, with "_" for "/".

    Returns:
        dict of name in `volumes` to case name.

    Raises:
        InputError: if two volumes would get the same name.
    """
    cases = {name: plain_name(name) for name in volumes}
    if names == "numbers":
        for number, (name, path) in enumerate(volumes.items(), 1):
            if is_dicom_volume(path) or identifies(cases[name], header_texts(path)):
                cases[name] = f"case_{number:04d}"
    taken = {}
    for name, case in cases.items():
        other = taken.setdefault(case.removeprefix("case_"), name)
        if other != name:
            raise InputError(f"{volumes[name]}: same case name as {volumes[other]} ({case}); rename one")
    return cases


def plain_name(name):
    """Name of `find_volumes` as one word for file and group names."""
    return name.replace("/", "_")


def is_dicom_volume(path):
    """Whether a volume is DICOM: a folder, or a file with any ending that starts like DICOM."""
    return Path(path).is_dir() or is_dicom(path)


# --- what headers say


def header_texts(path):
    """Texts in the header of a NIfTI, NRRD or MetaImage file that could contain anything; [] if it has none."""
    from common.volumes.reading import read_information  # needs SimpleITK, images do not

    path = Path(path)
    try:
        reader = read_information(path)
        is_nifti = ".nii" in ending_of(path)
        keys = [k for k in reader.GetMetaDataKeys() if (k in NIFTI_TEXTS if is_nifti else not k.startswith(TECHNICAL))]
        if all(map(is_plain, keys)):
            return [reader.GetMetaData(key) for key in keys]
        with open(path, "rb") as file:  # SimpleITK finds no value by such a key
            return file.read(HEADER).decode("latin-1").splitlines()
    except (InputError, OSError, RuntimeError):  # reading the volume reports it
        return []


def identifies(name, texts):
    """Whether a name contains a word, number or date of texts in a header, in any spelling.

    Letters are compared without case, accents and punctuation, and umlauts also as two letters. Words of two or three
    letters count only as whole words of a person's name, which has "^" between its parts. Common words and numbers of
    fewer than four digits do not count.

    Args:
        name: name without suffix.
        texts: list of str.
    """
    spellings = _spellings(name)
    letters = {re.sub(r"[\W\d_]", "", text) for text in spellings}
    words = {word for text in spellings for word in re.findall(r"[^\W\d_]+", text)}
    digits = re.sub(r"\D", "", name)
    for text in texts:
        if any(number in digits for number in _numbers(text)):
            return True
        shortest = 2 if "^" in text else 4
        for spelling in _spellings(text.replace("'", "").replace("\u2019", "")):
            for word in set(re.findall(r"[^\W\d_]+", spelling)) - COMMON_WORDS:
                long = len(word) >= 4 or not word.isascii()
                if len(word) >= shortest and (word in words or (long and any(word in joined for joined in letters))):
                    return True
    return False


def _spellings(text):
    """Lowercase spellings of a text without accents: with umlauts as one letter, and as two."""
    text = unicodedata.normalize("NFC", text).lower()
    return {_without_accents(text), _without_accents(text.translate(UMLAUTS))}


def _without_accents(text):
    decomposed = unicodedata.normalize("NFKD", text.translate(UNFOLDED))
    return unicodedata.normalize("NFC", "".join(c for c in decomposed if not unicodedata.combining(c))).casefold()


def _numbers(text):
    """Numbers of four or more digits in a text, with dashes and the like left out, and dates in other orders."""
    if re.fullmatch(r"\s*\d+(\.\d+){3,}\s*", text):  # a UID, or a version
        return set()
    found = {re.sub(r"\D", "", number) for number in re.findall(r"\d[\d\s./-]*", text)}
    for date in [number for number in found if re.fullmatch(r"(19|20)\d{6}", number)]:
        year, month, day = date[:4], date[4:6], date[6:]
        found |= {day + month + year, month + day + year, day + month + year[2:], year[2:] + month + day}
    return {number for number in found if len(number) >= 4}


# --- table of names


@contextmanager
def names_table(table, outputs, replace):
    """Check NAMES_TABLE before any work, and keep other processes from writing it during the block.

    Args:
        table: setting NAMES_TABLE; "": none.
        outputs: dict of setting name to the path that the script writes.
        replace: setting REPLACE.

    Raises:
        SettingError: if the table would be inside an output folder.
        InputError: if it exists and must not be replaced, or another process is writing it.
    """
    if not table:
        yield
        return
    path = real_path(table)
    for setting, output in outputs.items():
        if path.is_relative_to(real_path(output)):
            raise SettingError(
                f"NAMES_TABLE: inside {setting} ({table}); it identifies patients, so write it somewhere else"
            )
    if path.is_dir():
        raise InputError(f"NAMES_TABLE: is a folder ({table}); use a file that ends in .csv")
    with claimed(table):
        refuse_existing(path, replace)
        yield


def write_names_table(table, cases, volumes):
    """Write NAMES_TABLE: columns case, name and source, with a row for each volume; "" writes none.

    Args:
        table: setting NAMES_TABLE.
        cases: dict of `safe_names`.
        volumes: dict of `find_volumes`.
    """
    if not table:
        return
    from common.tables import write_table  # pandas takes half a second to load

    rows = [{"case": cases[name], "name": name, "source": str(real_path(volumes[name]))} for name in cases]
    with new_file(table, replace=True) as file:  # `names_table` refused an existing one
        write_table(file, rows)
    print(f"wrote {table}: it identifies patients, so keep it apart from what you pass on")


def read_names_table(table):
    """Read NAMES_TABLE.

    Returns:
        dict of case name without "case_" to the name of its source, with "_" for "/"; empty for "".

    Raises:
        InputError: if it is not such a table, or a case is in it twice.
    """
    names = {case: plain_name(name) for case, name in _rows_of(table)}
    if len(set(names.values())) < len(names):
        raise InputError(f"{table}: a case or a name is listed twice; write the table again")
    return names


def read_numbers(table):
    """Numbers in NAMES_TABLE by the own names of their sources; errors as of `read_names_table`.

    Returns:
        dict of name to case name without "case_"; empty for "". A name is also known with "_" for "/", and by its last
        part if that is the only one.
    """
    rows = _rows_of(table)
    last = Counter(name.split("/")[-1] for _, name in rows)
    numbers = {name.split("/")[-1]: case for case, name in rows if last[name.split("/")[-1]] == 1}
    return numbers | {plain_name(name): case for case, name in rows} | {name: case for case, name in rows}


def _rows_of(table):
    """Pairs of case name without "case_" and name of its source, as a list."""
    if not table:
        return []
    from common.tables import read_table  # pandas takes half a second to load

    rows = read_table(table, ["case", "name"], "use a table that a script wrote as NAMES_TABLE")
    found = [(case.removeprefix("case_"), name) for case, name in zip(rows["case"], rows["name"], strict=True)]
    if any(len(set(column)) < len(rows) for column in zip(*found, strict=True)):
        raise InputError(f"{table}: a case or a name is listed twice; write the table again")
    return found
