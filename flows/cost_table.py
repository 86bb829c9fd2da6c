"""What `stylefarm report --table` tells: seconds and memory of a sweep's entries, as in Table 1."""

from __future__ import annotations

from typing import Any

from flows.terminal import Terminal, counted
from tasks.results.cost_table import Cost, CostTable

NOT_AT_HAND = "not at hand"
NOTHING = "–"


def show_cost_table(terminal: Terminal, table: CostTable) -> None:
    """Prints a row for each entry, and what was measured how."""
    has_published = any(cost.published for cost in table.costs)
    columns = ["method", "timesteps × iterations", "seconds", "memory", "pictures"]
    columns += ["published seconds", "published memory"] if has_published else []
    rows = [_row(cost)[: len(columns)] for cost in table.costs]
    terminal.say("")
    terminal.say_table(columns, rows)
    terminal.say("")
    for sentence in _sentences(table):
        terminal.say(sentence)


def cost_document(table: CostTable) -> dict[str, Any]:
    """The same for JSON; a number that is not known is null."""
    return {
        "model": table.model_id,
        "devices": list(table.devices),
        "sizes": list(table.sizes),
        "is_compiled": table.is_compiled,
        "entries": [
            {
                "label": cost.label,
                "task": cost.task,
                "num_timesteps": cost.num_timesteps,
                "num_iterations": cost.num_iterations,
                "seconds": cost.median_seconds,
                "memory_bytes": cost.memory_bytes,
                "pictures": len(cost.seconds),
                "published": cost.published
                and {
                    "seconds": cost.published.seconds,
                    "memory_bytes": cost.published.memory_bytes,
                },
            }
            for cost in table.costs
        ],
    }


def _row(cost: Cost) -> list[str]:
    steps = f"{cost.num_timesteps} × {cost.num_iterations}" if cost.num_timesteps else NOTHING
    cells = [cost.label or cost.task, steps, _seconds(cost.median_seconds)]
    cells += [_memory(cost.memory_bytes), str(len(cost.seconds))]
    if cost.published is None:
        return [*cells, NOTHING, NOTHING]
    seconds, memory = cost.published.seconds, cost.published.memory_bytes
    return [
        *cells,
        NOT_AT_HAND if seconds is None else _seconds(seconds),
        NOT_AT_HAND if memory is None else _memory(memory),
    ]


def _seconds(seconds: float | None) -> str:
    return NOTHING if seconds is None else f"{seconds:.2f}"


def _memory(num_bytes: int | None) -> str:
    return NOTHING if num_bytes is None else f"{num_bytes / 1e9:.2f} GB"


def _sentences(table: CostTable) -> list[str]:
    where = f"{table.model_id}, {', '.join(table.sizes)} pixels, {', '.join(table.devices)}"
    sentences = [
        f"Measured: {where}." if table.sizes else "No picture is finished yet.",
        "Seconds are medians over an entry's pictures, of synthesis alone: without loading, "
        "encoding and decoding.",
    ]
    if table.is_compiled:
        sentences.append(
            "The first batch of each size is compiled within its seconds: set compute.compile=off "
            "for the table of the paper."
        )
    if all(cost.memory_bytes is None for cost in table.costs):
        sentences.append("Memory is that of an accelerator; a CPU has no such figure.")
    published = [cost.published for cost in table.costs if cost.published]
    if any(one.seconds is None for one in published):
        num_missing = counted(sum(one.seconds is None for one in published), "row")
        sentences.append(
            f"The published numbers of {num_missing} are not at hand: the paper's supplement "
            "(arXiv 2502.20235, Table 1) has them, and tasks/results/cost_table.py a place for "
            "them."
        )
    return sentences
