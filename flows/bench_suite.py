"""All that matters on a kind of machine, measured part by part, in a bounded time.

Each part is a `stylefarm bench` of its own: one that runs out of memory, crashes or compiles for
too long costs its own rows and no others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ad_lib.errors import RequestError
from flows.bench import SCHEMA, Wanted, show_rows
from flows.bench_documents import read_document
from flows.stopping import Stopping
from flows.terminal import Terminal

_MINUTES: Mapping[str, float] = {"cpu": 10.0, "gpu": 7.0}
"""For all parts together, unless said otherwise."""

_GRACE_SECONDS = 10.0
"""How long a part may go on with the turn in hand after its time."""

_TINY_SIZES: Mapping[str, str] = {"1024": "128", "512": "64", "256": "64"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One measurement.

    Attributes:
        share: of the time for all parts.
        options: of `stylefarm bench`, by name.
    """

    share: float
    options: Mapping[str, str]

    def arguments(self, *, tiny: bool) -> list[str]:
        """As they are typed; with tiny networks, pictures and batches where that is wanted."""
        options = dict(self.options)
        if tiny:
            family = "sdxl" if "sdxl" in options["backbone"] else "sd15"
            options |= {"backbone": f"{family}-tiny", "steps": "2", "repeats": "1"}
            options["size"] = _TINY_SIZES[options["size"]]
            options["batch"] = "1,2" if "," in options["batch"] else "2"
            if "grid" in options:
                options["grid"] = "2x2"
        return [word for name, value in options.items() for word in (f"--{name}", value)]


_EAGER = "literal,batch,shared-references,early-exit,constant-cross-attention,channels-last"
_LAUNCHED = "literal,channels-last,compiled,captured,fast-kernels"

SUITES: Mapping[str, Sequence[Part]] = {
    "cpu": (
        Part(
            share=0.4,
            options={
                "backbone": "embedded",
                "size": "256",
                "steps": "5",
                "batch": "4",
                "contents": "4",
            },
        ),
        Part(
            share=0.6,
            options={
                "backbone": "embedded",
                "size": "256",
                "steps": "5",
                "batch": "4",
                "grid": "4x4",
                "techniques": "literal,shared-references,channels-last",
            },
        ),
    ),
    "gpu": (
        Part(
            share=0.33,
            options={
                "backbone": "sd15-random",
                "size": "512",
                "steps": "8",
                "batch": "1,4,16,32",
                "techniques": _EAGER,
            },
        ),
        Part(
            share=0.27,
            options={
                "backbone": "sd15-random",
                "size": "512",
                "steps": "8",
                "batch": "1,16",
                "techniques": _LAUNCHED,
            },
        ),
        Part(
            share=0.2,
            options={
                "backbone": "sdxl-random",
                "task": "style-t2i",
                "size": "1024",
                "steps": "3",
                "batch": "1,4",
                "techniques": _EAGER,
            },
        ),
        Part(
            share=0.1,
            options={
                "backbone": "sd15-random",
                "task": "texture-sample",
                "size": "512",
                "steps": "4",
                "batch": "1,16",
                "techniques": "literal,batch,shared-references,channels-last",
            },
        ),
        Part(
            share=0.1,
            options={
                "backbone": "sd15-random",
                "task": "texture-expand",
                "size": "1024",
                "steps": "3",
                "batch": "8",
                "techniques": "literal,shared-references,channels-last",
            },
        ),
    ),
}
"""By kind of machine; what matters most comes first."""


def run_suite(
    terminal: Terminal,
    stopping: Stopping,
    name: str,
    wanted: Wanted,
    *,
    tiny: bool,
    device: str,
    minutes: float | None,
) -> dict[str, Any]:
    """Measures every part of a suite, and gives all rows in one document.

    Raises:
        Stopped: somebody asked to stop; the file has what was measured until then.
        RequestError: no part gave a row.
    """
    from ad_lib.model.devices import find_device
    from tasks.runs.faults import Stopped

    find_device(device)
    wanted.check()
    seconds = 60 * (minutes or _MINUTES[name])
    documents: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="stylefarm-bench-") as folder:
        for number, part in enumerate(SUITES[name]):
            file = Path(folder) / f"{number}.json"
            arguments = [*part.arguments(tiny=tiny), "--device", device]
            terminal.say(f"bench {' '.join(arguments)}", "bold")
            started = time.monotonic()
            ending = _measure(arguments, file, part.share * seconds, stopping)
            if stopping.asked():
                raise Stopped("")
            took = time.monotonic() - started
            if file.exists():
                documents.append(_ended(read_document("--json", file), number, ending))
                wanted.keep(_together(documents))
            terminal.say(f"{ending or 'measured'}, {took:.0f} s")
    if not documents:
        raise RequestError("no part of the suite could be measured; try one alone, as told above")
    whole = _together(documents)
    show_rows(terminal, whole)
    wanted.write(terminal, whole)
    return whole


def _measure(arguments: list[str], file: Path, seconds: float, stopping: Stopping) -> str:
    """Runs one part; how it ended, if not well."""
    command = [sys.executable, "-m", "flows.cli", "bench", *arguments]
    limits = ["--minutes", f"{seconds / 60:.3f}", "--json", str(file)]
    child = subprocess.Popen(
        [*command, *limits], stdout=subprocess.DEVNULL, env=os.environ.copy(), text=True
    )
    with stopping.step(child.kill):
        until = time.monotonic() + seconds + _GRACE_SECONDS
        while child.poll() is None:
            if stopping.asked() or time.monotonic() > until:
                child.kill()
                child.wait()
                return "no time left"
            time.sleep(0.1)
    return "" if child.returncode == 0 else f"ended with code {child.returncode}"


def _ended(document: dict[str, Any], part: int, ending: str) -> dict[str, Any]:
    """With its number in each row, and a note in those that it never measured if it ended early."""
    for row in document["rows"]:
        row["part"] = part
        if ending and not row["seconds"] and not row["note"]:
            row["note"] = ending
    return document


def _together(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of several documents in one; the machine is that of the first."""
    return {
        **documents[0],
        "schema": SCHEMA,
        "settings": [asked for one in documents for asked in one["settings"]],
        "rows": [row for one in documents for row in one["rows"]],
    }
