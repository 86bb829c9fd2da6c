"""Nights of the studio: pictures that are there, a deployment with a schedule, ticks that fire."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tests.farm.service import ServiceFailed
from tests.farm.studio import MACHINES, POOL, Say, Studio

PICTURES = Path(__file__).parents[2] / "manifests/examples/images"
PHOTOS = ("astronaut", "cat", "coffee", "rocket")
LATE = "raccoon"
PAINTINGS = ("bruegel_harvesters", "hokusai_great_wave", "van_gogh_village_street")
DEPLOYMENT = "stylefarm-extend/night"
NIGHT_SECONDS = 240.0
"""In which a schedule must have fired and all be done on a busy machine; 40 to 100 is usual."""

FlowRun = dict[str, Any]


def put_pictures(studio: Studio, role: str, names: Iterable[str]) -> None:
    """Puts example pictures below `photos/` or `paintings/` of the bucket."""
    kind = {"photos": "content", "paintings": "style"}[role]
    client = studio.client()
    for name in names:
        client.upload_file(
            str(PICTURES / kind / f"{name}.jpg"), studio.bucket, f"{role}/{name}.jpg"
        )


def write_job(studio: Studio) -> Path:
    """The job: every photo after every painting, small, two pictures a shard."""
    job = {
        "name": "night",
        "task": "style-transfer",
        "settings": {"num_inference_steps": 10},
        "inputs": {
            "content": f"s3://{studio.bucket}/photos/",
            "style": f"s3://{studio.bucket}/paintings/",
        },
        "output": {"uri": studio.run_uri, "size": 96, "codec": "jpg"},
        "compute": {"device": "cpu", "shard_items": 2, "metrics_port": studio.metrics_port},
    }
    path = studio.folder / "night.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def deploy(studio: Studio, job: Path) -> str:
    """Deploys the job to be extended every minute, by all machines together."""
    arguments = ("--pool", POOL, "--cron", "* * * * *", "--machines", str(len(MACHINES)))
    return studio.command("flows.cli", "deploy", str(job), *arguments)


def wait_for_night(studio: Studio, say: Say) -> list[FlowRun]:
    """Waits for as many flow runs as there are machines, all of which begin after this call.

    Raises:
        ServiceFailed: they did not end as Completed in time, or a service has ended.
    """
    after, deadline = datetime.now(UTC), time.monotonic() + NIGHT_SECONDS
    told: dict[str, str] = {}
    while True:
        studio.check()
        runs = _flow_runs(studio, after)
        for run in runs:
            if told.get(run["name"]) != run["state_name"]:
                told[run["name"]] = run["state_name"]
                say(_told(studio, run))
        states = {run["state_type"] for run in runs}
        if wrong := states & {"FAILED", "CRASHED", "CANCELLED"}:
            raise ServiceFailed(f"a flow run is {', '.join(wrong)}; {_last_words(studio)}")
        if states == {"COMPLETED"} and len(runs) == len(MACHINES):
            return runs
        if time.monotonic() > deadline:
            raise ServiceFailed(
                f"{len(MACHINES)} flow runs of a schedule must be done within "
                f"{NIGHT_SECONDS:.0f} s; there are {told or 'none'}; {_last_words(studio)}"
            )
        time.sleep(1)


def _flow_runs(studio: Studio, after: datetime) -> list[FlowRun]:
    """The first flow runs of the schedule that began after a moment, one for each machine."""
    deployment = studio.ask(f"/deployments/name/{DEPLOYMENT}")["id"]
    wanted = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"start_time": {"after_": after.isoformat()}},
        "sort": "START_TIME_ASC",
    }
    found = studio.ask("/flow_runs/filter", wanted)
    begun = [run for run in found if run["start_time"] is not None]  # not those that are due later
    assert all(run["auto_scheduled"] for run in begun), "somebody else has started a flow run"
    return begun[: len(MACHINES)]


def _told(studio: Studio, run: FlowRun) -> str:
    if run["state_type"] == "RUNNING":
        due = datetime.fromisoformat(run["expected_start_time"]).astimezone()
        page = f"{studio.pages}/runs/flow-run/{run['id']}"
        return f"  {run['name']}, due at {due:%H:%M:%S}: {run['state_name']}, {page}"
    return f"  {run['name']}: {run['state_name']}, {run['state']['message']}"


def _last_words(studio: Studio) -> str:
    return "\n".join(studio.services[name].last_words() for name in MACHINES)
