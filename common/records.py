"""Records: small JSON files with a known content and a format version, checked when they are read."""

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.errors import InputError
from common.files import read_json, write_json
from common.words import number_of

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _is_inside(path):
    """Check a relative path, with "/" between folders, that stays in its folder; it may start with "./"."""
    parts = path.replace("\\", "/").removeprefix("./").split("/")
    if "\0" in path or ":" in parts[0] or {"", ".", ".."} & set(parts):
        raise ValueError("expected a path inside the folder")
    return path


Inside = Annotated[str, AfterValidator(_is_inside)]


class Record(BaseModel):
    """Base of all records: unchangeable, without conversion of values; unknown fields are ignored.

    A subclass has a field `format` whose type lists the versions that it reads; files without it are version 1.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=True)

    DAMAGED: ClassVar = "damaged"
    REMEDY: ClassVar = "restore it or make it again"

    def write_to(self, path):
        """Write the record as JSON, complete or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def check(cls, value, where) -> Self:
        """Make a record from a JSON value.

        Args:
            value: what a JSON file contains.
            where: file for messages.

        Raises:
            InputError: with the first invalid field.
        """
        if not isinstance(value, dict):
            raise InputError(f"{where}: {cls.DAMAGED} (expected an object, found {_short(value)}); {cls.REMEDY}")
        version = value.get("format", 1)
        if isinstance(version, int) and not isinstance(version, bool) and version > 1:
            raise InputError(f"{where}: format: written by a newer version (found {version}); use that version")
        try:
            return cls.model_validate(value)
        except (ValidationError, RecursionError) as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else "nested too deeply"
            raise InputError(f"{where}: {cls.DAMAGED} ({problem}); {cls.REMEDY}") from None


def read_record(path, kind):
    """Read a record.

    Args:
        path: path of a JSON file.
        kind: subclass of Record.

    Raises:
        InputError: if the file is missing or damaged; the message contains the file and the field.
    """
    return kind.check(read_json(path), path)


def read_fields(path, kind):
    """Fields that the file of a record contains, as a dict of JSON values; arguments and errors as in `read_record`."""
    record = read_record(path, kind)
    try:
        return record.model_dump(mode="json", exclude_unset=True)
    except ValueError:  # pydantic's limit for lists and objects, which is lower than that of the JSON reader
        raise InputError(f"{path}: {kind.DAMAGED} (nested too deeply); {kind.REMEDY}") from None


def first_problem(error):
    """First problem of a pydantic ValidationError in one line: field, what was expected, what was found."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])[:200]
    if first["type"] == "missing":
        return f"{field}: missing"
    message = first["msg"].removeprefix("Value error, ")
    if not field:  # of the record as a whole; the message contains the field
        return message
    return f"{field}: {message[:1].lower()}{message[1:]}, found {_short(first['input'])}"


def _short(value):
    try:
        text = repr(value)
    except RecursionError:
        return "deeply nested lists or objects"
    return text if len(text) <= 60 else f"{text[:50]}... of {number_of(len(text), 'character')}"
