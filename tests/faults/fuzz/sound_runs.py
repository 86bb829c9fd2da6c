"""Sound run folders, made once before anything hostile runs; what is hostile is a copy of them."""

from __future__ import annotations

from pathlib import Path

from tests.faults.fuzz import sound

NAMES = ("complete", "half", "planned", "sweep")
"""All shards are committed, the first alone, none; and a complete sweep with a contact sheet."""

_home: list[Path] = []


def use(folder: Path) -> None:
    """Says where the sound runs are."""
    _home[:] = [folder]


def home() -> Path:
    """Where the sound runs are, a folder for each name with `job.yaml` and `run/`."""
    return _home[0]


def make(folder: Path) -> None:
    """Makes the sound runs: four pictures to a run, one of which is damaged."""
    from manifests.job import load_job
    from tasks.inputs.resolving import resolve_job
    from tasks.plans.planning import plan_items, store_plan
    from tasks.results.publishing import publish
    from tests.tasks.runs import work_here

    sound.write_images(folder / "content", "abc")
    (folder / "content" / "d.png").write_bytes(sound.image_bytes()[:500])
    (folder / "style.png").write_bytes(sound.image_bytes("png", "RGB", 9))
    for name in NAMES:
        content = sound.job(
            inputs={"content": str(folder / "content"), "style": str(folder / "style.png")},
            compute__shard_items=2,
            sweep={"learning_rate": [0.01, 0.05]} if name == "sweep" else None,
        )
        (folder / name).mkdir()
        sound.write_job(folder / name, content)
        resolved = resolve_job(load_job(folder / name / "job.yaml"), str(folder / name))
        uri = store_plan(resolved, plan_items(resolved)).uri
        if name == "planned":
            continue
        work_here(uri, max_shards=1 if name == "half" else None)
        publish(uri)
