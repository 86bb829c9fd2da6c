"""What `stylefarm status` prints: how far a run is, as its commits tell it."""

from __future__ import annotations

from flows.terminal import Terminal
from tasks.committed import current_index
from tasks.run_folder import open_run


def show_status(terminal: Terminal, uri: str) -> None:
    """Prints the counts and the classes of errors of a run.

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
    terminal.say(
        f"{run.task} on {run.model_id} · {len(index.shards)} of {run.num_shards} "
        f"shards · {index.stats.output_bytes / 1e6:.1f} MB · "
        f"{index.stats.render_seconds:.0f} s rendering"
    )
    terminal.say("complete" if index.complete else "incomplete: 'stylefarm run' goes on")
