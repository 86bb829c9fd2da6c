"""How a JSON record of a run folder is written, and how one that may be damaged is read."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manifests.errors import RunFolderError

MAX_RECORD_BYTES = 16 << 20
"""Maximum size of a record; the largest is `run.json`, which holds a whole job."""

CHECKSUM = "checksum"
"""The key of a sealed record's checksum."""

MAX_DEPTH = 40
"""Maximum number of lists and mappings inside each other."""

Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Words = Annotated[str, Field(max_length=2000)]
"""Text that is shown to people and never interpreted."""


class Record(BaseModel):
    """A JSON object of a run folder; fields that a later version adds are ignored."""

    model_config = ConfigDict(frozen=True)

    def to_bytes(self) -> bytes:
        """The record as JSON text, keys sorted."""
        return _written(self.model_dump(mode="json"))


class SealedRecord(Record):
    """A record whose text has a `checksum`: the sha256 of the text without it.

    Readers take a record without a checksum, or with another one; `is_as_written` tells.
    """

    def to_bytes(self) -> bytes:
        """The record as JSON text, keys sorted, with its checksum."""
        return _sealed(self.model_dump(mode="json"))


def fits_its_seal(data: bytes) -> bool:
    """Whether the bytes are a sealed record as it was written, of whatever version."""
    try:
        content = _json_object(data)
    except (ValueError, RecursionError):
        return False
    return content.pop(CHECKSUM, None) is not None and data == _sealed(content)


def is_as_written(record: type[Record], data: bytes) -> bool:
    """Whether a record that can be read has the very bytes that stylefarm wrote.

    What was written before there were checksums is held to the form that it was written in.

    Args:
        record: what the bytes are.
        data: the file's bytes.
    """
    content = _json_object(data)
    if CHECKSUM in content:
        return fits_its_seal(data)
    return data == _written(
        record.model_validate(content).model_dump(mode="json", exclude_unset=True)
    )


def _sealed(content: dict[str, Any]) -> bytes:
    return _written({**content, CHECKSUM: hashlib.sha256(_written(content)).hexdigest()})


def _written(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True, indent=1)
    return f"{text}\n".encode()


RecordType = TypeVar("RecordType", bound=Record)


def read_record(
    record: type[RecordType], data: bytes, name: str, *, way_out: str = "restore it"
) -> RecordType:
    """A record from its bytes, which may hold anything.

    Args:
        record: what the bytes should be.
        data: the file's bytes.
        name: of the file, relative to the run folder.
        way_out: what the user can do about a damaged file.

    Raises:
        RunFolderError: the bytes are not such a record.
    """
    try:
        return record.model_validate(_json_object(data))
    except ValidationError as error:
        reason = first_problem(error)
    except RecursionError:
        reason = f"its values are nested more than {MAX_DEPTH} levels deep"
    except ValueError as error:
        reason = str(error)
    raise RunFolderError(f"{name} is damaged ({reason[:300]}): {way_out}")


def first_problem(error: ValidationError) -> str:
    """What pydantic found first, and where, in a few words."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(key) for key in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place[:100]}: {message}" if place else message


def _json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in the bytes.

    Raises:
        ValueError, RecursionError: they hold none, or one that JSON cannot hold exactly.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError(f"it is larger than {MAX_RECORD_BYTES} bytes")
    content = json.loads(
        data.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_no_number
    )
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    _check_values(content)
    return content  # pyright: ignore[reportUnknownVariableType]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice in it")
    return content


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number that JSON has")


def _check_values(content: Any) -> None:
    """Refuses deep nesting and half surrogate pairs, which later steps cannot write or show."""
    level = [content]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.keys()  # pyright: ignore[reportUnknownMemberType]
                inner += value.values()  # pyright: ignore[reportUnknownMemberType]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                value.encode()
        level = inner
    if level:
        raise ValueError(f"its values are nested more than {MAX_DEPTH} levels deep")
