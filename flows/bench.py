"""How fast is stylefarm on this machine? What `stylefarm bench` does and prints."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad_lib.errors import RequestError
from ad_lib.presets import find_preset
from flows.output_files import check_writable, write_whole
from flows.single import checked_settings
from flows.stopping import Stopping
from flows.terminal import Terminal
from manifests.wording import safe_text

if TYPE_CHECKING:
    from ad_lib.bench.measuring import Measured, Row
    from ad_lib.bench.workload import Workload
    from ad_lib.model.backbone import Backbone

SCHEMA = 1
"""Of the document; it grows when names in it change their meaning."""

_SMALL_SIZE = 256
"""Pixels where nothing is said and there is no GPU."""

_STEPS = 10
"""Timesteps where nothing is said: each costs the same, so a few tell the speed of many."""

_MAX_LISTED = 64
"""Numbers of one list, and the largest batch is so many times that."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `stylefarm bench` was asked to measure.

    Attributes:
        backbone: `sd15-random`, `sdxl-tiny` and such, or what `load_backbone` takes.
        sizes: pixels of each side; empty is 256, on a GPU the preset's.
        steps: timesteps.
        batch_sizes: pictures that run together; None is what memory has room for, as in a job.
        grid: (contents, styles); None is as many contents as the batch has pictures, on one style.
        techniques: names; empty is all.
        repeats: turns of each row.
        settings: what replaces the preset's numbers, values as YAML.
        dtype, device: by name.
        minutes: rows that would begin later are not measured.
    """

    backbone: str
    task: str
    sizes: tuple[int, ...] = ()
    steps: int = _STEPS
    batch_sizes: tuple[int, ...] | None = None
    grid: tuple[int, int] | None = None
    techniques: tuple[str, ...] = ()
    repeats: int = 3
    settings: dict[str, str] = field(default_factory=dict)
    dtype: str = "auto"
    device: str = "auto"
    minutes: float | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What becomes of the rows.

    Attributes:
        document: the JSON file; `-` is standard output.
        plot: the picture to draw.
    """

    document: str | None = None
    plot: Path | None = None

    def check(self) -> None:
        """Refuses places that could not be written, before anything is measured.

        Raises:
            RequestError: one of them cannot be written, or is no PNG.
        """
        if self.plot is not None and self.plot.suffix.lower() != ".png":
            raise RequestError(f"--plot must end in .png; got {str(self.plot)!r}")
        if self.document not in (None, "-"):
            check_writable("--json", Path(self.document))
        if self.plot is not None:
            check_writable("--plot", self.plot)

    def write(self, terminal: Terminal, document: dict[str, Any]) -> None:
        """Writes the document and draws it."""
        if self.document == "-":
            terminal.print_json(document)
        self.keep(document)
        if self.plot is not None:
            from tasks.results.bench_chart import draw_chart

            self.plot.parent.mkdir(parents=True, exist_ok=True)
            draw_chart(document).save(self.plot)
            terminal.say(f"The rows are drawn in {self.plot}.")

    def keep(self, document: dict[str, Any]) -> None:
        """Writes the file alone, whole or not at all: also while rows are being measured."""
        if self.document not in (None, "-"):
            write_whole(Path(self.document), json.dumps(document, indent=1).encode())


def bench(terminal: Terminal, stopping: Stopping, asked: Asked, wanted: Wanted) -> dict[str, Any]:
    """Measures what was asked for, prints the rows, and gives the document.

    Raises:
        Stopped: somebody asked to stop; the file has what was measured until then.
        RequestError, BackboneError: something that was asked for cannot be done.
    """
    wanted.check()
    find_preset(asked.task)
    until = float("inf") if asked.minutes is None else time.monotonic() + 60 * asked.minutes
    from ad_lib.bench.measuring import measure
    from ad_lib.bench.techniques import chosen
    from tasks.runs.faults import Stopped

    chosen(asked.techniques)

    def on_turn(so_far: Measured) -> None:
        wanted.keep(document_of([asked], so_far))
        if stopping.asked():
            raise Stopped("")

    with stopping.step():
        settings = {**_settings(asked), "num_inference_steps": asked.steps}
        find_preset(asked.task).settings_with(settings)
        backbone = _loaded(asked)
        workloads = _workloads(asked, settings, backbone)
        measured = measure(
            backbone,
            workloads,
            techniques=asked.techniques,
            repeats=asked.repeats,
            until=until,
            on_turn=on_turn,
        )
    document = document_of([asked], measured)
    show_rows(terminal, document)
    wanted.write(terminal, document)
    return document


def document_of(asked: list[Asked], measured: Measured) -> dict[str, Any]:
    """The rows for programs: versions, the machine, what was asked, and each row's figures."""
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": measured.machine,
        "memory_means": measured.memory_means,
        "seconds_mean": "per picture; encoding and decoding included, loading and compiling not",
        "settings": [asdict(one) for one in asked],
        "rows": [_row_document(row) for row in measured.rows],
    }


def _row_document(row: Row) -> dict[str, Any]:
    seconds, speed = row.median_seconds, row.flops_per_second
    return {
        **asdict(row),
        "median_seconds": seconds,
        "images_per_second": 1 / seconds if seconds else None,
        "tflops": speed / 1e12 if speed else None,
        "share_of_peak": row.share_of_peak,
        "seconds_per_view": row.seconds_per_view,
        "seconds_per_megapixel": row.seconds_per_megapixel,
    }


def show_rows(terminal: Terminal, document: dict[str, Any]) -> None:
    """Prints the rows of a document, a table for each workload."""
    machine = document["machine"]
    terminal.say(
        f"{machine.get('device')}, {machine.get('threads')} threads, torch "
        f"{machine['versions'].get('torch')}. Seconds are {document.get('seconds_mean')}; of each "
        f"row the median of its turns. GiB: {document.get('memory_means')}. How far the largest "
        "latent is off counts from the literal loop."
    )
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in document["rows"]:
        kind = tuple(row.get(name) for name in ("backbone", "task", "num_steps", "dtype", "part"))
        groups.setdefault(kind, []).append(row)
    for (backbone, task, steps, dtype, _), rows in groups.items():
        peak = max(row["peak_flops"] for row in rows) / 1e12
        terminal.say(
            f"\n{task} on {backbone}, {steps} steps, {dtype}; the fastest matrix product makes "
            f"{peak:.3g} TFLOP/s",
            "bold",
        )
        for line in _table(rows):
            terminal.say(line)
        for sentence in growth(rows):
            terminal.say(sentence)


_COLUMNS = ("technique", "size", "batch", "s/image", "±", "images/s", "speed-up", "TFLOP/s")
_MORE_COLUMNS = ("of peak", "GiB", "1st step off", "end off")
_VIEW_COLUMNS = ("s/view", "s/megapixel")


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as lines of their own length: they say little when they are folded."""
    columns = (*_COLUMNS, *_MORE_COLUMNS)
    if any(row.get("num_views") for row in rows):
        columns += _VIEW_COLUMNS
    cells = [columns, *(_cells(row)[: len(columns)] for row in rows)]
    widths = [
        max(len(line[place]) for line in cells if len(line) > place)
        for place in range(len(columns))
    ]
    lines = []
    for line in cells:
        first, *others = zip(line, widths, strict=False)
        parts = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
        lines.append("  ".join(parts))
    return lines


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    seconds = row["median_seconds"]
    name = (row["technique"], str(row["size"]), str(row["batch_size"]))
    if not seconds:
        return (*name, row["note"] or "not measured")
    spread = (max(row["seconds"]) - min(row["seconds"])) / 2
    return (
        *name,
        f"{seconds:.4g}",
        f"{spread / seconds:.0%}",
        f"{1 / seconds:.3g}",
        _written(row["ratio"], "{:.2f}x"),
        _written(row["tflops"], "{:.3g}"),
        _written(row["share_of_peak"], "{:.1%}"),
        _written(row["memory_bytes"] and row["memory_bytes"] / 2**30, "{:.2f}"),
        _written(row["first_difference"], "{:.2g}"),
        _written(row["last_difference"], "{:.2g}"),
        _written(row["seconds_per_view"], "{:.4g}"),
        _written(row["seconds_per_megapixel"], "{:.4g}"),
    )


def _written(value: float | None, pattern: str) -> str:
    return "" if value is None else pattern.format(value)


def growth(rows: list[dict[str, Any]]) -> list[str]:
    """How the time grew with the area, where rows differ in their size alone; a line for each."""
    sentences = []
    measured = [row for row in rows if row["median_seconds"]]
    for earlier in measured:
        same = [
            row
            for row in measured
            if row["size"] > earlier["size"]
            and all(row[name] == earlier[name] for name in ("technique", "batch_size"))
        ]
        if not same:
            continue
        larger = min(same, key=lambda row: row["size"])
        area = (larger["size"] / earlier["size"]) ** 2
        time_factor = larger["median_seconds"] / earlier["median_seconds"]
        verdict = (
            "no faster than the area" if time_factor <= area * 1.05 else "faster than the area"
        )
        sentences.append(
            f"{earlier['technique']}: from {earlier['size']} to {larger['size']} pixels the area "
            f"grows {area:.2f}x and the time {time_factor:.2f}x, {verdict}."
        )
    return sentences


def _settings(asked: Asked) -> dict[str, Any]:
    if "num_inference_steps" in asked.settings:
        raise RequestError("give the number of timesteps by --steps, not by --set")
    return checked_settings(find_preset(asked.task), asked.settings)


def _workloads(asked: Asked, settings: dict[str, Any], backbone: Backbone) -> list[Workload]:
    from ad_lib.bench.workload import Workload

    preset = find_preset(asked.task)
    sizes = asked.sizes or (preset.size if backbone.device.type == "cuda" else _SMALL_SIZE,)

    def workload(size: int, batch_size: int) -> Workload:
        contents, styles = asked.grid or (batch_size, 1)
        if preset.algorithm == "expand" and asked.grid is None:
            contents = 1  # a batch is of views there
        return Workload(
            task=asked.task,
            size=size,
            batch_size=batch_size,
            contents=contents,
            styles=styles,
            settings=settings,
        )

    return [
        workload(size, batch_size or _automatic(workload(size, 1), backbone))
        for size in sizes
        for batch_size in asked.batch_sizes or (None,)
    ]


def _automatic(workload: Workload, backbone: Backbone) -> int:
    """The batch that a job would choose by itself; of an expansion, its views."""
    from ad_lib.batch import automatic_batch_size

    settings = workload.preset.settings_with(workload.settings)
    if workload.preset.algorithm == "expand":
        return settings.view_batch_size
    fitting = automatic_batch_size(
        backbone, settings, width=workload.size, height=workload.size, num_references=1
    )
    return min(fitting, workload.num_pictures) if workload.num_pictures > 1 else fitting


def _loaded(asked: Asked) -> Backbone:
    """The backbone by its name; `FAMILY-random` and `FAMILY-tiny` have random weights."""
    import torch

    from ad_lib import load_backbone, random_backbone
    from ad_lib.model.devices import find_device

    device = find_device(asked.device)
    dtype = None if asked.dtype == "auto" else getattr(torch, asked.dtype)
    family, _, kind = asked.backbone.rpartition("-")
    if kind in ("random", "tiny") and not Path(asked.backbone).exists():
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        return random_backbone(family, tiny=kind == "tiny", dtype=dtype, device=device)
    return load_backbone(asked.backbone, dtype=dtype, device=device)


def listed_numbers(option: str, text: str, most: int) -> tuple[int, ...]:
    """The whole numbers of a list such as `1,4,16`.

    Raises:
        RequestError: something else, none, too many, or a number out of range.
    """
    parts = [part.strip() for part in text.split(",")]
    good = [part for part in parts if part.isascii() and part.isdigit() and len(part) <= 6]
    numbers = tuple(dict.fromkeys(int(part) for part in good))
    if len(good) == len(parts) <= _MAX_LISTED and all(0 < one <= most for one in numbers):
        return numbers
    raise RequestError(
        f"{option} takes whole numbers from 1 to {most} with commas between them, such as 1,4; got "
        f"{safe_text(text, 100)!r}"
    )


def grid_of(text: str) -> tuple[int, int]:
    """(contents, styles) of a text such as `4x4`.

    Raises:
        RequestError: something else.
    """
    parts = text.lower().split("x")
    if len(parts) == 2 and all(part.isascii() and part.isdigit() and part for part in parts):
        contents, styles = (int(part[:6]) for part in parts)
        if contents and styles:
            return contents, styles
    raise RequestError(f"--grid takes CONTENTSxSTYLES, such as 4x4; got {safe_text(text, 100)!r}")
