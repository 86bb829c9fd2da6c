"""What do the sources of a job list now? The rows that a generation keeps, to tell what is new."""

from __future__ import annotations

from collections.abc import Iterator

from manifests.job import external_role
from manifests.source_table import SourceRow
from tasks.inputs.listed_inputs import ListedInputs

TABLE_ROLE = "table"
"""In place of a role, for the table itself."""


def listed_sources(inputs: ListedInputs) -> list[SourceRow]:
    """Every file that was listed, once for each of its roles."""
    rows = [*_files(inputs), *_of_table(inputs)]
    return list(dict.fromkeys(rows))


def _files(inputs: ListedInputs) -> Iterator[SourceRow]:
    given = {external_role(name): one.files for name, one in inputs.external.items()}
    for role, files in {**inputs.files, **given}.items():
        for file in files:
            yield SourceRow(role, file.name, file.uri, file.size, file.etag)


def _of_table(inputs: ListedInputs) -> Iterator[SourceRow]:
    if inputs.table_uri is not None:
        yield _named(inputs, TABLE_ROLE, inputs.table_uri)
    for row in inputs.table:
        for image in row.inputs:
            if image.uri:
                yield _named(inputs, image.role, image.uri)


def _named(inputs: ListedInputs, role: str, uri: str) -> SourceRow:
    found = inputs.known.get(uri)
    return SourceRow(role, uri, uri, found and found.size, found and found.etag)
