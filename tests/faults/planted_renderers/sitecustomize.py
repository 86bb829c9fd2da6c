"""Python imports this at its start where its folder is on PYTHONPATH: it plants faults.

What an item does is decided by its content picture: one of a single colour, `(255, 0, 8 + 16 * n)`,
means the n-th of `FAULTS`; every other picture is rendered. The environment says more:

    STYLEFARM_PLANTED_SECONDS  how much longer each batch takes, spread over its steps
    STYLEFARM_PLANTED_GATE     a file; nothing is rendered until it is there
    STYLEFARM_PLANTED_NOTHING  pictures are not rendered but made up
    STYLEFARM_PLANTED_CURE     a file; once it is there, `heals` does no more harm
    STYLEFARM_PLANTED_LEASE    seconds after which a holder that is silent has lost its shard
    STYLEFARM_STORE_FAULTS     the share of a local store's calls that fail, and
    STYLEFARM_STORE_LOG        the file that gets a letter for each of them
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

FAULTS = (
    *("segfault", "exit", "hang", "c_loop", "memory", "exception", "system_exit"),
    *("decode", "measure", "encode", "heals"),
)


def fault_of(image: Any) -> str:
    """The name of the fault that a picture means, or an empty text."""
    bands = image.getextrema()
    if len(bands) != 3 or bands[:2] != ((255, 255), (0, 0)) or bands[2][0] != bands[2][1]:
        return ""
    number, rest = divmod(bands[2][0] - 8, 16)
    return FAULTS[number] if rest == 0 and 0 <= number < len(FAULTS) else ""


def _harm(fault: str) -> None:
    if fault == "segfault":
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)
    if fault == "exit":
        os._exit(3)
    if fault == "hang":
        time.sleep(10**6)
    if fault == "c_loop":
        re.match("(a|aa)+$", "a" * 200 + "b")  # C code that holds the interpreter, without end
    if fault == "memory":
        raise MemoryError("planted")
    if fault == "exception":
        raise KeyError("planted")
    if fault == "system_exit":
        raise SystemExit(0)
    if fault == "heals" and not Path(os.environ.get("STYLEFARM_PLANTED_CURE", "/")).is_file():
        raise RuntimeError("planted, until it is cured")


def _plant_in_batch(batch: ModuleType) -> None:
    rendered = batch.render
    seconds = float(os.environ.get("STYLEFARM_PLANTED_SECONDS", "0"))
    gate = Path(os.environ.get("STYLEFARM_PLANTED_GATE", "/"))

    def render(backbone: Any, requests: Any, *args: Any, **options: Any) -> Any:
        while not gate.exists():
            time.sleep(0.1)
        for request in requests:
            if request.content is not None:
                _harm(fault_of(request.content))
        tell = options.pop("on_step_end", lambda items, steps: None)
        if "STYLEFARM_PLANTED_NOTHING" in os.environ:
            time.sleep(seconds)
            tell(len(requests), 1)
            return [_made_up(batch, request) for request in requests]

        def slowly(items: int, steps: int) -> None:
            time.sleep(seconds / steps)
            tell(items, steps)

        return rendered(backbone, requests, *args, on_step_end=slowly, **options)

    batch.render = render  # type: ignore[attr-defined]


def _made_up(batch: ModuleType, request: Any) -> Any:
    from PIL import Image

    image = Image.new("RGB", (request.width, request.height), (request.seed % 256, 90, 30))
    return batch.Result(
        image=image,
        style_losses=(),
        content_losses=(),
        seconds=0.01,
        synthesis_seconds=0.01,
        seed=request.seed,
    )


def _plant_in_decode(decode: ModuleType) -> None:
    fit_role = decode.fit_role

    def fitted(role: str, image: Any, *args: Any) -> Any:
        if role == "content" and fault_of(image.convert("RGB")) == "decode":
            raise RuntimeError("planted in decoding")
        return fit_role(role, image, *args)

    decode.fit_role = fitted  # type: ignore[attr-defined]


def _plant_in_encode(encode: ModuleType) -> None:
    finished_outcome, now = encode.finished_outcome, threading.local()

    def finished(item: Any, rendered: Any, *args: Any) -> Any:
        content = rendered.request.content
        now.fault = fault_of(content) if content is not None else ""
        return finished_outcome(item, rendered, *args)

    def raising(fault: str, sound: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if now.fault == fault:
                raise LookupError(f"planted: {fault}")
            return sound(*args, **options)

        return call

    encode.finished_outcome = finished  # type: ignore[attr-defined]
    encode.Judge.measure = raising("measure", encode.Judge.measure)  # type: ignore[attr-defined]
    encode.encode_image = raising("encode", encode.encode_image)  # type: ignore[attr-defined]


def _plant_in_holding(holding: ModuleType) -> None:
    if seconds := float(os.environ.get("STYLEFARM_PLANTED_LEASE", "0")):
        holding.LEASE_SECONDS, holding.BEAT_SECONDS = seconds, seconds / 6  # type: ignore[attr-defined]
        holding.NUM_BEATS = round(60 / holding.BEAT_SECONDS)  # type: ignore[attr-defined]


def _plant_in_store(local_store: ModuleType) -> None:
    share = float(os.environ.get("STYLEFARM_STORE_FAULTS", "0"))
    if not share:
        return
    chance = random.Random(os.getpid())

    def failing(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if chance.random() < share:
                with Path(os.environ["STYLEFARM_STORE_LOG"]).open("a") as log:
                    log.write("x")
                raise local_store.StoreUnreachable("planted: the store does not answer")
            return method(*args, **options)

        return call

    store = local_store.LocalStore
    for name in ("put", "put_if_absent", "get", "find"):
        setattr(store, name, failing(getattr(store, name)))


PLANTED = {
    "ad_lib.batch": _plant_in_batch,
    "tasks.work.decode": _plant_in_decode,
    "tasks.work.encode": _plant_in_encode,
    "tasks.work.holding": _plant_in_holding,
    "infra.local_store": _plant_in_store,
}


class _Planter(importlib.abc.MetaPathFinder):
    """Changes a module as soon as it is imported; nothing is imported for it."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        plant = PLANTED.get(fullname)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if plant else None
        if plant is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            plant(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if __name__ == "sitecustomize":  # not where a test only asks for the names of the faults
    sys.meta_path.insert(0, _Planter())
