"""`python -m tests.faults.drill --seed 7 --launches 40 --workers 3`: kills workers, then judges."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.audit import Audit, audit
from tests.faults.drill.launches import Launcher
from tests.faults.drill.scene import Scene, scene
from tests.faults.drill.verdict import judge
from tests.s3_server import IS_RADOSGW, why_no_server

LATE_FILES, DAMAGE, RETRY = 0.35, 0.5, 0.7
"""The shares of launches after which files come late, stored ones are damaged, failed items are
retried."""

GC = (0.6, 0.85)
"""The shares of launches after which garbage is collected."""

LATE = ["d0001", "d0002", "d0003", "d0004"]
LATE_POISON = ["exit"]

WORK = 1.5
"""How much longer than planning a command takes to commit its first shard."""

RUN_EVERY, READER_EVERY = 5, 7
"""Of the launches; the others are `work`."""

READERS = (("status", "--json"), ("failures", "--json"), ("report",), ("verify", "--dry-run"))
"""What is looked at in the middle of it all."""


def main() -> int:
    asked = _arguments()
    if asked.store == "s3" and (reason := why_no_server()):
        _say(reason)
        return 0 if IS_RADOSGW else 1
    with tempfile.TemporaryDirectory(prefix="drill-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) if asked.keep is None else Path(asked.keep).resolve()
        items = asked.items or max(24, 2 * asked.launches)
        with scene(home, "undisturbed", items, asked.seed, "local") as quiet:
            expected, seconds = _undisturbed(quiet, asked.seed)
        with scene(home, "drilled", items, asked.seed, asked.store) as loud:
            launcher = Launcher(loud, asked.seed)
            try:
                _drill(loud, launcher, seconds, asked.launches, asked.workers)
                return _judged(loud, launcher, expected, home)
            finally:
                launcher.end_all()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--launches", type=int, default=40)
    parser.add_argument("--workers", type=int, default=3, help="that run at the same time")
    parser.add_argument("--store", choices=("local", "s3"), default="local")
    parser.add_argument("--items", type=int, help="at first; unless given, twice the launches")
    parser.add_argument("--keep", metavar="FOLDER", help="where everything is left")
    return parser.parse_args()


def _undisturbed(quiet: Scene, seed: int) -> tuple[Audit, float]:
    """The same files and commands, and nobody is killed; also the seconds that planning takes."""
    launcher = Launcher(quiet, seed)
    started = time.monotonic()
    seconds = launcher.run("plan", str(quiet.job))
    quiet.add_pictures(LATE, LATE_POISON)
    launcher.run("extend", str(quiet.job))
    quiet.cure()
    launcher.run("retry", quiet.run_uri)
    if launcher.complaints:
        _say("\n".join(launcher.complaints))
    found = audit(quiet.run_uri)
    took = time.monotonic() - started
    _say(f"undisturbed: {_told(found)}, {took:.0f} s, {seconds:.0f} of them for planning")
    return found, seconds


def _drill(
    loud: Scene, launcher: Launcher, seconds: float, num_launches: int, num_workers: int
) -> None:
    """Launches and kills, with all that an operator does in the middle; then runs to the end."""
    loud.let_store_fail(True)
    while not _is_planned(loud):
        patience = 1 + launcher.launched / 4  # this machine may be slower by now
        launcher.launch("plan", str(loud.job), seconds=patience * seconds)
        _wait(launcher, lambda: len(launcher.living) == 0)
    due = _Due(loud, launcher.seed)
    num_before = launcher.launched
    while (number := launcher.launched - num_before) < num_launches:
        command = due.command(number / num_launches)
        launcher.launch(*(command or _worker_command(loud, launcher)), seconds=WORK * seconds)
        _wait(launcher, lambda: len(launcher.living) < num_workers)
    _wait(launcher, lambda: len(launcher.living) == 0)
    loud.let_store_fail(False)
    due.prepare_the_rest()
    _say(f"{launcher.kills} kills, {loud.num_faults} faults; now to the end, undisturbed")
    job, uri = str(loud.job), loud.run_uri
    for command in (("verify", uri), ("run", job), ("extend", job), ("retry", uri)):
        _say(f"{command[0]}: {launcher.run(*command):.0f} s")
    launcher.wait_for_orphans()


class _Due:
    """What an operator does in the middle of a drill, each thing when its time has come."""

    def __init__(self, loud: Scene, seed: int) -> None:
        self._loud = loud
        job, uri = str(loud.job), loud.run_uri
        collect = ("gc", uri, "--older-than", "0s", "--delete")
        self._todo: list[tuple[float, Callable[[], bool], tuple[str, ...]]] = [
            (LATE_FILES, lambda: loud.add_pictures(LATE, LATE_POISON), ("extend", job)),
            (DAMAGE, lambda: loud.damage(seed), ("verify", uri)),
            (RETRY, loud.cure, ("retry", uri)),
            *((share, lambda: True, collect) for share in GC),
        ]

    def command(self, share: float) -> tuple[str, ...]:
        """The next command that is due after this share of the launches; empty where none is.

        A damage is mended before anything else is done, as no worker can go on beside it.
        """
        if not self._loud.is_mended:
            return ("verify", self._loud.run_uri)
        for number, (at, prepare, command) in enumerate(self._todo):
            if share >= at and prepare():
                del self._todo[number]
                return command
        return ()

    def prepare_the_rest(self) -> None:
        """What there was no time for."""
        for _, prepare, _ in self._todo:
            prepare()
        self._loud.cure()


def _worker_command(loud: Scene, launcher: Launcher) -> tuple[str, ...]:
    """`run` now and then, the first launch too; now and then a reader; `work` otherwise."""
    nth, rest = divmod(launcher.launched, READER_EVERY)
    if rest == READER_EVERY - 1:
        verb, *options = READERS[nth % len(READERS)]
        return (verb, loud.run_uri, *options)
    if launcher.launched % RUN_EVERY == 0:
        return ("run", str(loud.job))
    return ("work", loud.run_uri, "--device", "cpu")


def _wait(launcher: Launcher, until: Callable[[], bool]) -> None:
    while True:
        for one in launcher.look_around():
            how = one.killed_by or f"ended with {one.process.returncode}"
            _say(f"launch {one.number}: {one.command[0]}: {how}")
        if until():
            return
        time.sleep(0.05)


def _is_planned(loud: Scene) -> bool:
    from infra.store import StoreError, open_store

    try:
        return open_store(loud.run_uri).find("run.json") is not None
    except StoreError:
        return False


def _judged(loud: Scene, launcher: Launcher, expected: Audit, home: Path) -> int:
    found = _audited(loud, launcher, home / "before-gc")
    verdict = judge(found, expected, loud.kinds, launcher.died_at)
    if found.counts != expected.counts:
        launcher.complaints.append(f"{_told(found)}; undisturbed: {_told(expected)}")
    launcher.run("gc", loud.run_uri, "--older-than", "0s", "--delete")
    swept = _audited(loud, launcher, home / "after-gc")
    if swept.orphans or swept.content_digest != found.content_digest:
        launcher.complaints.append(f"after gc: {_told(swept)}, {swept.orphans[:9]} lie about")
    if left := loud.left_behind():
        launcher.complaints.append(f"after gc there is left: {', '.join(left[:9])}")
    launcher.run("verify", loud.run_uri, codes=(0,))
    if not loud.is_mended:
        launcher.complaints.append(f"verify did not name all that is damaged: {loud.damaged}")
    complaints = launcher.complaints
    _say(f"{_told(found)}, {len(found.orphans)} files that no commit names, none after gc")
    for name in ("wrongly", "begun_twice"):
        if listed := getattr(verdict, name):
            _say(f"{name.replace('_', ' ')}: {', '.join(listed[:20])}")
    for complaint in complaints:
        _say(f"COMPLAINT: {complaint}")
    sys.stdout.write(f"{verdict.told(launcher.kills, loud.num_faults)}\n")
    return 0 if verdict.is_sound and not complaints else 1


def _audited(loud: Scene, launcher: Launcher, copy: Path) -> Audit:
    folder = Path(loud.run_uri)
    if loud.proxy is not None:
        from tests.tasks.runs import download

        folder = download(loud.run_uri, copy)
    try:
        return audit(folder)
    except (AssertionError, KeyError, OSError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        launcher.complaints.append(f"the audit: {type(error).__name__} at {where.line}: {error}")
        return audit(folder, published=False, complete=False)


def _told(found: Audit) -> str:
    counts = found.counts
    return f"{counts['ok']} ok and {counts['failed']} failed of {counts['planned']} items"


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
