"""How is told what a run will take: a table or JSON; and what is known of it unmeasured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from flows.crew import threads_of_each
from flows.memory_words import slow_warning
from flows.terminal import Terminal, counted
from manifests.amounts import money, plain_number
from manifests.commits import Commit, hours_name
from manifests.job import Compute
from tasks.estimating.buckets import Bucket
from tasks.estimating.forecast import Forecast, Outlook, quantile
from tasks.estimating.known import Plan, RunKind, known_of
from tasks.estimating.remembered import hardware_of, remembered

UNKNOWN = "–"

MAX_BUCKETS = 50
"""Rows of the table for people; JSON has them all."""


def run_kind(
    compute: Compute,
    *,
    model_revision: str,
    dtype: str,
    device_type: str | None,
    devices: Sequence[str],
) -> RunKind:
    """What the speed of a run's items depends on, where it is rendered on these devices."""
    kind = device_type or "cpu"
    is_local = compute.runner == "local"
    return RunKind(
        model_revision=model_revision,
        dtype=dtype,
        hardware=hardware_of(kind, threads_of_each(devices)) if is_local else "ray",
        has_given_seconds=compute.seconds_per_item is not None,
    )


def known_forecast(
    plan: Plan,
    commits: Mapping[str, Commit],
    kind: RunKind,
    *,
    workers: int,
    price_per_hour: float | None,
    spent_seconds: float,
) -> Forecast:
    """What the pending items of a plan will take, by what is known without rendering any."""
    known = known_of(plan, commits, kind, remembered())
    return Forecast(
        outlooks=known.outlooks,
        load_seconds=known.load_seconds,
        workers=workers,
        price_per_hour=price_per_hour,
        spent_seconds=spent_seconds,
    )


def show_forecast(
    terminal: Terminal, forecast: Forecast, device_type: str | None, workers: Sequence[int]
) -> None:
    """Prints a row for each bucket, one for all, and when how many workers would be done."""
    if not forecast.outlooks:
        terminal.say("Nothing is left to render: every planned item is done.")
        return
    columns = ["", "items", "s/item", "p90", "hours"]
    columns += ["cost"] * (forecast.price_per_hour is not None) + ["memory", "output"]
    rows = [_bucket_row(forecast, one) for one in forecast.outlooks[:MAX_BUCKETS]]
    terminal.say("")
    terminal.say_table(columns, [*rows, _row_of_all(forecast)])
    if (left := len(forecast.outlooks) - MAX_BUCKETS) > 0:
        terminal.say(f"… and {left} more buckets")
    terminal.say("")
    if workers:
        columns = ["workers", "hours", *["cost"] * (forecast.price_per_hour is not None)]
        rows = [_workers_row(forecast, number) for number in workers]
        terminal.say_table([*columns, "takes", "ends"], rows)
        terminal.say("")
    for sentence in _sentences(forecast, device_type):
        terminal.say(sentence)
    terminal.say_list(_failed_lines(forecast), "yellow", rest="more items that failed")
    slow = (
        slow_warning(*one.bucket.largest, quantile(one.seconds, 0.5) or 0.0, device_type)
        for one in forecast.outlooks
    )
    terminal.say_list(dict.fromkeys(filter(None, slow)), "yellow", rest="more sizes")


def forecast_document(
    forecast: Forecast, device_type: str | None, workers: Sequence[int]
) -> dict[str, Any]:
    """The same for JSON; a number that is not known is null."""
    seconds = forecast.device_seconds()
    return {
        "items": forecast.num_items,
        "shards": forecast.num_shards,
        "unit": hours_name(device_type),
        "price_per_hour": forecast.price_per_hour,
        "load_seconds": _rounded(forecast.load_seconds),
        "total": {
            **_seconds_document(forecast.seconds, forecast.render_seconds),
            "device_hours": _rounded(seconds / 3600, 6),
            "cost": _rounded(forecast.cost(seconds), 6),
            "peak_memory_bytes": forecast.peak_memory_bytes,
            "output_bytes": _rounded(forecast.output_bytes, 0),
        },
        "spent": {
            "device_hours": _rounded(forecast.spent_seconds / 3600, 6),
            "cost": _rounded(forecast.cost(forecast.spent_seconds), 6),
        },
        "workers": [_workers_document(forecast, number) for number in workers],
        "buckets": [_bucket_document(forecast, one) for one in forecast.outlooks],
    }


def examples_of(forecast: Forecast) -> list[str]:
    """A line for each bucket with keys of a few of its items."""
    return [
        f"{bucket_name(one.bucket)}: such as {', '.join(one.bucket.examples)}"
        for one in forecast.outlooks
        if one.bucket.examples
    ]


def bucket_name(bucket: Bucket) -> str:
    """A bucket in a few words: its sweep entry or its task, and its size."""
    smallest, largest = (f"{width}x{height}" for width, height in (bucket.smallest, bucket.largest))
    size = smallest if smallest == largest else f"{smallest} to {largest}"
    return f"{bucket.label or bucket.task} {size}"


def duration(seconds: float) -> str:
    """Days, hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def _bucket_row(forecast: Forecast, one: Outlook) -> list[str]:
    row = [bucket_name(one.bucket), str(one.bucket.num_items)]
    return [*row, *_figures(forecast, one, one.device_seconds)]


def _row_of_all(forecast: Forecast) -> list[str]:
    return [
        "in all",
        str(forecast.num_items),
        *_figures(forecast, forecast, forecast.device_seconds()),
    ]


def _figures(forecast: Forecast, of: Outlook | Forecast, device_seconds: float) -> list[str]:
    """Seconds of an item, hours, money, memory and bytes, of a bucket or of all."""
    shares = (quantile(of.seconds, share) for share in (0.5, 0.9))
    cells = [UNKNOWN if found is None else plain_number(found) for found in shares]
    cells.append(plain_number(device_seconds / 3600))
    if (cost := forecast.cost(device_seconds)) is not None:
        cells.append(money(cost))
    memory, output = of.peak_memory_bytes, of.output_bytes
    cells.append(UNKNOWN if memory is None else f"{memory / 1e9:.2f} GB")
    return [*cells, UNKNOWN if output is None else f"{plain_number(output / 1e6)} MB"]


def _workers_row(forecast: Forecast, number: int) -> list[str]:
    seconds, wall = forecast.device_seconds(number), forecast.wall_seconds(number)
    cost = forecast.cost(seconds)
    cells = [str(number), plain_number(seconds / 3600), *([] if cost is None else [money(cost)])]
    return [*cells, duration(wall), f"{_end(wall):%Y-%m-%d %H:%M}"]


def _end(wall_seconds: float) -> datetime:
    return datetime.now().astimezone() + timedelta(seconds=wall_seconds)


BASES = {
    "measured": "measured now",
    "commits": "by what this run has committed",
    "remembered": "by what this machine measured earlier",
    "job": "by compute.seconds_per_item of the job",
    "rough": "a rough guess: nothing like it was measured here yet",
}
"""Where figures come from, in words."""


def _sentences(forecast: Forecast, device_type: str | None) -> Iterator[str]:
    bases = dict.fromkeys(one.basis for one in forecast.outlooks)
    told = ", ".join(BASES[basis] for basis in bases)
    yield (
        f"Seconds of an item are those of rendering, {told}; hours are {hours_name(device_type)}, "
        "with loading and encoding."
    )
    if any(one.output_bytes is None for one in forecast.outlooks):
        yield f"{UNKNOWN} is not known before a picture is made: 'stylefarm estimate' measures it."
    if num_problems := forecast.num_problems:
        yield f"{counted(num_problems, 'item')} cannot be rendered and will be recorded as failed."
    for one in forecast.outlooks:
        if one.tried is not None and one.tried.whole_seconds is not None:
            yield (
                f"{bucket_name(one.bucket)}: told by steps alone, without decoding, as its items "
                f"would have taken {duration(one.tried.whole_seconds)} to their ends."
            )
        if one.tried is not None and one.tried.measured is None:
            yield f"{bucket_name(one.bucket)}: not one of its items could be rendered; see below."
    if forecast.spent_seconds:
        yield spent_sentence(forecast, device_type)


def spent_sentence(forecast: Forecast, device_type: str | None) -> str:
    """What earlier runs of the folder took."""
    cost = forecast.cost(forecast.spent_seconds)
    paid = "" if cost is None else f", at {money(cost)}"
    hours = plain_number(forecast.spent_seconds / 3600)
    return f"Earlier runs of this folder took {hours} {hours_name(device_type)}{paid}."


def _failed_lines(forecast: Forecast) -> list[str]:
    return [
        f"{one.key}: {one.error_class}: {one.error_message}"
        for outlook in forecast.outlooks
        if outlook.tried is not None
        for one in outlook.tried.failed
    ]


def _seconds_document(seconds: Mapping[float, float], render_seconds: float) -> dict[str, Any]:
    return {
        "seconds_per_item": {
            "median": _rounded(quantile(seconds, 0.5), 4),
            "p90": _rounded(quantile(seconds, 0.9), 4),
        },
        "render_seconds": _rounded(render_seconds),
    }


def _workers_document(forecast: Forecast, number: int) -> dict[str, Any]:
    seconds, wall = forecast.device_seconds(number), forecast.wall_seconds(number)
    return {
        "workers": number,
        "device_hours": _rounded(seconds / 3600, 6),
        "cost": _rounded(forecast.cost(seconds), 6),
        "seconds": _rounded(wall),
        "ends_at": f"{_end(wall):%Y-%m-%dT%H:%M:%S%z}",
    }


def _bucket_document(forecast: Forecast, one: Outlook) -> dict[str, Any]:
    bucket, tried = one.bucket, one.tried
    return {
        "task": bucket.task,
        "label": bucket.label,
        "sizes": [list(size) for size in dict.fromkeys((bucket.smallest, bucket.largest))],
        "items": bucket.num_items,
        "problems": bucket.num_problems,
        "shards": len(bucket.shards),
        "examples": bucket.examples,
        "basis": one.basis,
        "batch_size": one.batch_size,
        **_seconds_document(one.seconds, one.render_seconds),
        "device_hours": _rounded(one.device_seconds / 3600, 6),
        "cost": _rounded(forecast.cost(one.device_seconds), 6),
        "peak_memory_bytes": one.peak_memory_bytes,
        "output_bytes": _rounded(one.output_bytes, 0),
        "tried": tried and tried.num_items,
        "failed": tried and [asdict(one) for one in tried.failed],
    }


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
