"""`stylefarm study serve` in a process of its own, which may be killed and started again."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.command_line import command_environment


@dataclass
class Serving:
    """A served study.

    Attributes:
        folder: of the study.
        options: of the command, such as `--host`.
        link: what it printed; a server that is started again has the same one.
    """

    folder: Path
    options: tuple[str, ...] = ()
    link: str = ""
    process: subprocess.Popen[str] = field(init=False)

    def start(self) -> Serving:
        command = [sys.executable, "-m", "flows.cli", "study", "serve", str(self.folder)]
        if self.link:
            command += ["--port", self.port]
        self.process = subprocess.Popen(
            [*command, *self.options],
            env=command_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        said = ""
        while not (found := re.search(r"http://\S+/", said)):
            line = self.process.stdout.readline()
            assert line, f"the server ended: {said}"
            said += line
        assert self.link in ("", found[0])
        self.link = found[0]
        return self

    @property
    def port(self) -> str:
        found = re.search(r":([0-9]+)/", self.link)
        assert found
        return found[1]

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> tuple[int, str]:
        """Ends it as Ctrl-C does; its exit code, and what it said since it was started."""
        return self._end(signal.SIGINT)

    def _end(self, number: int) -> tuple[int, str]:
        if self.process.poll() is None:
            self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said
