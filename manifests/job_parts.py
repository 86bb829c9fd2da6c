"""Which keys do the parts of a job file have: inputs, output, backbone, limits and compute?

Each part is checked by itself, and an unknown key is refused. Some parts have a short form:
`pairing: zip` is `pairing: {mode: zip}`; see `longhand`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from manifests.items import EXTERNAL
from manifests.job_form import tell_form
from manifests.job_values import (
    MAX_PORT,
    MIN_PORT,
    Count,
    Money,
    Name,
    NonEmpty,
    Seconds,
    Side,
    Text,
    Whole,
    number,
)
from manifests.limits import MAX_ITEMS

Role = Literal["content", "layout", "style", "texture", "source_mask", "target_mask", "control"]
ROLES: tuple[Role, ...] = get_args(Role)


def external_role(name: str) -> str:
    """The role under which the pictures of another program are listed: where a job names them."""
    return f"{EXTERNAL}.{name}"


def job_key(role: str) -> str:
    """Where a job names the source of a role, with dots."""
    return role if role.startswith(f"{EXTERNAL}.") else f"inputs.{role}"


MAX_PIXELS = 1_000_000_000
"""The highest `limits.max_pixels`: a picture of so many pixels takes 3 GB as it is decoded."""

MAX_BATCH_SIZE = 1024
"""The highest `compute.batch_size`."""

MAX_WORKERS = 256
"""The highest `compute.workers`: workers that one command starts."""


class Part(BaseModel):
    """A mapping of a job file: its keys are known, and it never changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The schema, with what the docstring says of each key for whoever fills in a form."""
        schema = handler(core_schema)
        tell_form(handler.resolve_ref_schema(schema), cls)
        return schema


def source_of(value: Any) -> Any:
    """A URI, or several, as the mapping that they are short for."""
    return {"uri": value} if isinstance(value, str | list) else value  # pyright: ignore


def _uris(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _at_least_one(uris: tuple[str, ...]) -> tuple[str, ...]:
    if not uris:
        raise ValueError("give at least one URI")
    return uris


_OneOrMore = NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)]


class Source(Part):
    """Where the images of one role come from.

    A URI names a folder or S3 prefix of images, one image, or WebDataset shards
    (`…/{000..099}.tar`); several may be listed.
    """

    uri: Annotated[
        tuple[NonEmpty, ...],
        BeforeValidator(_uris, json_schema_input_type=_OneOrMore),
        AfterValidator(_at_least_one),
    ]
    license: Text | None = None
    attribution: Text | None = None


ShortSource = _OneOrMore | Source
"""A source as a job file may write it."""

OptionalSource = Annotated[
    Source | None, BeforeValidator(source_of, json_schema_input_type=ShortSource | None)
]


class Inputs(Part):
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
    prompt: Annotated[
        tuple[NonEmpty, ...] | None,
        BeforeValidator(_uris, json_schema_input_type=_OneOrMore | None),
    ] = None
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


PairingMode = Literal["zip", "product", "random"]


class Pairing(Part):
    """How sources by role become items.

    Attributes:
        mode: `zip` joins images of the same key, `product` takes every combination, `random`
            draws `styles_per_content` references for each content.
        styles_per_content: of `random`.
        seed: of `random`; stored with the run.
    """

    mode: PairingMode = "product"
    styles_per_content: Count = 1
    seed: Whole = 0


def pairing_of(value: Any) -> Any:
    """A mode as the mapping that it is short for."""
    return {"mode": value} if isinstance(value, str) else value


class BackboneChoice(Part):
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


def backbone_of(value: Any) -> Any:
    """A name as the mapping that it is short for."""
    return {"name": value} if isinstance(value, str) else value


def _size(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return [value, value]
    if isinstance(value, list | tuple) and len(value) == 2:  # pyright: ignore
        return value  # pyright: ignore
    raise ValueError("give one number of pixels, or [width, height]")


def _codec(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    plain = value.lower().removeprefix(".")
    return "jpg" if plain == "jpeg" else plain


class Output(Part):
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
    codec: Annotated[
        Literal["png", "webp", "jpg"],
        BeforeValidator(_codec, json_schema_input_type=Literal["png", "webp", "jpg", "jpeg"]),
    ] = "png"
    quality: Annotated[int, Field(ge=1, le=100), BeforeValidator(number)] | None = None
    size: (
        Annotated[
            tuple[Side, Side],
            BeforeValidator(
                _size,
                json_schema_input_type=Side
                | Annotated[list[Side], Field(min_length=2, max_length=2)],
            ),
        ]
        | None
    ) = None
    resize_mode: Literal["center_crop", "keep_ratio", "no"] | None = None

    @model_validator(mode="after")
    def _quality_fits(self) -> Output:
        if self.codec == "png" and self.quality is not None:
            raise ValueError("png is lossless and takes no quality; drop it or choose jpg or webp")
        return self


_SHARE = r"[0-9]{1,3}(\.[0-9]{1,9})?%"
_Share = Annotated[str, Field(pattern=f"^{_SHARE}$")]


def _is_share(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(_SHARE, value))


def _max_failed(value: Any) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not _is_share(value) and not number:
        raise ValueError("give a number of items such as 5, or a share such as '2%'")
    return value


def _failing_share(value: Any) -> Any:
    if value is not None and not _is_share(value):
        raise ValueError("give a share of the items such as '20%', or null to go on whatever fails")
    return value


class Limits(Part):
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
    max_failed: Annotated[
        int | str,
        BeforeValidator(_max_failed, json_schema_input_type=Annotated[int, Field(ge=0)] | _Share),
    ] = 0
    max_pixels: Annotated[int, Field(gt=0, le=MAX_PIXELS), BeforeValidator(number)] = 89_478_485
    stop_when_failing: Annotated[
        str | None, BeforeValidator(_failing_share, json_schema_input_type=_Share | None)
    ] = "20%"

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


def _compile(value: Any) -> Any:
    return "off" if value is False else value  # YAML reads off as false


def _batch_size(value: Any) -> Any:
    if value == "auto":
        return value
    written = str(value)
    if not re.fullmatch(r"[1-9][0-9]{0,3}", written) or int(written) > MAX_BATCH_SIZE:
        raise ValueError(f"give auto, or a number of items in 1..{MAX_BATCH_SIZE}")
    return int(written)


_Compile = Literal["auto", "off", "reduce", "max"]


class Compute(Part):
    """Where and how fast a run is computed.

    Nothing here changes which pictures are made, except for the kind of device, whose arithmetic
    rounds in its own way; the run keeps the kind that it was planned with.

    Attributes:
        batch_size: items optimised together at most. `auto` is what the memory of the worker's
            device has room for, told from the sizes, the network and the precision; it is the same
            whenever the job runs on such a machine.
        compile: whether networks run as compiled graphs. `auto` does so on CUDA, where a worker
            compiles each new size and batch for minutes, once; `off` never does; `reduce` launches
            them as CUDA graphs at any size of batch; `max` tries more kernels, which takes longer.
            Pictures change by rounding, as between sizes of batches.
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
        price_per_hour: of the machine that one worker takes, in whatever money; what a run costs is
            told in it, and `--max-cost` bounds it.
        metrics_port: each worker that a command starts serves its figures there for Prometheus, at
            this port plus the worker's number; unless given, none does.
    """

    batch_size: Annotated[
        int | Literal["auto"],
        BeforeValidator(
            _batch_size,
            json_schema_input_type=Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)],
        ),
    ] = "auto"
    compile: Annotated[
        _Compile,
        BeforeValidator(_compile, json_schema_input_type=_Compile | Literal[False]),
    ] = "auto"
    device: Name = "auto"
    workers: Annotated[int, Field(gt=0, le=MAX_WORKERS), BeforeValidator(number)] | None = None
    runner: Literal["local", "ray"] = "local"
    ray_address: Annotated[NonEmpty, AfterValidator(check_ray_address)] | None = None
    hang_seconds: Seconds | None = None
    shard_seconds: Seconds = 300.0
    shard_items: Annotated[int, Field(gt=0, le=MAX_ITEMS), BeforeValidator(number)] = 1000
    seconds_per_item: Seconds | None = None
    io_threads: Annotated[int, Field(gt=0, le=256), BeforeValidator(number)] = 8
    price_per_hour: Money | None = None
    metrics_port: (
        Annotated[int, Field(ge=MIN_PORT, le=MAX_PORT - MAX_WORKERS), BeforeValidator(number)]
        | None
    ) = None

    @model_validator(mode="after")
    def _ray_chooses_gpus(self) -> Compute:
        if self.runner == "ray" and ":" in self.device:
            raise ValueError(
                f"with runner: ray, Ray gives each worker its GPU: write device: "
                f"{self.device.partition(':')[0]}, without a number"
            )
        return self


def longhand(key: str, value: Any) -> Any:
    """The mapping that a short form stands for, such as `{mode: zip}` for `pairing: zip`."""
    grow = {"pairing": pairing_of, "backbone": backbone_of} | dict.fromkeys(ROLES, source_of)
    return grow[key](value) if key in grow else value
