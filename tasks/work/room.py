"""How much memory do pictures of one size take, and how many of them are rendered together?"""

from __future__ import annotations

from collections.abc import Sequence

from ad_lib.batch import automatic_batch_size, memory_needed
from ad_lib.model.backbone import Backbone
from ad_lib.model.room import total_memory
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
    width, height = items[0].width, items[0].height
    kinds = [
        {
            "settings": settings_in(params),
            "width": width,
            "height": height,
            "num_references": num_references,
        }
        for params, num_references in {(one.params, _num_references(one)) for one in items}
    ]
    of_each = [automatic_batch_size(backbone, **kind, sharers=sharers or 1) for kind in kinds]
    fitting = min(of_each)
    together = batch_size if sharers is None else min(batch_size, fitting)
    held = backbone.weight_bytes if backbone.device.type == "cuda" else resident_bytes()

    def taken(number: int) -> int:
        return held + max(memory_needed(backbone, **kind, batch_size=number) for kind in kinds)

    return MemoryNeed(
        width=width,
        height=height,
        item_bytes=taken(1),
        batch_size=together,
        batch_bytes=taken(min(together, len(items))),
        fitting=fitting,
        memory_bytes=total_memory(backbone.device) // (sharers or 1),
        device=str(backbone.device),
    )


def _num_references(item: Item) -> int:
    return sum(one.role in REFERENCE_ROLES for one in item.inputs)
