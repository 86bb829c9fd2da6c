"""What does a job file say? It is read, checked as a whole, and explained where it is wrong.

Relative paths in a job file are relative to the file, in a table to the table. What its parts may
say is in `job_parts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from manifests.credentials import carried, is_secret_name
from manifests.errors import JobError
from manifests.job_parts import (
    ROLES,
    BackboneChoice,
    Compute,
    Inputs,
    Limits,
    Output,
    Pairing,
    PairingMode,
    Part,
    Role,
    ShortSource,
    Source,
    backbone_of,
    check_ray_address,
    external_role,
    job_key,
    longhand,
    pairing_of,
    source_of,
)
from manifests.job_values import Name, NonEmpty, Whole, number
from manifests.job_wording import CREDENTIALS_REFUSED, Places, sentences, set_option
from manifests.limits import MAX_JOB_BYTES, MAX_VARIANTS
from manifests.quality import Quality
from manifests.sweep import SweepEntry, external_entries, refuse_twins, sweep_entries
from manifests.yaml_text import YamlError, compose, value_of

__all__ = [
    "ROLES",
    "BackboneChoice",
    "Compute",
    "Inputs",
    "Job",
    "Limits",
    "Output",
    "Pairing",
    "Role",
    "Source",
    "check_ray_address",
    "external_role",
    "job_from_dict",
    "job_key",
    "load_job",
    "with_overrides",
]


RECORDED = "a run folder's"
"""Whose job it is that is validated, as pydantic's context."""


def _sweep(value: Any) -> Any:
    sweep_entries(value)  # refuses what is no sweep
    return value


def _external(value: Any) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):  # pyright: ignore
        raise ValueError("give {NAME: FOLDER}, such as {StyTR2: results/stytr2}")
    named: dict[str, Any] = {**value}
    external_entries(named)  # refuses names that no column can have
    return {name: source_of(source) for name, source in named.items()}


class Job(Part):
    """A job file.

    Attributes:
        name: for people; the output folder's name unless given.
        task: a preset, such as `style-transfer`.
        settings: replaces the preset's numbers by name.
        seed: every item's seed follows from it.
        variants: pictures per combination of inputs, with different seeds.
        sweep: tries settings, and tasks, side by side on every combination of inputs.
        external: pictures that other programs have made of the same inputs, a source under the
            name of each; they stand beside those of the job, as columns of a sweep do.
        quality: what a picture must be like to be kept.
    """

    task: NonEmpty
    inputs: Inputs
    output: Output
    name: Name | None = None
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    backbone: Annotated[
        BackboneChoice,
        BeforeValidator(backbone_of, json_schema_input_type=NonEmpty | BackboneChoice),
    ] = BackboneChoice()
    pairing: Annotated[
        Pairing, BeforeValidator(pairing_of, json_schema_input_type=PairingMode | Pairing)
    ] = Pairing()
    limits: Limits = Limits()
    compute: Compute = Compute()
    seed: Whole = 0
    variants: Annotated[int, Field(gt=0, le=MAX_VARIANTS), BeforeValidator(number)] = 1
    sweep: Annotated[
        Any,
        BeforeValidator(
            _sweep, json_schema_input_type=dict[str, list[Any]] | list[dict[str, Any]] | None
        ),
    ] = None
    external: Annotated[
        dict[str, Source], BeforeValidator(_external, json_schema_input_type=dict[str, ShortSource])
    ] = Field(default_factory=dict[str, Source])
    quality: Quality | None = None

    @property
    def sweep_entries(self) -> tuple[SweepEntry, ...]:
        """The columns of the sweep; none where there is no sweep."""
        return sweep_entries(self.sweep)

    @property
    def external_entries(self) -> tuple[SweepEntry, ...]:
        """The columns of pictures that other programs have made."""
        return external_entries(self.external)

    @property
    def columns(self) -> tuple[SweepEntry, ...]:
        """What stands side by side; none where the job makes one picture of each combination.

        Without a sweep the job's own column has no label, so that its items have the keys that
        they have alone.
        """
        own = self.sweep_entries or (SweepEntry("", self.task),)
        return (*own, *self.external_entries) if self.external else self.sweep_entries

    @model_validator(mode="before")
    @classmethod
    def _carries_no_credentials(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses passwords and keys: whatever a job says is stored, and shown to many."""
        if info.context != RECORDED:
            for keys, found in carried(value):
                told = {"keys": list(keys), "key": ".".join(keys), "found": found}
                raise PydanticCustomError("credentials", CREDENTIALS_REFUSED, told)
        return value

    @model_validator(mode="after")
    def _table_has_its_own_pairs(self) -> Job:
        if self.inputs.table is not None and self.pairing != Pairing():
            raise ValueError("a table's rows are its pairs; drop pairing")
        return self

    @model_validator(mode="after")
    def _columns_differ(self) -> Job:
        refuse_twins(self.columns)
        return self


def load_job(path: Path, overrides: Mapping[str, str] | None = None) -> Job:
    """Reads a job file.

    Args:
        path: the YAML file.
        overrides: dotted key → value as YAML, such as `output.size` → `256`.

    Raises:
        JobError: unreadable, not YAML, an unknown key or a wrong value; with the line number.
    """
    try:
        tree = compose(_text(path))
        if not isinstance(tree, yaml.MappingNode):
            raise JobError(
                f"{path}: a job file is a mapping of keys such as 'task: style-transfer'"
            )
        content = value_of(tree)
    except YamlError as error:
        raise JobError(f"{path}, line {error.line}: {error.reason}") from None
    for key, value in (overrides or {}).items():
        _override(content, key, value)
    return _validated(content, tree, path, overrides or {})


def with_overrides(job: Job, overrides: Mapping[str, Any]) -> Job:
    """The job with some of its keys replaced.

    Args:
        job: which one.
        overrides: dotted key → value, such as `output.size` → `256`; texts are read as YAML, as
            `--set` reads them.

    Raises:
        JobError: an unknown key or a wrong value.
    """
    if not overrides:
        return job
    content = job.model_dump(mode="json", exclude_unset=True)
    for key, value in overrides.items():
        _override(content, key, value)
    written = {key: str(value) for key, value in overrides.items()}
    tree = yaml.MappingNode("tag:yaml.org,2002:map", [])
    return _validated(content, tree, Path("overrides"), written)


def job_from_dict(content: Mapping[str, Any]) -> Job:
    """The job that a run folder recorded, also by an earlier version that refused less."""
    return Job.model_validate(dict(content), context=RECORDED)


def _text(path: Path) -> str:
    name = f"job file {str(path)!r}"
    try:
        # A shell's <(…) is a pipe below /dev/fd that has a writer; a named pipe may have none.
        if path.is_fifo() and not str(path).startswith(("/dev/fd/", "/proc/")):
            raise JobError(f"{name} is a named pipe: give a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_JOB_BYTES + 1)
    except OSError as error:
        raise JobError(f"{name} cannot be read: {error.strerror}") from None
    if len(data) > MAX_JOB_BYTES:
        raise JobError(
            f"{name} is larger than {MAX_JOB_BYTES >> 20} MiB: list many inputs in a table"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise JobError(f"{name} is not UTF-8 text, in line {line}: save it as UTF-8") from None


def _override(content: dict[str, Any], key: str, value: Any) -> None:
    parsed = _read_yaml(key, value) if isinstance(value, str) else value
    *parents, last = key.split(".")
    place: dict[str, Any] = content
    for parent in parents:
        inner: Any = place.get(parent)
        if inner is None:
            inner = {}
        elif not isinstance(inner, dict):
            inner = longhand(parent, inner)  # 'pairing: zip' grows into its long form
        if not isinstance(inner, dict):
            raise JobError(f"--set {key}: {parent!r} holds no keys")
        place[parent] = inner
        place = place[parent]
    place[last] = parsed


def _read_yaml(key: str, value: str) -> Any:
    try:
        written = compose(value)
        return None if written is None else value_of(written)
    except YamlError as error:
        reason = "it is no YAML" if is_secret_name(key) else error.reason
        raise JobError(f"{set_option(key, value)}: {reason}") from None


def _validated(
    content: dict[str, Any], tree: yaml.MappingNode, path: Path, overrides: Mapping[str, str]
) -> Job:
    try:
        return Job.model_validate(content)
    except ValidationError as error:
        lines = sentences(error, Job, Places(tree, path, overrides))
        raise JobError("\n".join(lines)) from None
