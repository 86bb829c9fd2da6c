"""The first job file for a task: what it asks for, with what a folder holds filled in.

The file is a sound job wherever the folder has what the task takes. Where something is missing
stands a name that no file has, so that the check of the job names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel

from ad_lib.presets import PRESETS, Preset
from ad_lib.settings import Settings
from flows.meanings import in_short, meanings, words_of
from infra.store import StoreError, UriError, join_uri, local_path, open_store
from manifests.commits import RUN_NAME
from manifests.errors import JobError
from manifests.items import EXTERNAL
from manifests.job import BackboneChoice, Compute, Job, Limits, Output, Pairing
from manifests.wording import safe_line
from tasks.inputs.folder_contents import Contents, Place
from tasks.inputs.prompts import read_prompts
from tasks.inputs.tables import read_table

MAX_OTHERS = 8
"""Places that are told of though the task has no use for them."""

PLACEHOLDER = "PUT-{}-HERE"
"""In place of what was not found."""

COMMENT_COLUMN = 34

_PUT = "a folder or s3:// prefix of images, one image, or WebDataset shards"
_FOR_ROLES: Mapping[str, str] = MappingProxyType(
    {
        "source_mask": "for each texture a mask of the same name and size",
        "target_mask": "masks that use no labels but those of the source masks",
    }
)


@dataclass(frozen=True)
class InitialJob:
    """A job file to be written.

    Attributes:
        preset: its task.
        contents: of the folder that its inputs come from.
        base: the folder that the file will lie in.
    """

    preset: Preset
    contents: Contents
    base: Path

    @cached_property
    def sources(self) -> dict[str, Place]:
        """The places that are taken, by role."""
        return {} if self.table else self.contents.sources(self.preset.roles)

    @cached_property
    def table(self) -> str | None:
        """The name of a table that has a column for each role."""
        columns = self.contents.columns
        return next((name for name in columns if columns[name].issuperset(self._needed)), None)

    @cached_property
    def rows(self) -> str:
        """How many rows that table has."""
        return "no rows that can be read" if self.refusal else _counted(self._table[0], "row")

    @property
    def refusal(self) -> str | None:
        """Why that table is refused, if it is."""
        return self._table[1]

    @cached_property
    def _table(self) -> tuple[int, str | None]:
        """The number of that table's rows, and why it is refused."""
        if self.table is None:
            return 0, None
        preset = self.preset
        try:
            rows = read_table(
                join_uri(self.contents.uri, self.table),
                preset.roles,
                ".",
                optional_roles=preset.optional_roles,
                takes_prompt=preset.takes_prompt,
            )
        except (JobError, StoreError) as error:
            return 0, safe_line(str(error))
        return len(rows), None

    @property
    def _needed(self) -> list[str]:
        """What each picture is made of."""
        return [*self.preset.roles, *(["prompt"] if self.preset.takes_prompt else [])]

    @cached_property
    def prompts(self) -> tuple[str, int] | None:
        """A file of prompts, with the number of them, where the task draws prompts."""
        if not self.preset.takes_prompt or self.table:
            return None
        for name in self.contents.prompt_files:
            try:
                return name, len(read_prompts([join_uri(self.contents.uri, name)], "."))
            except (JobError, StoreError):
                continue
        return None

    @cached_property
    def missing(self) -> list[str]:
        """What a person has to put where a placeholder stands."""
        if self.table:
            return []
        roles = [role for role in self.preset.roles if role not in self.sources]
        return [*roles, *(["prompt"] if self.preset.takes_prompt and not self.prompts else [])]

    def found(self) -> list[str]:
        """What was found and is taken, such as `content: photos (12 images)`."""
        if self.table:
            return [f"table: {self.table} ({self.rows})"]
        told = [f"{role}: {place.named} ({place})" for role, place in self.sources.items()]
        if self.prompts:
            told.append(f"prompt: {self.prompts[0]} ({_counted(self.prompts[1], 'prompt')})")
        return told

    def text(self) -> str:
        """The job file."""
        return "\n".join(line.rstrip() for line in self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        preset = self.preset
        yield f"# {preset.name}: {preset.summary}."
        yield "# Lines that begin with # and no space are keys with their defaults: take the # away"
        yield "# (of the heading, too) to change one. 'stylefarm run FILE --dry-run' checks all."
        yield _line("task", preset.name, "'stylefarm presets' lists all")
        yield ""
        yield "inputs:"
        yield from self._input_lines()
        yield ""
        yield "output:"
        yield _line("  uri", self._output_uri(), "the run folder, here or s3://bucket/prefix")
        yield _line("  size", preset.size, "pixels of the shorter side, or [width, height]")
        yield from _defaults(Output, leave=("uri", "size"), inside=True)
        yield ""
        yield "#settings:"
        settings = {
            name: value for name, value in asdict(preset.settings).items() if preset.uses(name)
        }
        told, kinds = meanings(Settings), get_type_hints(Settings)
        for name, value in settings.items():
            comment = _comment(told.get(name, ""), kinds[name], preset.name)
            yield _line(f"#  {name}", value, comment)
        if preset.takes_prompt or len(preset.roles) > 1:
            yield from ["", "#pairing:", *_defaults(Pairing)]
        yield from ["", "#backbone:", *_defaults(BackboneChoice)]
        yield ""
        for name in ("seed", "variants"):
            meaning = in_short(meanings(Job).get(name, ""))
            yield _line(f"#{name}", Job.model_fields[name].default, meaning)
        yield from ["", "#limits:", *_defaults(Limits)]
        yield from ["", "#compute:", *_defaults(Compute)]

    def _input_lines(self) -> Iterator[str]:
        if self.table:
            told = f"{self.rows}; its columns {', '.join(self._needed)} are the inputs"
            yield _line("  table", self._uri(self.table), self.refusal or told)
        else:
            for role in self.preset.roles:
                yield self._source_line(role)
            if self.preset.takes_prompt:
                yield self._prompt_line()
        yield from self._other_lines()

    def _source_line(self, role: str) -> str:
        if place := self.sources.get(role):
            return _line(f"  {role}", self._uri(place.named), str(place))
        put = _FOR_ROLES.get(role, "")
        return _line(f"  {role}", _placeholder(role), f"put {_PUT}{put and '; '}{put}")

    def _prompt_line(self) -> str:
        if self.prompts:
            name, number = self.prompts
            return _line("  prompt", self._uri(name), _counted(number, "prompt"))
        wanted = "put a prompt, a list of them, or a .txt file with one on each line"
        return _line("  prompt", f"{_placeholder('prompt')}.txt", wanted)

    def _other_lines(self) -> Iterator[str]:
        """What was found besides, for whoever wonders why it is not taken."""
        taken = [place.path for place in self.sources.values()]
        named = {place.path: role for role, place in self.contents.by_name.items()}
        others = [
            place
            for place in self.contents.places
            if not any(f"{place.path}/".startswith((f"{one}/", "./")) for one in taken)
            and not any(one.startswith(f"{place.path}/") for one in taken)
        ]
        for place in others[:MAX_OTHERS]:
            role = named.get(place.path, "")
            use = f", which may be {role}" if role in self.preset.optional_roles else ""
            yield f"  # also found: {safe_line(place.named)} ({place}){use}"
        if len(others) > MAX_OTHERS:
            yield f"  # and {len(others) - MAX_OTHERS} more places with images"
        if self.contents.is_partial:
            yield "  # the folder holds more than was looked at: these are its first files"

    def _uri(self, name: str) -> str:
        """How the job file names something in the folder."""
        folder = local_path(self.contents.uri)
        if folder is None:
            return self.contents.uri if name == "." else f"{self.contents.uri}/{name}"
        relative = os.path.relpath(folder, self.base)
        if relative.startswith(".."):
            return folder if name == "." else f"{folder.rstrip('/')}/{name}"
        path = PurePosixPath(relative, name)
        return str(path) if _means_itself(str(path)) else f"./{path}"

    def _output_uri(self) -> str:
        """Where no run lies yet."""
        is_local = local_path(self.contents.uri) is not None
        parent = "runs" if is_local else f"{self.contents.uri}/runs"
        number = 1
        while True:
            uri = f"{parent}/{self.preset.name}" + (f"-{number}" if number > 1 else "")
            is_taken = (self.base / uri).exists() if is_local else open_store(uri).find(RUN_NAME)
            if not is_taken:
                return uri
            number += 1


def chosen_preset(contents: Contents) -> Preset:
    """The task that fits best to what a folder holds; with nothing to go by, style transfer."""
    tasks = [
        preset for preset in PRESETS.values() if not preset.is_baseline and preset.name != EXTERNAL
    ]
    return max(tasks, key=lambda preset: _fit(preset, contents))


def _fit(preset: Preset, contents: Contents) -> tuple[bool, float]:
    """How well a task fits: whether nothing is missing, and how much of what was found it takes."""
    job = InitialJob(preset, contents, Path())
    named = sum(role in contents.by_name for role in preset.roles)
    optional = sum(role in contents.by_name for role in preset.optional_roles)
    taken = len(preset.roles) if job.table else named
    return not job.missing, taken + (job.prompts is not None) + optional / 4


def _means_itself(path: str) -> bool:
    """Whether a relative path is read as it is written."""
    try:
        return local_path(path) == path
    except UriError:
        return False


def _placeholder(name: str) -> str:
    return PLACEHOLDER.format(name.upper().replace("_", "-"))


def _counted(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"


def _defaults(
    part: type[BaseModel], leave: Iterable[str] = (), *, inside: bool = False
) -> list[str]:
    """The keys of a part of a job with their defaults, commented out."""
    told = meanings(part)
    begin = "  #" if inside else "#  "
    return [
        _line(f"{begin}{name}", field.default, _comment(told.get(name, ""), field.annotation))
        for name, field in part.model_fields.items()
        if name not in leave
    ]


def _comment(meaning: str, kind: Any, about: str = "") -> str:
    """What a key may be, where it is one of some words, and what it means."""
    return "; ".join(filter(None, [", ".join(words_of(kind)), in_short(meaning, about)]))


def _line(key: str, value: Any, comment: str) -> str:
    written = f"{key}: {_yaml(value)}"
    return f"{written:<{COMMENT_COLUMN}} # {comment}" if comment else written


def _yaml(value: Any) -> str:
    """A value as it stands on a line of YAML."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=1 << 20)
    return text.removesuffix("\n").removesuffix("...").strip()
