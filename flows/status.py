"""What `stylefarm status` prints: how far a run is, as its commits and attempts tell it."""

from __future__ import annotations

from flows.terminal import Terminal
from manifests.attempts import AttemptRecord
from tasks.committed import current_index
from tasks.run_folder import has_pending_shards, newest_attempts, open_run
from tasks.run_plan import open_plan
from tasks.worker_identity import is_gone


def show_status(terminal: Terminal, uri: str) -> None:
    """Prints the counts and the classes of errors of a run, and who works on what.

    Raises:
        RunFolderError: there is no run, or one of its records is damaged.
    """
    store, run = open_run(uri)
    index = current_index(store, run)
    rows = [(name, str(number)) for name, number in index.counts.model_dump().items()]
    rows += [
        (f"  failed: {name}", str(number)) for name, number in sorted(index.stats.errors.items())
    ]
    terminal.say(uri)
    terminal.say_table(("items", "number"), rows)
    superseded = sum(shard.superseded for shard in index.shards)
    planned = sum(generation.num_shards for generation in index.generations) - superseded
    terminal.say(
        f"{run.task} on {run.model_id} · {len(index.shards) - superseded} of {planned} "
        f"shards · {index.stats.output_bytes / 1e6:.1f} MB · "
        f"{index.stats.render_seconds:.0f} s rendering"
    )
    if has_pending_shards(store, run) and any(store.list("attempts/")):
        attempts = newest_attempts(store, open_plan(store, run))
        if attempts:
            terminal.say_table(("shard", "attempt", "worker", "state"), map(_told, attempts))
    terminal.say("complete" if index.complete else "incomplete: 'stylefarm run' goes on")


def _told(attempt: AttemptRecord) -> tuple[str, str, str, str]:
    worker = attempt.worker
    parts = [worker.host, f"pid {worker.pid}" if worker.pid else "", worker.device]
    return attempt.shard, str(attempt.number), " ".join(filter(None, parts)), _state(attempt)


def _state(attempt: AttemptRecord) -> str:
    if attempt.ending is not None:
        return f"{attempt.ending}: {attempt.error}" if attempt.error else attempt.ending
    if is_gone(attempt.worker):
        return "its worker is gone; the next one takes it"
    return f"in hand since {attempt.begun_at}, {attempt.finished} items finished"
