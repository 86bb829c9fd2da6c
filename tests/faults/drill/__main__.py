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

LATE_FILES, RETRY = 0.35, 0.7
"""The shares of launches after which files come late, and after which failed items are retried."""

LATE = ["d0001", "d0002", "d0003", "d0004"]
LATE_POISON = ["exit"]

WORK = 1.5
"""How much longer than planning a command takes to commit its first shard."""

SHARE_OF_RUNS = 0.2
"""Of the launches; the others are `work`."""


def main() -> int:
    asked = _arguments()
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
    """Launches and kills, with late files and a retry in the middle; then runs to the end."""
    loud.let_store_fail(True)
    while not _is_planned(loud):
        launcher.launch("plan", str(loud.job), seconds=seconds)
        _wait(launcher, lambda: len(launcher.living) == 0)
    late, retried = False, False
    while launcher.launched < num_launches:
        share = launcher.launched / num_launches
        if not late and share >= LATE_FILES:
            late = True
            loud.add_pictures(LATE, LATE_POISON)
            launcher.launch("extend", str(loud.job), seconds=WORK * seconds)
        elif not retried and share >= RETRY:
            retried = True
            loud.cure()
            launcher.launch("retry", loud.run_uri, seconds=WORK * seconds)
        else:
            launcher.launch(*_worker_command(loud, launcher), seconds=WORK * seconds)
        _wait(launcher, lambda: len(launcher.living) < num_workers)
    _wait(launcher, lambda: len(launcher.living) == 0)
    loud.let_store_fail(False)
    loud.cure()
    if not late:
        loud.add_pictures(LATE, LATE_POISON)
    _say(f"{launcher.kills} kills, {loud.num_faults} faults; now to the end, undisturbed")
    for command in (("run", str(loud.job)), ("extend", str(loud.job)), ("retry", loud.run_uri)):
        _say(f"{command[0]}: {launcher.run(*command):.0f} s")
    launcher.wait_for_orphans()


def _worker_command(loud: Scene, launcher: Launcher) -> tuple[str, ...]:
    """`run` now and then, the first launch too; `work` otherwise."""
    nth = launcher.launched % round(1 / SHARE_OF_RUNS)
    return ("run", str(loud.job)) if nth == 0 else ("work", loud.run_uri, "--device", "cpu")


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
    folder = Path(loud.run_uri)
    if loud.proxy is not None:
        from tests.tasks.runs import download

        folder = download(loud.run_uri, home / "downloaded")
    complaints = list(launcher.complaints)
    try:
        found = audit(folder)
    except (AssertionError, KeyError, OSError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        complaints.append(f"the audit: {type(error).__name__} at {where.line}: {error}")
        found = audit(folder, published=False, complete=False)
    verdict = judge(found, expected, loud.kinds, launcher.died_at)
    if found.counts != expected.counts:
        complaints.append(f"{_told(found)}; undisturbed: {_told(expected)}")
    _say(f"{_told(found)}, {len(found.orphans)} files that no commit names")
    for name in ("wrongly", "begun_twice"):
        if listed := getattr(verdict, name):
            _say(f"{name.replace('_', ' ')}: {', '.join(listed[:20])}")
    for complaint in complaints:
        _say(f"COMPLAINT: {complaint}")
    sys.stdout.write(f"{verdict.told(launcher.kills, loud.num_faults)}\n")
    return 0 if verdict.is_sound and not complaints else 1


def _told(found: Audit) -> str:
    counts = found.counts
    return f"{counts['ok']} ok and {counts['failed']} failed of {counts['planned']} items"


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
