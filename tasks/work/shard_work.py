"""What a rendering process is asked to do, and what it tells while it works.

Everything here can be pickled, and importing it loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ad_lib.settings import Settings
from manifests.items import REFERENCE_ROLES, Item
from manifests.job import Job
from manifests.outcomes import Outcome
from tasks.runs.item_settings import settings_in


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """The model that a run was planned with.

    Attributes:
        model_id: `embedded`, a hub id, a folder, or a `.safetensors` file.
        revision: exactly which weights; a ControlNet's revision follows after a `+`.
        config: of a single file, where its configuration is.
        controlnet: a hub id or a folder.
        dtype: the name of a torch dtype; `auto` in run folders of the first layout.
        deterministic: whether only kernels that repeat their results may be used.
    """

    model_id: str
    revision: str
    config: str | None = None
    controlnet: str | None = None
    dtype: str = "auto"
    deterministic: bool = False


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """What is to be rendered of a shard.

    Attributes:
        items: those that have no outcome yet, in plan order.
        alone: the `item_id`s of those that are tried first, in this order, each with nothing else
            in the pipeline.
        job: the run's job: the codec, the bounds on figures, the limits of pictures.
        model: of the run.
        device: one of this machine, such as `cpu` or `cuda:1`.
        batch_size: items rendered together at most, to begin with.
        memory_sharers: workers that share the device's memory, where batches are as large as it has
            room for; None where only `batch_size` bounds them.
        compile: whether networks run as compiled graphs, as of `compute.compile`.
        io_threads: that read and decode; as many more, at most one a core, measure and encode.
        scratch: a folder that exists; encoded pictures become files of it, named by key.
        png_strategy: of the run, see `RunRecord`.
    """

    items: tuple[Item, ...]
    alone: tuple[str, ...] = ()
    job: Job
    model: PlannedModel
    device: str
    batch_size: int
    memory_sharers: int | None = None
    compile: Literal["auto", "off", "reduce", "max"] = "auto"
    io_threads: int
    scratch: Path
    png_strategy: Literal["default", "rle"]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What items of one size ask of a device's memory.

    Attributes:
        width, height: pixels.
        kinds: settings and number of references, of which the most demanding count; at least one.
        num_items: that there are.
    """

    width: int
    height: int
    kinds: frozenset[tuple[Settings, int]]
    num_items: int = 1


def demand_of(items: Iterable[Item]) -> Demand | None:
    """Of the items that can be rendered, those of the largest size; None where there are none."""
    sound = [one for one in items if one.problem is None]
    if not sound:
        return None
    width, height = max(((one.width, one.height) for one in sound), key=lambda it: it[0] * it[1])
    largest = [one for one in sound if (one.width, one.height) == (width, height)]
    kinds = {(one.params, sum(it.role in REFERENCE_ROLES for it in one.inputs)) for one in largest}
    return Demand(
        width=width,
        height=height,
        kinds=frozenset((settings_in(params), number) for params, number in kinds),
        num_items=len(largest),
    )


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """The memory that pictures of one size take on a device while they are rendered, at most.

    Attributes:
        width, height: pixels.
        item_bytes: of one alone, with the model and what else is held.
        batch_size: items that are rendered together.
        batch_bytes: of so many.
        fitting: items that have room together, by what the device has in all; 1 at least.
        memory_bytes: that the device has; where workers share it, the share of one.
        device: such as `cpu`.
    """

    width: int
    height: int
    item_bytes: int
    batch_size: int
    batch_bytes: int
    fitting: int
    memory_bytes: int
    device: str


class Watch(Protocol):
    """What rendering asks, and what it tells while it works; it may be called by any thread."""

    def should_stop(self) -> bool:
        """Whether somebody asked to stop; asked before each batch and at each step."""
        ...

    def phase(self, name: str) -> None:
        """What begins now: `loading` or `rendering`."""
        ...

    def loaded(self, seconds: float, device_name: str) -> None:
        """The model is there; 0.0 seconds where it was there before."""
        ...

    def begin(self, item_ids: Sequence[str], *, alone: bool) -> None:
        """These items are decoded from now on; nothing is decoded before this returns."""
        ...

    def advance(self, items: float) -> None:
        """A step was made: this fraction of an item's steps, times the items that made it."""
        ...

    def finish(self, outcome: Outcome) -> None:
        """An item has its outcome, and its files lie in scratch."""
        ...

    def waited(self, for_input: float, for_output: float) -> None:
        """So many seconds nothing was rendered, as pictures were not loaded, or not encoded yet."""
        ...

    def needs(self, need: MemoryNeed) -> None:
        """Pictures of one size will take so much memory; told before the first of them."""
        ...

    def held(self, num_bytes: int) -> None:
        """So much of the accelerator's memory was held at most; on a CPU, of main memory."""
        ...

    def fitted(self, batch_size: int) -> None:
        """After running out of memory so many items fitted; begin the next shard with these."""
        ...

    def tick(self) -> None:
        """Time passes; called at least twice a second while a rendering process is waited for."""
        ...


class Renderer(Protocol):
    """Something that renders shards on one device, in this process or in another."""

    def render(self, work: ShardWork, watch: Watch, *, hang_seconds: float) -> None:
        """Renders a shard; every item ends in exactly one `watch.finish`.

        Args:
            work: what to render.
            watch: asked and told by the calling thread.
            hang_seconds: how long a rendering process may tell nothing before it is killed.

        Raises:
            Stopped: `watch.should_stop` said so.
            WorkerFault: the machine's fault.
            StoreError: an input's store does not answer.
            BackboneError, RunFolderError: the model is not here, or not the planned one.
            FreshDeviceNeeded: all other items are finished; these need a fresh device.
            ChildDied, ChildHung: the rendering process is gone; the next call starts another.
        """
        ...

    def close(self) -> None:
        """Gives the device back. Rendering again begins with a fresh one."""
        ...
