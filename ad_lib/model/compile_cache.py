"""Where do compiled kernels lie, so that other processes need not compile them again?

Invariant: a file is whole or it is not read. Files are written beside their name and renamed, so
that any number of processes may share the folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "STYLEFARM_COMPILE_CACHE"
_DIGEST_BYTES = hashlib.sha256().digest_size


def cache_folder() -> Path:
    """`STYLEFARM_COMPILE_CACHE`, or a folder in the user's cache; its files are trusted."""
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(chosen)
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache) / "stylefarm" / "compiled"


class CompileCache:
    """What torch.compile made for one model on one kind of device.

    Args:
        folder: of all models.
        facts: what the kernels depend on: versions, device, model, techniques.
    """

    def __init__(self, folder: Path, *facts: object) -> None:
        named = "\n".join(map(str, (torch.__version__, *facts)))
        self._folder = folder / hashlib.sha256(named.encode()).hexdigest()[:32]
        self._is_loaded = False
        self._written: Path | None = None
        self._num_compiled = 0

    def load(self) -> None:
        """Hands torch what earlier processes left, once."""
        if self._is_loaded:
            return
        self._is_loaded = True
        self._num_compiled = _num_compiled()
        for file in sorted(self._folder.glob("*.bin")):
            try:
                content = _unpacked(file.read_bytes())
                if torch.compiler.load_cache_artifacts(content) is None:
                    raise ValueError("torch does not read it")
            except (OSError, ValueError) as error:
                logger.warning("%s is left alone, its kernels are compiled again: %s", file, error)

    def save(self) -> None:
        """Keeps what this process has compiled, if it compiled anything since the last time."""
        if self._num_compiled == _num_compiled():
            return
        self._num_compiled = _num_compiled()
        saved = torch.compiler.save_cache_artifacts()
        if saved is None:
            return
        content, _ = saved
        try:
            self._write(content)
        except OSError as error:
            logger.warning("compiled kernels are not kept in %s: %s", self._folder, error)

    def _write(self, content: bytes) -> None:
        """One file for each process that compiled; a later one of the same process replaces it."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        digest = hashlib.sha256(content)
        file = self._folder / f"{digest.hexdigest()[:32]}.bin"
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as unfinished:
            unfinished.write(digest.digest() + content)
        Path(unfinished.name).replace(file)
        if self._written is not None and self._written != file:
            self._written.unlink(missing_ok=True)
        self._written = file


def _unpacked(stored: bytes) -> bytes:
    """The content of a file.

    Raises:
        ValueError: its digest is another one.
    """
    digest, content = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("it is damaged")
    return content


def _num_compiled() -> int:
    """How many graphs this process compiled because no cache had them."""
    from torch._dynamo.utils import counters  # loading it takes seconds

    return counters["inductor"]["fxgraph_cache_miss"]
