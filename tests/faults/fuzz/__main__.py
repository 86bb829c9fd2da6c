"""The command `python -m tests.faults.fuzz`, which `make fuzz` calls."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from tests.faults.fuzz.forking import prepare_to_fork


def main() -> int:
    """Runs inputs, prints every fault, and the tally last; 1 where there is a fault."""
    asked = _arguments().parse_args()
    prepare_to_fork()
    from tests.faults.fuzz.runner import Harness, temporary_folder

    numbers = range(asked.count) if asked.only is None else [asked.only]
    kinds: Counter[str] = Counter()
    started, done, faulty = time.monotonic(), 0, 0
    with temporary_folder() as folder:
        harness = Harness(Path(folder).resolve())
        _say(f"ready after {time.monotonic() - started:.0f} s")
        for finding in harness.run(asked.seed, numbers, asked.maker, asked.workers):
            done += 1
            kinds.update({fault.kind for fault in finding.faults} or {"handled"})
            faulty += bool(finding.faults)
            if finding.faults or asked.only is not None:
                _show(finding, asked.seed, asked.maker)
            keep = asked.keep if finding.faults or asked.only is not None else None
            harness.forget(finding.number, keep)
            if done % 100 == 0:
                speed = done / (time.monotonic() - started)
                _say(f"{done} of {len(numbers)}, {faulty} faults, {speed:.1f} a second")
    _say(", ".join(f"{number} {kind}" for kind, number in kinds.most_common()))
    _say(f"{done} inputs, {faulty} faults")
    return int(faulty > 0)


def _show(finding: object, seed: int, wanted: str) -> None:
    from tests.faults.fuzz.runner import Finding

    assert isinstance(finding, Finding)
    case = finding.case
    again = f"--seed {seed} --only {finding.number}" + (f" --maker {wanted}" if wanted else "")
    kinds = ", ".join(dict.fromkeys(fault.kind for fault in finding.faults)) or "handled"
    told = ascii(case.told) if case else ""
    command = ascii(" ".join(case.command))[:120] if case else ""
    _say(f"{kinds} · {finding.maker} · {again} · {told} · {command} · {finding.seconds:.1f} s")
    for fault in finding.faults:
        _say(f"    {fault.kind}: {ascii(fault.what)[:500]}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="how many inputs")
    parser.add_argument("--seed", type=int, default=1, help="other seeds make other inputs")
    parser.add_argument("--only", type=int, help="the number of the one input to run")
    parser.add_argument(
        "--maker", default="", help="a kind of inputs, or kind.name; any unless given"
    )
    parser.add_argument("--keep", type=Path, help="a folder that keeps what ended with a fault")
    parser.add_argument("--workers", type=int, default=2, help="processes at the same time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
