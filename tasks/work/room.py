"""How much memory do pictures of one size take, and how many of them are rendered together?"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ad_lib.batch import automatic_batch_size, memory_needed
from ad_lib.model.backbone import Backbone
from ad_lib.model.room import total_memory
from ad_lib.settings import Settings
from manifests.items import REFERENCE_ROLES, Item
from tasks.runs.environment import resident_bytes
from tasks.runs.item_settings import settings_in
from tasks.work.shard_work import MemoryNeed


def memory_need(
    backbone: Backbone, items: Sequence[Item], batch_size: int, sharers: int | None
) -> MemoryNeed:
    """What items of one size take, of which the most demanding ones count.

    Args:
        backbone: the model, on its device.
        items: at least one; all can be rendered.
        batch_size: that they are rendered together at most, before memory is looked at.
        sharers: workers that share the device's memory; None where memory bounds no batch.
    """
    kinds = {(settings_in(params), number) for params, number in map(_demands, items)}
    size = (items[0].width, items[0].height)
    return need_of(backbone, size, kinds, min(batch_size, len(items)), batch_size, sharers)


def need_of(
    backbone: Backbone,
    size: tuple[int, int],
    kinds: Collection[tuple[Settings, int]],
    num_items: int = 1,
    batch_size: int = 1,
    sharers: int | None = None,
) -> MemoryNeed:
    """The same, told by the settings of items and the numbers of their references.

    Args:
        backbone: the model, on its device.
        size: (width, height) in pixels.
        kinds: settings and number of references, at least one.
        num_items: that there are.
        batch_size: as above.
        sharers: as above.
    """
    width, height = size
    asked = [
        {"settings": settings, "width": width, "height": height, "num_references": number}
        for settings, number in kinds
    ]
    fitting = min(automatic_batch_size(backbone, **one, sharers=sharers or 1) for one in asked)
    together = batch_size if sharers is None else min(batch_size, fitting)
    held = backbone.weight_bytes if backbone.device.type == "cuda" else resident_bytes()

    def taken(number: int) -> int:
        return held + max(memory_needed(backbone, **one, batch_size=number) for one in asked)

    return MemoryNeed(
        width=width,
        height=height,
        item_bytes=taken(1),
        batch_size=together,
        batch_bytes=taken(min(together, num_items)),
        fitting=fitting,
        memory_bytes=total_memory(backbone.device) // (sharers or 1),
        device=str(backbone.device),
    )


def _demands(item: Item) -> tuple[str, int]:
    return item.params, sum(one.role in REFERENCE_ROLES for one in item.inputs)
