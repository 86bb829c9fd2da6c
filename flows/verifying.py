"""What `stylefarm verify` prints: what is damaged, and what was done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from flows.bars import counting_bar
from flows.exit_codes import ExitCode
from flows.terminal import Terminal, counted
from manifests.generations import generation_name
from tasks.keeping.repairing import Mended, mend
from tasks.keeping.verifying import Verified, verify

MAX_FINDINGS = 200
"""Damaged files that are printed one by one; `--json` tells all."""


def verify_run(terminal: Terminal, uri: str, *, dry_run: bool, as_json: bool) -> ExitCode:
    """Reads a run, says what is damaged, and plans that anew unless it is a dry run.

    Raises:
        RunFolderError: there is no run that can be read, or a later version wrote it.
        StoreError: the store refuses or does not answer.
    """
    with counting_bar(terminal, "reading shards") as advance:
        verified = verify(uri, advance)
    _tell(terminal, verified)
    mended = Mended() if dry_run else mend(uri, verified)
    if verified.findings:
        terminal.say_list(_next_steps(uri, verified, mended, dry_run), rest="more")
    if as_json:
        terminal.print_json(_document(uri, verified, mended))
    if not verified.findings:
        return ExitCode.COMPLETE
    return ExitCode.UNUSABLE if _beyond(verified) else ExitCode.INCOMPLETE


def _beyond(verified: Verified) -> list[str]:
    """What only a copy brings back."""
    return [one.name for one in verified.findings if one.remedy == "restore"]


def _document(uri: str, verified: Verified, mended: Mended) -> dict[str, object]:
    return {
        "run": uri,
        "sound": not verified.findings,
        "shards": verified.num_shards,
        "bytes": verified.num_bytes,
        "pending_shards": verified.num_pending,
        "planned": [
            {
                "generation": one.number,
                "items": one.num_items,
                "shards": one.num_shards,
                "superseded": list(one.superseded),
            }
            for one in mended.generations
        ],
        "moved": dict(mended.moved),
        "removed": list(mended.removed),
        "findings": [asdict(one) for one in verified.findings],
    }


def _tell(terminal: Terminal, verified: Verified) -> None:
    """Says what was read, and what is damaged."""
    read = f"{counted(verified.num_shards, 'shard')}, {verified.num_bytes / 1e6:.1f} MB read"
    if verified.num_pending:
        read += f", {counted(verified.num_pending, 'shard')} pending"
    if not verified.findings:
        terminal.say(f"Sound: {read}; every file is what its record says.")
        return
    for one in verified.findings[:MAX_FINDINGS]:
        terminal.say(one.sentence, "red")
    if (left := len(verified.findings) - MAX_FINDINGS) > 0:
        terminal.say(f"… and {left} more, which --json tells", "red")
    terminal.say(f"{counted(len(verified.findings), 'file')} not as recorded: {read}.")


def _next_steps(uri: str, verified: Verified, mended: Mended, dry_run: bool) -> Sequence[str]:
    """What was done, and what the user does now."""
    if beyond := _beyond(verified):
        names = ", ".join(beyond[:5]) + (f" and {len(beyond) - 5} more" if beyond[5:] else "")
        return [f"Restore {names} from a copy, as nothing else can: until then nothing is planned."]
    if dry_run:
        return ["Dry run: nothing was written. Without --dry-run all of this is planned anew."]
    steps = [f"{name} is now {place}" for name, place in mended.moved.items()]
    for one in mended.generations:
        items = counted(one.num_items, "item")
        shards = counted(len(one.superseded), "shard")
        steps.append(f"{generation_name(one.number)} plans {items} of {shards} anew.")
    if mended.generations or any(one.remedy == "render" for one in verified.findings):
        steps.append(f"'stylefarm run' or 'stylefarm work {uri}' renders what is lost.")
    if mended.removed:
        steps.append(f"'stylefarm report {uri}' makes derived files again.")
    return steps
