"""The job file: what a user writes, checked before anything runs.

Relative paths in a job file are relative to the file, in a table to the table.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from manifests.errors import JobError, nearest, nearest_key
from manifests.limits import (
    MAX_ITEMS,
    MAX_JOB_BYTES,
    MAX_TEXT_LETTERS,
    MAX_VARIANTS,
    MAX_WHOLE,
    MIN_WHOLE,
)
from manifests.quality import Quality
from manifests.sweep import SweepEntry, sweep_entries
from manifests.wording import unusable_letter
from manifests.yaml_text import YamlError, compose, value_of

Role = Literal["content", "layout", "style", "texture", "source_mask", "target_mask", "control"]
ROLES: tuple[Role, ...] = get_args(Role)

MAX_PIXELS = 1_000_000_000
"""The highest `limits.max_pixels`: a picture of so many pixels takes 3 GB as it is decoded."""

MAX_WORKERS = 256
"""The highest `compute.workers`: workers that one command starts."""


def _usable(text: str) -> str:
    if letter := unusable_letter(text):
        raise ValueError(f"it holds {letter}, which no file name or text may have")
    return text


def _number(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"-?(0|[1-9][0-9]{0,19})(\.[0-9]+)?", value):
        plain = value.replace("_", "").lstrip("0")
        way_out = f": write {plain}" if re.fullmatch(r"[0-9]{1,20}", plain) else ""
        raise ValueError(f"give a number, not a word{way_out}")
    if isinstance(value, bool):
        raise ValueError("give a number, not true or false")
    return value


Text = Annotated[str, Field(max_length=MAX_TEXT_LETTERS), AfterValidator(_usable)]
NonEmpty = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LETTERS), AfterValidator(_usable)]
Name = Annotated[str, Field(max_length=200), AfterValidator(_usable)]
Whole = Annotated[int, Field(ge=MIN_WHOLE, le=MAX_WHOLE), BeforeValidator(_number)]
Seconds = Annotated[float, Field(gt=0, le=1e9), BeforeValidator(_number)]
"""Above 0, and at most 30 years."""


Count = Annotated[int, Field(gt=0), BeforeValidator(_number)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _source(value: Any) -> Any:
    return {"uri": value} if isinstance(value, str | list) else value  # pyright: ignore


def _uris(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _at_least_one(uris: tuple[str, ...]) -> tuple[str, ...]:
    if not uris:
        raise ValueError("give at least one URI")
    return uris


class Source(_Part):
    """Where the images of one role come from.

    A URI names a folder or S3 prefix of images, one image, or WebDataset shards
    (`…/{000..099}.tar`); several may be listed.
    """

    uri: Annotated[tuple[NonEmpty, ...], BeforeValidator(_uris), AfterValidator(_at_least_one)]
    license: Text | None = None
    attribution: Text | None = None


OptionalSource = Annotated[Source | None, BeforeValidator(_source)]


class Inputs(_Part):
    """A source per role, or one table with a column per role.

    Attributes:
        source_mask: which label each pixel of the texture of the same key has.
        prompt: what is drawn: one prompt or several; one that ends in `.txt` names a file with a
            prompt on each line.
        negative_prompt: what guidance leads away from, of every item.
        table: instead of all others; its columns are the roles, `prompt` and `negative_prompt`.
        table_may_name_local_files: whether a table on S3 may name files of the machine that plans.
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
    table: NonEmpty | None = None
    table_may_name_local_files: bool = False

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
    styles_per_content: Count = 1
    seed: Whole = 0


def _pairing(value: Any) -> Any:
    return {"mode": value} if isinstance(value, str) else value


class BackboneChoice(_Part):
    """Which model renders.

    Attributes:
        name: `embedded`, `sd15`, `sdxl`, a hub id, a diffusers folder, or a `.safetensors` file.
        revision: commit or tag of a hub id.
        config: of a `.safetensors` file, the hub id or folder with its configuration; a hub id may
            have a commit or tag after an `@`.
        controlnet: what sees the control images, a hub id or a diffusers folder.
        controlnet_revision: commit or tag of its hub id.
        dtype: precision of the networks; `auto` is bfloat16 for a run of the kind `cuda`, float32
            for others (see `compute.device`).
        deterministic: on a GPU, compute with kernels that give the same bits every time on the same
            GPU for the same batch; false takes the fastest ones, whose pictures differ. On a CPU
            nothing differs.
    """

    name: NonEmpty = "embedded"
    revision: NonEmpty | None = None
    config: NonEmpty | None = None
    controlnet: NonEmpty | None = None
    controlnet_revision: NonEmpty | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    deterministic: bool = True


def _backbone(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _size(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return [value, value]
    if isinstance(value, list | tuple) and len(value) == 2:  # pyright: ignore
        return value  # pyright: ignore
    raise ValueError("give one number of pixels, or [width, height]")


Side = Annotated[int, Field(ge=64, le=8192), BeforeValidator(_number)]


def _codec(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    plain = value.lower().removeprefix(".")
    return "jpg" if plain == "jpeg" else plain


class Output(_Part):
    """What is written, and where.

    Attributes:
        uri: the run folder, local or `s3://bucket/prefix`.
        codec: `png` and `webp` (without quality) are lossless; `jpeg` is another word for `jpg`.
        quality: 1..100, of `jpg` (95 unless given) and of lossy `webp`.
        size: pixels, one number or [width, height]; the preset's unless given.
        resize_mode: `center_crop` gives exactly `size`; `keep_ratio` scales the shorter side to
            the smaller number of `size` and keeps the proportions of the content (or layout, target
            mask, control image); `no` keeps its size. Unless given it is `center_crop` where there
            is a `size`, else `keep_ratio`.
    """

    uri: NonEmpty
    codec: Annotated[Literal["png", "webp", "jpg"], BeforeValidator(_codec)] = "png"
    quality: Annotated[int, Field(ge=1, le=100), BeforeValidator(_number)] | None = None
    size: Annotated[tuple[Side, Side], BeforeValidator(_size)] | None = None
    resize_mode: Literal["center_crop", "keep_ratio", "no"] | None = None

    @model_validator(mode="after")
    def _quality_fits(self) -> Output:
        if self.codec == "png" and self.quality is not None:
            raise ValueError("png is lossless and takes no quality; drop it or choose jpg or webp")
        return self


def _is_share(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?%", value))


def _max_failed(value: Any) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not _is_share(value) and not number:
        raise ValueError("give a number of items such as 5, or a share such as '2%'")
    return value


def _failing_share(value: Any) -> Any:
    if value is not None and not _is_share(value):
        raise ValueError("give a share of the items such as '20%', or null to go on whatever fails")
    return value


class Limits(_Part):
    """What a run may cost and how much may fail.

    Attributes:
        max_items: the most items that are planned, picked by hash; all unless given. Variants and
            sweep entries of one combination of inputs stay together.
        max_failed: failed items that still count as success: a number, or a share such as `2%`.
        max_pixels: larger input images are refused.
        stop_when_failing: the run stops where more than this share of the items that a worker
            finished last fail for other reasons than their inputs; null goes on whatever fails.
    """

    max_items: Count | None = None
    max_failed: Annotated[int | str, BeforeValidator(_max_failed)] = 0
    max_pixels: Annotated[Count, Field(le=MAX_PIXELS)] = 89_478_485
    stop_when_failing: Annotated[str | None, BeforeValidator(_failing_share)] = "20%"

    def allows(self, failed: int, planned: int) -> bool:
        """Whether so many failed items of a run still count as success."""
        if isinstance(self.max_failed, int):
            return failed <= self.max_failed
        return failed <= planned * float(self.max_failed.rstrip("%")) / 100

    def stops(self, failing: int, finished: int) -> bool:
        """Whether so many failing items of the last finished ones stop the run."""
        share = self.stop_when_failing
        return share is not None and failing > finished * float(share.rstrip("%")) / 100


def check_ray_address(value: str) -> str:
    """The address, if it is one of a cluster that runs.

    Raises:
        ValueError: it is none.
    """
    if value != "auto" and not re.fullmatch(
        r"(\[[0-9a-fA-F:]+\]|[\w.-]+):[0-9]{1,5}", value, re.ASCII
    ):
        raise ValueError(
            "give host:port of a running cluster (as 'ray start --head' says it), or auto; the "
            "command runs on a node of it, so no ray:// URL"
        )
    return value


class Compute(_Part):
    """Where and how fast a run is computed.

    Nothing here changes which pictures are made, except for the kind of device, whose arithmetic
    rounds in its own way; the run keeps the kind that it was planned with.

    Attributes:
        batch_size: items optimised together.
        device: of the workers: `cpu`, `cuda`, `cuda:N` or `mps`. `auto` is decided by the job
            alone, so that a plan does not depend on the machine that made it: `cpu` for the
            embedded backbone and for weights of less than 256 MiB in all, a ControlNet's included,
            and `cuda` for larger ones.
        workers: workers that `stylefarm run` starts; one for each CUDA device, or one on a CPU,
            unless given. Those on a CPU divide its cores. On a Ray cluster: one for each of its
            GPUs, or one for each node where it has none.
        runner: who starts the workers: `local` on this machine, `ray` on the nodes of a cluster.
        ray_address: of a cluster that runs, `host:port`; RAY_ADDRESS unless given, else the
            cluster that this machine is a node of.
        hang_seconds: a worker whose rendering makes no progress for so long is taken as hung, and
            ended; ten times the estimate of a step, and 300 at least, unless given.
        shard_seconds: estimated rendering time of one shard, the most that a kill can lose.
        shard_items: items of one shard at most.
        seconds_per_item: what an item is expected to take; estimated unless given.
        io_threads: threads that fetch, decode and encode.
    """

    batch_size: Annotated[Count, Field(le=1024)] = 4
    device: Name = "auto"
    workers: Annotated[Count, Field(le=MAX_WORKERS)] | None = None
    runner: Literal["local", "ray"] = "local"
    ray_address: Annotated[NonEmpty, AfterValidator(check_ray_address)] | None = None
    hang_seconds: Seconds | None = None
    shard_seconds: Seconds = 300.0
    shard_items: Annotated[Count, Field(le=MAX_ITEMS)] = 1000
    seconds_per_item: Seconds | None = None
    io_threads: Annotated[Count, Field(le=256)] = 8

    @model_validator(mode="after")
    def _ray_chooses_gpus(self) -> Compute:
        if self.runner == "ray" and ":" in self.device:
            raise ValueError(
                f"with runner: ray, Ray gives each worker its GPU: write device: "
                f"{self.device.partition(':')[0]}, without a number"
            )
        return self


MAX_SENTENCES = 6
"""The most wrong values that a message names."""


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

    task: NonEmpty
    inputs: Inputs
    output: Output
    name: Name | None = None
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    backbone: Annotated[BackboneChoice, BeforeValidator(_backbone)] = BackboneChoice()
    pairing: Annotated[Pairing, BeforeValidator(_pairing)] = Pairing()
    limits: Limits = Limits()
    compute: Compute = Compute()
    seed: Whole = 0
    variants: Annotated[Count, Field(le=MAX_VARIANTS)] = 1
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


def job_from_dict(content: Mapping[str, Any]) -> Job:
    """The job that a run folder recorded."""
    return Job.model_validate(dict(content))


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


def _override(content: dict[str, Any], key: str, value: str) -> None:
    try:
        written = compose(value)
        parsed = None if written is None else value_of(written)
    except YamlError as error:
        raise JobError(f"--set {key}={value[:200]}: {error.reason}") from None
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
        problems = error.errors()
        lines = [_sentence(problem, places) for problem in problems[:MAX_SENTENCES]]
        if len(problems) > MAX_SENTENCES:
            lines.append(f"{path}: and {len(problems) - MAX_SENTENCES} more")
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
                return f"--set {key}={value[:200]}"
        line = _line_of(self.tree, keys)
        return f"{self.path}, line {line}" if line else f"{self.path}"


def _sentence(problem: Any, places: _Places) -> str:
    keys = [str(key) for key in problem["loc"]]
    where = places.of(keys)
    keys = [key for key in keys if not key.startswith(("constrained-", "function-"))]
    if problem["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        inside = f" in {'.'.join(keys[:-1])}" if keys[:-1] else ""
        hint = nearest(keys[-1], known) if keys[:-1] else nearest_key(keys[-1], known)
        return f"{where}: unknown key {_shown(keys[-1])}{inside}; {hint}"
    if problem["type"] == "missing":
        return f"{where}: the key {'.'.join(keys)!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "string_unicode":
        message = "it holds half a surrogate pair, which no text may have"
    if problem["type"] == "model_type":
        message = f"give a mapping of {', '.join(_known_keys(keys))}"
    got = "" if isinstance(problem["input"], dict) else f"; got {_shown(problem['input'])}"
    return f"{where}: {'.'.join(keys) or 'job'}: {message}{got}"


def _shown(value: Any) -> str:
    """A value as Python writes it, without the middle of a long one."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = shortened.maxlong = 80
    return shortened.repr(value)


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
