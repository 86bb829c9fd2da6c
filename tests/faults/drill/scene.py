"""Where a drill takes place: pictures, some of them poison, a job, and the run's store."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from infra.store import open_store
from tests.fault_proxy import Fault, FaultProxy
from tests.faults.planted_renderers.sitecustomize import FAULTS
from tests.s3_server import start_s3_server

ROOT = Path(__file__).parents[3]
TINY_BACKBONE = ROOT / "tests/golden/public/models/tiny-sd"
PLANTED = ROOT / "tests/faults/planted_renderers"

PARTS = (
    *("attempts/", "commits/", "data/", "generations/", "metadata/", "plan/", "sources/"),
    *("run.json", "index.json", "report.html", "contact"),
)
"""How the names in a run folder begin."""

SHARE_OF_LOCAL_FAULTS = 0.03
SHARE_OF_S3_FAULTS = 0.05
"""Of each of four kinds."""
S3_FAULTS = ("slowdown", "error500", "reset", "ack_lost")

SECONDS_AN_ITEM = 0.3
POISON_EVERY = 8
NUM_HEALING = 2


@dataclass
class Scene:
    """A job with its pictures, and what is planted in them.

    Attributes:
        folder: everything lies in it.
        run_uri: the run folder.
        environment: of every command.
        kinds: what is planted in an item, by the name of its content; an empty text is sound.
        proxy: before the S3 server, where there is one.
        damaged: the shards that were damaged after they were committed.
    """

    folder: Path
    run_uri: str
    environment: dict[str, str]
    kinds: dict[str, str] = field(default_factory=dict)
    proxy: FaultProxy | None = None
    damaged: set[str] = field(default_factory=set)

    @property
    def job(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def fault_log(self) -> Path:
        return self.folder / "store-faults"

    def cure(self) -> bool:
        """From now on the items that heal do no more harm."""
        (self.folder / "cure").touch()
        return True

    def let_store_fail(self, wanted: bool) -> None:
        """Whether the store fails at calls of commands that begin from now on."""
        if self.proxy is not None:
            share = SHARE_OF_S3_FAULTS if wanted else 0.0
            kinds = S3_FAULTS if wanted else ()
            self._num_injected += self.proxy.num_injected
            self.proxy.faults = [Fault(kind, probability=share) for kind in kinds]
        else:
            share = SHARE_OF_LOCAL_FAULTS if wanted else 0.0
            self.environment["STYLEFARM_STORE_FAULTS"] = str(share)

    _num_injected: int = 0

    @property
    def num_faults(self) -> int:
        """How often the store has failed."""
        if self.proxy is not None:
            return self._num_injected + self.proxy.num_injected
        return self.fault_log.stat().st_size if self.fault_log.exists() else 0

    def damage(self, seed: int) -> bool:
        """Damages a tar, the rows and the commit of three shards, once so many are committed."""
        store = open_store(self.run_uri)
        commits = [one.key for one in store.list("commits/")]
        if len(commits) < 3:
            return False
        chosen = random.Random(seed).sample(commits, 3)
        told = [json.loads(store.get(key)) for key in chosen]
        tar, rows = (told[0]["tar"] or told[0]["parquet"])["name"], told[1]["parquet"]["name"]
        store.put(tar, store.get(tar)[:-1000])
        store.put(rows, b"x" + store.get(rows)[1:])
        store.put(chosen[2], store.get(chosen[2])[:100])
        self.damaged = {one["shard"] for one in told}
        return True

    def left_behind(self) -> list[str]:
        """What lies in scratch, and in the run folder beside what a run folder is made of."""
        store = open_store(self.run_uri)
        files = (path for path in self.folder.glob("scratch/**/*") if path.is_file())
        scratch = [path for path in files if path.name != "lock"]
        strange = [one.key for one in store.list() if not one.key.startswith(PARTS)]
        unfinished = [one.key for one in store.unfinished()]
        return [*map(str, scratch), *strange, *unfinished]

    @property
    def is_mended(self) -> bool:
        """Whether every damaged shard is planned anew."""
        store = open_store(self.run_uri)
        told = [json.loads(store.get(one.key)) for one in store.list("generations/")]
        return self.damaged <= {shard for one in told for shard in one.get("superseded", ())}

    def add_pictures(self, names: list[str], poison: list[str]) -> bool:
        """Writes contents, the sound ones and then those that are poison."""
        for number, name in enumerate(names):
            kind = poison[number] if number < len(poison) else ""
            self.kinds[name] = kind
            _picture(name, kind).save(self.folder / "content" / f"{name}.png")
        return True


@contextmanager
def scene(home: Path, name: str, num_items: int, seed: int, store: str) -> Iterator[Scene]:
    """A scene with its first pictures."""
    folder = home / name
    for part in ("content", "style", "scratch"):
        (folder / part).mkdir(parents=True)
    _picture("style", "").save(folder / "style" / "s.png")
    with ExitStack() as stack:
        proxy, uri, addresses = None, str(folder / "run"), {}
        if store == "s3":
            server_folder = stack.enter_context(tempfile.TemporaryDirectory(dir=home))
            server = next(life := start_s3_server(Path(server_folder)))
            stack.callback(life.close)  # type: ignore[attr-defined]
            os.environ.update(server.env())
            proxy = stack.enter_context(FaultProxy(server.port, seed=seed))
            uri = f"s3://{server.make_bucket('drill')}/run"
            addresses = {"AWS_ENDPOINT_URL": proxy.url}
        made = Scene(folder, uri, _environment(folder) | addresses, proxy=proxy)
        names = [f"c{number:04d}" for number in range(num_items)]
        random.Random(seed).shuffle(names)
        made.add_pictures(names, _poison(num_items // POISON_EVERY, seed))
        made.job.write_text(yaml.safe_dump(_job(uri)))
        yield made


def _poison(number: int, seed: int) -> list[str]:
    kinds = [kind for kind in FAULTS if kind != "heals"]
    random.Random(seed).shuffle(kinds)
    return ["heals"] * NUM_HEALING + [kinds[n % len(kinds)] for n in range(number)]


def _picture(name: str, kind: str) -> Image.Image:
    """A picture of its own for each name; poison differs by its size, as it has one colour."""
    chance = np.random.default_rng([*name.encode()])
    if not kind:
        return Image.fromarray(chance.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    side = 48 + int(chance.integers(0, 10**6)) % 997
    colour = (255, 0, 8 + 16 * FAULTS.index(kind))
    return Image.new("RGB", (side, side), colour)


def _job(run_uri: str) -> dict[str, object]:
    return {
        "task": "style-transfer",
        "inputs": {"content": "content", "style": "style"},
        "output": {"uri": run_uri, "size": [64, 64]},
        "settings": {"num_inference_steps": 2},
        "backbone": str(TINY_BACKBONE),
        "compute": {"shard_items": 3, "batch_size": 1, "device": "cpu", "hang_seconds": 2},
        "limits": {"max_failed": "100%", "stop_when_failing": None},
    }


def _environment(folder: Path) -> dict[str, str]:
    paths = [str(PLANTED), str(ROOT)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "TMPDIR": str(folder / "scratch"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_API_URL": "none:",
        "STYLEFARM_PLANTED_SECONDS": str(SECONDS_AN_ITEM),
        "STYLEFARM_PLANTED_CURE": str(folder / "cure"),
        "STYLEFARM_STORE_LOG": str(folder / "store-faults"),
    }
