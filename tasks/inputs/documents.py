"""The bytes and the text of a table or prompt file that a job names."""

from __future__ import annotations

import codecs

from infra.store import ObjectNotFound, ObjectUnreadable, UriError, read_uri
from manifests.errors import JobError


def read_document(uri: str, key: str, max_bytes: int) -> bytes:
    """The bytes of a file.

    Args:
        uri: the file, resolved.
        key: of the job that names it, such as `inputs.table`.
        max_bytes: a larger file is refused before it is read whole.

    Raises:
        JobError: it is not there, larger, or no file that can be read.
        StoreError: the store refuses or does not answer.
    """
    try:
        return read_uri(uri, max_bytes=max_bytes)
    except ObjectNotFound:
        raise JobError(f"{key}: {uri!r} is not there: check the path") from None
    except (ObjectUnreadable, UriError) as error:
        raise JobError(f"{key}: {error}") from None


def decoded(data: bytes, what: str) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Args:
        data: the bytes.
        what: the file, as a message names it.

    Raises:
        JobError: the bytes are text of another encoding, or no text.
    """
    first_line = data[:4096].partition(b"\n")[0]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first_line:
        raise JobError(f"{what} is no UTF-8 text (it looks like UTF-16): save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = max(data.count(ending, 0, error.start) for ending in (b"\n", b"\r")) + 1
        raise JobError(
            f"{what}, line {line}: the byte 0x{data[error.start]:02X} is not UTF-8 (the file may "
            "be Latin-1 or Windows-1252): save it as UTF-8"
        ) from None
