"""How much memory do pictures of one size take, and how many of them are rendered together?"""

from __future__ import annotations

from ad_lib.batch import automatic_batch_size, memory_needed
from ad_lib.model.backbone import Backbone
from ad_lib.model.room import total_memory
from tasks.runs.environment import resident_bytes
from tasks.work.shard_work import Demand, MemoryNeed


def memory_need(
    backbone: Backbone, demand: Demand, batch_size: int = 1, sharers: int | None = None
) -> MemoryNeed:
    """The memory that items take.

    Args:
        backbone: the model, on its device.
        demand: of the items.
        batch_size: that they are rendered together at most, before memory is looked at.
        sharers: workers that share the device's memory; None where memory bounds no batch.
    """
    width, height = demand.width, demand.height
    asked = [
        {"settings": settings, "width": width, "height": height, "num_references": number}
        for settings, number in demand.kinds
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
        batch_bytes=taken(min(together, demand.num_items)),
        fitting=fitting,
        memory_bytes=total_memory(backbone.device) // (sharers or 1),
        device=str(backbone.device),
    )
