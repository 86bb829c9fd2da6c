"""The process of one input: it makes the input, runs the command on it, and ends with its code.

It is forked from one that has imported everything, and never returns to that one's code.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

from tests.faults.fuzz.cases import Case, Maker
from tests.faults.fuzz.files import state_of
from tests.faults.fuzz.watch import start_watching

ENDED, MAKER_FAILED = "ended", "the harness failed"

MARKER = "executed"

NO_PREFECT = "none:"
"""No URL of a server, so that shards are rendered without Prefect, which takes too long here."""

TOOLS = (
    "gs",
    "gswin64c",
    "magick",
    "convert",
    "ffmpeg",
    "heif-convert",
    "djpeg",
    "git",
    "curl",
    "wget",
    "sh",
    "xdg-open",
)


def live(workplace: Path, make: Maker, draw: random.Random, cpu_seconds: int) -> NoReturn:
    """Makes the input in `workplace/place/case` and runs its command there.

    What it says goes to `workplace/said`, what happens to `workplace/events`, a JSON list a line.
    """
    code = 70
    try:
        os.setsid()
        events = os.open(workplace / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def tell(kind: str, what: Any) -> None:
            os.write(events, f"{json.dumps([kind, what])}\n".encode())

        _redirect(workplace / "said")
        try:
            case = _made(workplace, make, draw, tell)
        except BaseException:
            tell(MAKER_FAILED, traceback.format_exc()[-1500:])
            os._exit(code)
        _limit(cpu_seconds)
        place = workplace / "place"
        # Files that are written and renamed within the case's folder show in the comparison.
        own = [place / "tmp", place / "home" / ".cache"]
        start_watching(tell, (*([place / "case"] if case.may_write else []), *own))
        code = _run(case)
        tell(ENDED, code)
    finally:
        os._exit(code)


def _made(
    workplace: Path, make: Maker, draw: random.Random, tell: Callable[[str, Any], None]
) -> Case:
    place = workplace / "place"
    folder = place / "case"
    for name in ("case", "home", "tmp"):
        (place / name).mkdir(parents=True)
    (place / "secret.txt").write_text("the secret of the neighbour")
    (place / "secret.png").write_bytes(b"\x89PNG")
    _surround(workplace, place)
    case = make(draw, folder)
    os.chdir(folder)
    tell("case", case.to_json())
    (workplace / "before.json").write_text(json.dumps(state_of(place)))
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts here
    tell("memory before", resident_bytes(os.getpid()))
    return case


def _surround(workplace: Path, place: Path) -> None:
    """The environment of the command; a library that starts a program finds ours."""
    kept = {
        name: os.environ[name] for name in ("PYTHONPATH", "LANG", "LC_ALL") if name in os.environ
    }
    os.environ.clear()
    os.environ.update(kept)
    os.environ.update(
        {
            "PATH": str(workplace.parent / "bin"),
            "HOME": str(place / "home"),
            "TMPDIR": str(place / "tmp"),
            "PREFECT_HOME": str(place / "home" / "prefect"),
            "HF_HOME": str(place / "home" / "hf"),
            "HF_HUB_OFFLINE": "1",
            "PREFECT_API_URL": NO_PREFECT,
            "COLUMNS": "100",
            "OMP_NUM_THREADS": "1",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "STYLEFARM_FUZZ_MARK": str(workplace / MARKER),
        }
    )
    import tempfile

    tempfile.tempdir = None


def write_tools(folder: Path) -> None:
    """Programs under the names that libraries start; each leaves a mark."""
    folder.mkdir()
    for name in TOOLS:
        (folder / name).write_text('#!/bin/sh\n: > "$STYLEFARM_FUZZ_MARK"\nexit 1\n')
        (folder / name).chmod(0o755)


def resident_bytes(process: int) -> int:
    """The memory that a process has now; 0 where it has ended."""
    with suppress(OSError, IndexError, ValueError):
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    return 0


def cpu_seconds(process: int) -> float:
    """The processor's time that a process has used; 0 where it has ended."""
    with suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _redirect(said: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)


def _limit(cpu_seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + cpu_seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _render_here() -> None:
    """Commands render in this process, so that everything is seen that rendering does."""
    from flows import crew
    from tasks.inputs import weights
    from tasks.work import child, fork_server, predicting
    from tests.tasks.runs import renderer

    fork_server.rendering_fork_server = nullcontext  # type: ignore[assignment]
    predicting.predict_in_child = lambda server, asked: predicting.predicted(asked)
    child.check_in_child = lambda _, model: weights.check_model(model)
    crew.ChildProcess = lambda *_: nullcontext(renderer())  # type: ignore[assignment,misc]


def _run(case: Case) -> int:
    """The command line in this process; what the process would end with."""
    from flows import cli

    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        stream.reconfigure(encoding=case.encoding, errors=errors)  # type: ignore[union-attr]
    _render_here()
    sys.argv = ["stylefarm", *case.command]
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python's end does
    return code
