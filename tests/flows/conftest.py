"""The command line in this process, for whatever renders nothing; and one finished run for all."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from tasks.inputs.weights import check_model
from tasks.work import fork_server
from tasks.work.fork_server import ForkServer
from tasks.work.predicting import predicted
from tests.audit import audit
from tests.bad_images import write_truncated_jpeg
from tests.command_line import NO_PREFECT, Answer, run_command
from tests.conftest import write_pictures
from tests.flows.jobs import write_job
from tests.shared import made_once

Stylefarm = Callable[..., Answer]


@dataclass(frozen=True)
class Finished:
    """A run of 8 items in 4 shards, of which 2 failed; no test changes it.

    Attributes:
        answer: what `stylefarm run` said.
        imported: the modules that its process had imported in the end.
    """

    job: Path
    run: Path
    answer: Answer
    imported: frozenset[str]


NOTE_IMPORTS = """
import sys
from pathlib import Path
from flows.cli import main
from tasks.inputs.weights import check_model
try:
    main()
finally:
    Path("imported").write_text("\\n".join(sys.modules))
"""


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """A command keeps its signals until its process ends, which here goes on."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def finished(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """One run for every test that only looks at one."""
    making = _finished(prefect_server, tmp_path_factory)
    with made_once(tmp_path_factory, "finished", making) as run:
        yield run


@contextmanager
def _finished(server: str, factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = write_pictures(factory.mktemp("finished"))
    write_truncated_jpeg(folder / "content")
    job = write_job(folder)
    answer = run_command("run", job, folder=folder, server=server, start=("-c", NOTE_IMPORTS))
    audit(folder / "run")
    imported = frozenset((folder / "imported").read_text().split())
    yield Finished(job, folder / "run", answer, imported)


@pytest.fixture(scope="session")
def shared_server() -> Iterator[ForkServer]:
    """A fork server for all commands of this process, so that torch is imported once."""
    with fork_server.rendering_fork_server() as server:
        yield server


@pytest.fixture
def no_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that render nothing check the model in this process and fork none."""
    monkeypatch.setattr("tasks.work.fork_server.rendering_fork_server", nullcontext)
    monkeypatch.setattr("tasks.work.child.check_in_child", lambda _, model: check_model(model))
    monkeypatch.setattr("tasks.work.predicting.predict_in_child", lambda _, asked: predicted(asked))


@pytest.fixture
def stylefarm(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shared_server: ForkServer,
) -> Stylefarm:
    """`stylefarm` in this process, in `tmp_path`; its words are folded to one line."""

    monkeypatch.setattr(fork_server, "rendering_fork_server", lambda: nullcontext(shared_server))

    def call(*arguments: str | Path) -> Answer:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setenv("PREFECT_API_URL", NO_PREFECT)
        monkeypatch.setattr(sys, "argv", ["stylefarm", *map(str, arguments)])
        code: Any = 0
        try:
            main()
        except SystemExit as finished:
            code = finished.code
        printed = capsys.readouterr()
        return Answer(code or 0, " ".join(printed.out.split()), " ".join(printed.err.split()))

    return call
