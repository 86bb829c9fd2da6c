"""What became of the planned items of a shard?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from manifests.identity import seed_of
from manifests.items import Item, Problem, Status


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One member of a shard's tar that an item produced.

    Attributes:
        name: of the member.
        bytes: its length.
        width, height: pixels.
        kind: what it is, such as `image`.
        offset: where its bytes begin in the tar; None until the tar is written.
    """

    name: str
    sha256: str
    bytes: int
    width: int
    height: int
    kind: str = "image"
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one planned item.

    Attributes:
        item: as planned.
        problem: why it failed; None where it is ok.
        outputs: its files in the tar; none where it failed.
        metrics: figures by column name, deterministic up to rounding.
        phash: 64 bits of what it looks like, in hex; near pictures differ in few of them.
        retries: how often it was made again, each time with the next seed.
        seconds, encode_seconds: of rendering, every retry included, and of encoding.
        synthesis_seconds: of the picture that was kept, without encoding and decoding latents.
        peak_memory_bytes: what its batch held on the accelerator at most.
    """

    item: Item
    problem: Problem | None = None
    degraded: bool = False
    outputs: tuple[OutputFile, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    phash: str | None = None
    retries: int = 0
    seconds: float | None = None
    synthesis_seconds: float | None = None
    encode_seconds: float | None = None
    peak_memory_bytes: int | None = None

    @property
    def seed(self) -> int:
        """The seed of the picture that was kept, or of the last one that was tried."""
        return seed_of(self.item.item_id, self.retries) if self.retries else self.item.seed

    @property
    def status(self) -> Status:
        """`ok` or `failed`."""
        return Status.FAILED if self.problem else Status.OK


def content_digest(outcomes: Iterable[Outcome]) -> str:
    """The digest of what the outcomes made; equal for runs that made the same files."""
    return content_digest_of(
        (outcome.item.key, output.sha256) for outcome in outcomes for output in outcome.outputs
    )


def content_digest_of(made: Iterable[tuple[str, str]]) -> str:
    """The sum modulo 2^256 of the sha256 of each `<key> <output sha256>`, in hex.

    It does not depend on an order, and not on how the files were cut into shards.
    """
    total = 0
    for key, sha256 in made:
        total += int.from_bytes(hashlib.sha256(f"{key} {sha256}".encode()).digest(), "big")
    return _in_hex(total)


def add_digests(digests: Iterable[str]) -> str:
    """The content digest of several parts together, none of which shares an item with another."""
    return _in_hex(sum(int(digest, 16) for digest in digests))


def _in_hex(total: int) -> str:
    return f"{total % (1 << 256):064x}"


def lines_digest_of(made: Iterable[tuple[str, str]]) -> str:
    """sha256 over the lines `<key> <output sha256>` in their order, as commits once had it."""
    total = hashlib.sha256()
    for key, sha256 in sorted(made):
        total.update(f"{key} {sha256}\n".encode())
    return total.hexdigest()
