"""The job file: what a user writes, checked before anything runs.

Relative paths in a job file are relative to the file, in a table to the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from manifests.errors import JobError, nearest
from manifests.quality import Quality
from manifests.sweep import SweepEntry, sweep_entries

Role = Literal["content", "layout", "style", "texture", "source_mask", "target_mask", "control"]
ROLES: tuple[Role, ...] = get_args(Role)

NonEmpty = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _source(value: Any) -> Any:
    return {"uri": value} if isinstance(value, str | list) else value  # pyright: ignore


def _uris(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Source(_Part):
    """Where the images of one role come from.

    A URI names a folder or S3 prefix of images, one image, or WebDataset shards
    (`…/{000..099}.tar`); several may be listed.
    """

    uri: Annotated[tuple[NonEmpty, ...], BeforeValidator(_uris)] = Field(min_length=1)
    license: str | None = None
    attribution: str | None = None


OptionalSource = Annotated[Source | None, BeforeValidator(_source)]


class Inputs(_Part):
    """A source per role, or one table with a column per role.

    Attributes:
        source_mask: which label each pixel of the texture of the same key has.
        prompt: what is drawn: one prompt or several; one that ends in `.txt` names a file with a
            prompt on each line.
        negative_prompt: what guidance leads away from, of every item.
        table: instead of all others; its columns are the roles, `prompt` and `negative_prompt`.
    """

    content: OptionalSource = None
    layout: OptionalSource = None
    style: OptionalSource = None
    texture: OptionalSource = None
    source_mask: OptionalSource = None
    target_mask: OptionalSource = None
    control: OptionalSource = None
    prompt: Annotated[tuple[NonEmpty, ...] | None, BeforeValidator(_uris)] = None
    negative_prompt: NonEmpty | None = None
    table: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Inputs:
        if self.table is not None and self.roles():
            raise ValueError("give either table or sources by role, not both")
        if self.table is not None and (self.prompt or self.negative_prompt):
            raise ValueError(
                "a table has its prompts in its own columns; drop prompt and negative_prompt"
            )
        if self.prompt == ():
            raise ValueError("prompt is an empty list; give a prompt, or drop the key")
        if self.table is None and not self.roles():
            raise ValueError("name at least one source, such as 'content: photos/', or a table")
        return self

    def roles(self) -> dict[Role, Source]:
        """The sources that were given, by role."""
        return {role: source for role in ROLES if (source := getattr(self, role)) is not None}


class Pairing(_Part):
    """How sources by role become items.

    Attributes:
        mode: `zip` joins images of the same key, `product` takes every combination, `random`
            draws `styles_per_content` references for each content.
        styles_per_content: of `random`.
        seed: of `random`; stored with the run.
    """

    mode: Literal["zip", "product", "random"] = "product"
    styles_per_content: PositiveInt = 1
    seed: int = 0


def _pairing(value: Any) -> Any:
    return {"mode": value} if isinstance(value, str) else value


class BackboneChoice(_Part):
    """Which model renders.

    Attributes:
        name: `embedded`, `sd15`, `sdxl`, a hub id, a diffusers folder, or a `.safetensors` file.
        revision: commit or tag of a hub id.
        config: of a `.safetensors` file, the hub id or folder with its configuration.
        controlnet: what sees the control images, a hub id or a diffusers folder.
        controlnet_revision: commit or tag of its hub id.
        dtype: precision of the networks; `auto` is bfloat16 on CUDA and float32 elsewhere.
    """

    name: str = "embedded"
    revision: str | None = None
    config: NonEmpty | None = None
    controlnet: NonEmpty | None = None
    controlnet_revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


def _backbone(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _size(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return [value, value]
    if isinstance(value, list | tuple) and len(value) == 2:  # pyright: ignore
        return value  # pyright: ignore
    raise ValueError("give one number of pixels, or [width, height]")


Side = Annotated[int, Field(ge=64, le=8192)]


class Output(_Part):
    """What is written, and where.

    Attributes:
        uri: the run folder, local or `s3://bucket/prefix`.
        codec: `png` and `webp` (without quality) are lossless.
        quality: 1..100, of `jpg` (95 unless given) and of lossy `webp`.
        size: pixels, one number or [width, height]; the preset's unless given.
        resize_mode: `center_crop` gives exactly `size`; `keep_ratio` scales the shorter side to
            the smaller number of `size` and keeps the proportions of the content (or layout, target
            mask, control image); `no` keeps its size. Unless given it is `center_crop` where there
            is a `size`, else `keep_ratio`.
    """

    uri: NonEmpty
    codec: Literal["png", "webp", "jpg"] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    size: Annotated[tuple[Side, Side], BeforeValidator(_size)] | None = None
    resize_mode: Literal["center_crop", "keep_ratio", "no"] | None = None

    @model_validator(mode="after")
    def _quality_fits(self) -> Output:
        if self.codec == "png" and self.quality is not None:
            raise ValueError("png is lossless and takes no quality; drop it or choose jpg or webp")
        return self


def _max_failed(value: Any) -> Any:
    share = isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?%", value)
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not share and not number:
        raise ValueError("give a number of items such as 5, or a share such as '2%'")
    return value


class Limits(_Part):
    """What a run may cost and how much may fail.

    Attributes:
        max_items: plan only so many items, picked by hash; all unless given. Variants and sweep
            entries of one combination of inputs stay together.
        max_failed: failed items that still count as success: a number, or a share such as `2%`.
        max_pixels: larger input images are refused.
    """

    max_items: PositiveInt | None = None
    max_failed: Annotated[int | str, BeforeValidator(_max_failed)] = 0
    max_pixels: PositiveInt = 89_478_485

    def allows(self, failed: int, planned: int) -> bool:
        """Whether so many failed items of a run still count as success."""
        if isinstance(self.max_failed, int):
            return failed <= self.max_failed
        return failed <= planned * float(self.max_failed.rstrip("%")) / 100


class Compute(_Part):
    """How fast, never what: nothing here changes which pictures are made.

    Attributes:
        batch_size: items optimised together.
        device: `auto` takes CUDA where there is one.
        shard_seconds: estimated rendering time of one shard, the most that a kill can lose.
        shard_items: items of one shard at most.
        seconds_per_item: what an item is expected to take; estimated unless given.
        io_threads: threads that fetch, decode and encode.
    """

    batch_size: PositiveInt = 4
    device: str = "auto"
    shard_seconds: Annotated[float, Field(gt=0)] = 300.0
    shard_items: PositiveInt = 1000
    seconds_per_item: Annotated[float, Field(gt=0)] | None = None
    io_threads: PositiveInt = 8


def _sweep(value: Any) -> Any:
    sweep_entries(value)  # refuses what is no sweep
    return value


class Job(_Part):
    """A job file.

    Attributes:
        name: for people; the output folder's name unless given.
        task: a preset, such as `style-transfer`.
        settings: replaces the preset's numbers by name.
        seed: every item's seed follows from it.
        variants: pictures per combination of inputs, with different seeds.
        sweep: tries settings, and tasks, side by side on every combination of inputs.
        quality: what a picture must be like to be kept.
    """

    task: str
    inputs: Inputs
    output: Output
    name: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    backbone: Annotated[BackboneChoice, BeforeValidator(_backbone)] = BackboneChoice()
    pairing: Annotated[Pairing, BeforeValidator(_pairing)] = Pairing()
    limits: Limits = Limits()
    compute: Compute = Compute()
    seed: int = 0
    variants: PositiveInt = 1
    sweep: Annotated[Any, BeforeValidator(_sweep)] = None
    quality: Quality | None = None

    @property
    def sweep_entries(self) -> tuple[SweepEntry, ...]:
        """The columns of the sweep; none where there is no sweep."""
        return sweep_entries(self.sweep)

    @model_validator(mode="after")
    def _table_has_its_own_pairs(self) -> Job:
        if self.inputs.table is not None and "pairing" in self.model_fields_set:
            raise ValueError("a table's rows are its pairs; drop pairing")
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
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise JobError(f"job file {str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise JobError(f"job file {str(path)!r} is not UTF-8 text") from None
    tree = _parse(path, text)
    content = _plain(tree, path)
    for key, value in (overrides or {}).items():
        _override(content, key, value)
    return _validated(content, tree, path, overrides or {})


def job_from_dict(content: Mapping[str, Any]) -> Job:
    """The job that a run folder recorded."""
    return Job.model_validate(dict(content))


def _parse(path: Path, text: str) -> yaml.MappingNode:
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise JobError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise JobError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise JobError(f"{path}: not a job file: it nests too deeply") from None
    if not isinstance(tree, yaml.MappingNode):
        raise JobError(f"{path}: a job file is a mapping of keys such as 'task: style-transfer'")
    return tree


def _plain(tree: yaml.MappingNode, path: Path) -> dict[str, Any]:
    loader: Any = yaml.SafeLoader("")
    try:
        _refuse_repeated_keys(tree, path)
        return loader.construct_document(tree)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise JobError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    except JobError:
        raise
    except ValueError as error:  # such as a date in month 13
        raise JobError(f"{path}: a value does not fit its YAML type: {error}") from None
    except RecursionError:
        raise JobError(f"{path}: not a job file: an alias holds itself") from None
    finally:
        loader.dispose()


def _refuse_repeated_keys(node: yaml.Node, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise JobError(f"{path}, line {line}: a key is a plain word, not a list or mapping")
            if key.value in seen:
                raise JobError(f"{path}, line {line}: the key {key.value!r} stands here twice")
            seen.add(key.value)
            _refuse_repeated_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repeated_keys(value, path)


def _override(content: dict[str, Any], key: str, value: str) -> None:
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise JobError(f"--set {key}={value}: the value is not valid YAML") from None
    *parents, last = key.split(".")
    place: dict[str, Any] = content
    for parent in parents:
        inner: Any = place.get(parent)
        if inner is None:
            inner = {}
        elif not isinstance(inner, dict):
            inner = _longhand(parent, inner)  # 'pairing: zip' grows into its long form
        if not isinstance(inner, dict):
            raise JobError(f"--set {key}: {parent!r} holds no keys")
        place[parent] = inner
        place = place[parent]
    place[last] = parsed


def _longhand(key: str, value: Any) -> Any:
    grow = {"pairing": _pairing, "backbone": _backbone} | dict.fromkeys(ROLES, _source)
    return grow[key](value) if key in grow else value


def _validated(
    content: dict[str, Any], tree: yaml.MappingNode, path: Path, overrides: Mapping[str, str]
) -> Job:
    try:
        return Job.model_validate(content)
    except ValidationError as error:
        places = _Places(tree, path, overrides)
        lines = [_sentence(problem, places) for problem in error.errors()]
        raise JobError("\n".join(dict.fromkeys(lines))) from None


@dataclass(frozen=True)
class _Places:
    """Where each value came from."""

    tree: yaml.MappingNode
    path: Path
    overrides: Mapping[str, str]

    def of(self, keys: list[str]) -> str:
        for key, value in self.overrides.items():
            if f"{'.'.join(keys)}.".startswith(f"{key}."):
                return f"--set {key}={value}"
        line = _line_of(self.tree, keys)
        return f"{self.path}, line {line}" if line else f"{self.path}"


def _sentence(problem: Any, places: _Places) -> str:
    keys = [str(key) for key in problem["loc"]]
    where = places.of(keys)
    keys = [key for key in keys if not key.startswith(("constrained-", "function-"))]
    if problem["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        inside = f" in {'.'.join(keys[:-1])}" if keys[:-1] else ""
        return f"{where}: unknown key {keys[-1]!r}{inside}; {nearest(keys[-1], known)}"
    if problem["type"] == "missing":
        return f"{where}: the key {'.'.join(keys)!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "model_type":
        message = f"give a mapping of {', '.join(_known_keys(keys))}"
    got = "" if isinstance(problem["input"], dict) else f"; got {problem['input']!r}"
    return f"{where}: {'.'.join(keys) or 'job'}: {message}{got}"


def _line_of(node: yaml.Node, keys: list[str]) -> int | None:
    """The line of the deepest key of the path that the file has."""
    line: int | None = None
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        found = [(name, value) for name, value in node.value if name.value == key]
        if not found:
            break
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return line


def _known_keys(keys: list[str]) -> list[str]:
    model: Any = Job
    for key in keys:
        annotation = model.model_fields[key].annotation
        options = getattr(annotation, "__args__", (annotation,))
        model = next(option for option in options if hasattr(option, "model_fields"))
    return list(model.model_fields)
