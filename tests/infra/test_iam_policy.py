"""The rights of `infra/iam-policy.json` are enough for all that stylefarm does, and all are needed.

Before Swift's S3 server stands a gate that grants these rights alone. Ceph's gateway (`make
test-radosgw`) checks them itself, of a user who has no others.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from flows.cli import app
from flows.exit_codes import ExitCode, explained
from flows.verbs.options import Call
from infra.store import StoreError, open_store
from manifests.job import load_job
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import plan_items
from tests.command_line import run_command
from tests.conftest import write_pictures
from tests.flows.jobs import write_job
from tests.infra.iam_gate import UNKNOWN, IamGate, allows, asked
from tests.infra.radosgw_server import make_user
from tests.infra.recipes import INFRA
from tests.s3_server import IS_RADOSGW, S3Server

pytestmark = pytest.mark.s3

WRITTEN = json.loads((INFRA / "iam-policy.json").read_text(encoding="utf-8"))
RIGHTS = [(one["Sid"], action) for one in WRITTEN["Statement"] for action in one["Action"]]
LARGE = (16 << 20) + 1
"""Bytes of a file that is stored in parts."""
UNNAMED = "data/00000-0123456789ab.tar"
"""A file that no commit names."""


@pytest.fixture(scope="module")
def buckets(s3_server: S3Server) -> dict[str, str]:
    """The names that stand for those in the policy."""
    return {name: s3_server.make_bucket(name) for name in ("studio-inputs", "studio-farm")}


def policy(buckets: dict[str, str], without: tuple[str, str] | None = None) -> dict[str, Any]:
    """The written policy for these buckets, perhaps without one right."""
    text = json.dumps(WRITTEN)
    for name, real in buckets.items():
        text = text.replace(f":::{name}", f":::{real}")
    made = json.loads(text)
    for statement in made["Statement"]:
        kept = [one for one in statement["Action"] if (statement["Sid"], one) != without]
        statement["Action"] = kept
    made["Statement"] = [one for one in made["Statement"] if one["Action"]]
    return made


def environment(server: S3Server, folder: Path) -> dict[str, str]:
    """Where somebody's commands find the server, his keys, and scratch of their own."""
    nothing = {name: os.devnull for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
    return {**server.env(), **nothing, "TMPDIR": str(folder)}


@dataclass(frozen=True)
class Holder:
    """Somebody who has certain rights and no others.

    Attributes:
        server: as he reaches it.
        gate: what stands before it; None where the server itself refuses.
    """

    server: S3Server
    gate: IamGate | None


Hold = Callable[[dict[str, Any]], Holder]


@pytest.fixture(scope="module")
def hold(s3_server: S3Server) -> Iterator[Hold]:
    """Makes somebody with the rights of a policy."""
    with ExitStack() as gates:

        def make(rights: dict[str, Any]) -> Holder:
            if not IS_RADOSGW:
                gate = gates.enter_context(IamGate(s3_server.port, rights))
                return Holder(replace(s3_server, endpoint_url=gate.url), gate)
            name = f"studio-{uuid.uuid4().hex[:12]}"
            access_key, secret_key = make_user(s3_server.folder, name)
            with closing(client_of(s3_server, "iam")) as iam:
                document = json.dumps(rights)
                iam.put_user_policy(UserName=name, PolicyName="least", PolicyDocument=document)
            return Holder(replace(s3_server, access_key=access_key, secret_key=secret_key), None)

        yield make


def client_of(server: S3Server, service: str = "s3") -> Any:
    """boto3's client for somebody who may do everything."""
    make: Any = boto3.client
    return make(
        service,
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=server.region,
    )


@pytest.fixture(scope="module")
def studio(s3_server, buckets, tmp_path_factory) -> Path:
    """A folder with a job from bucket to bucket; the inputs are stored by somebody else."""
    folder = write_pictures(tmp_path_factory.mktemp("studio"))
    put(s3_server, buckets, *sorted(folder.glob("content/[ab].png")), *folder.glob("style/x.png"))
    write_job(
        folder,
        inputs={role: f"s3://{buckets['studio-inputs']}/{role}" for role in ("content", "style")},
        output={"uri": f"s3://{buckets['studio-farm']}/runs/first", "size": 64},
    )
    return folder


def put(server: S3Server, buckets: dict[str, str], *files: Path) -> None:
    with closing(client_of(server)) as client:
        for file in files:
            key = f"{file.parent.name}/{file.name}"
            client.put_object(Bucket=buckets["studio-inputs"], Key=key, Body=file.read_bytes())


def leave_behind(server: S3Server, buckets: dict[str, str]) -> None:
    """What a killed writer leaves: a file that no commit names, and an upload without an end."""
    place = {"Bucket": buckets["studio-farm"], "Key": f"runs/first/{UNNAMED}"}
    with closing(client_of(server)) as client:
        client.put_object(**place, Body=b"1234")
        client.create_multipart_upload(**place)


def damage(server: S3Server, buckets: dict[str, str]) -> None:
    """Spoils a committed tar."""
    with closing(client_of(server)) as client:
        bucket = buckets["studio-farm"]
        found = client.list_objects_v2(Bucket=bucket, Prefix="runs/first/data/")["Contents"]
        tar = next(one["Key"] for one in found if one["Key"].endswith(".tar"))
        client.put_object(Bucket=bucket, Key=tar, Body=b"damaged")


NEEDED_BY = {
    ("ReadInputs", "s3:GetObject"): "plan",
    ("ListInputs", "s3:ListBucket"): "plan",
    ("WriteRuns", "s3:AbortMultipartUpload"): "gc",
    ("WriteRuns", "s3:DeleteObject"): "gc",
    ("WriteRuns", "s3:GetObject"): "status",
    ("WriteRuns", "s3:PutObject"): "stop",
    ("ListRuns", "s3:ListBucket"): "status",
    ("ListRuns", "s3:ListBucketMultipartUploads"): "gc",
}
"""What fails without a right."""


def test_it_is_known_what_needs_each_right():
    assert set(NEEDED_BY) == set(RIGHTS)


@pytest.mark.slow
def test_the_rights_are_enough_for_a_run_and_its_care_and_each_of_them_is_needed(
    s3_server: S3Server,
    buckets: dict[str, str],
    hold: Hold,
    studio: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    holder = hold(policy(buckets))
    run = f"s3://{buckets['studio-farm']}/runs/first"

    def well(*words: str, code: ExitCode = ExitCode.COMPLETE) -> None:
        answer = run_command(*words, folder=studio, env=environment(holder.server, studio))
        assert answer.code == code, (words, answer)

    well("run", "job.yaml")
    put(s3_server, buckets, studio / "content" / "c.png")
    well("extend", "job.yaml")
    damage(s3_server, buckets)
    well("verify", run, code=ExitCode.INCOMPLETE)
    well("work", run)
    leave_behind(s3_server, buckets)
    for name, value in environment(holder.server, studio).items():
        monkeypatch.setenv(name, value)
    store = open_store(run)
    (studio / "large").write_bytes(bytes(LARGE))
    store.put(UNNAMED, studio / "large")  # in parts
    assert at_once("gc", run) == ExitCode.COMPLETE
    assert not list(store.unfinished())
    assert store.find(UNNAMED) is None
    assert at_once("report", run) == ExitCode.COMPLETE
    assert at_once("status", run) == ExitCode.COMPLETE
    if holder.gate:
        assert holder.gate.refused == set()
        assert holder.gate.used == set(RIGHTS)

    for right, verb in NEEDED_BY.items():
        leave_behind(s3_server, buckets)
        lacking = hold(policy(buckets, without=right)).server
        for name, value in environment(lacking, studio).items():
            monkeypatch.setenv(name, value)
        what = str(studio / "job.yaml") if verb == "plan" else run
        assert at_once(verb, what) in (ExitCode.UNUSABLE, ExitCode.INCOMPLETE), right


def at_once(verb: str, what: str) -> int:
    """A command's exit code, in this process, which has everything imported."""
    try:
        if verb == "plan":
            plan_items(resolve_job(load_job(Path(what)), str(Path(what).parent)))
            return ExitCode.COMPLETE
        extra = ["--older-than", "0s", "--delete"] if verb == "gc" else []
        return app([verb, what, *extra], standalone_mode=False, obj=Call()) or ExitCode.COMPLETE
    except StoreError as error:
        return explained(error)[1]


@pytest.mark.parametrize(
    ("method", "target", "action"),
    [
        ("GET", "/bucket/a/key.png", "s3:GetObject"),
        ("GET", "/bucket?list-type=2&prefix=a%2Fb", "s3:ListBucket"),
        ("GET", "/bucket?uploads&prefix=a", "s3:ListBucketMultipartUploads"),
        ("PUT", "/bucket/key", "s3:PutObject"),
        ("PUT", "/bucket/key?partNumber=1&uploadId=x", "s3:PutObject"),
        ("POST", "/bucket/key?uploads", "s3:PutObject"),
        ("DELETE", "/bucket/key", "s3:DeleteObject"),
        ("DELETE", "/bucket/key?uploadId=x", "s3:AbortMultipartUpload"),
        ("GET", "/", UNKNOWN),
        ("PUT", "/bucket", UNKNOWN),
        ("GET", "/bucket/key?acl", UNKNOWN),
        ("PUT", "/bucket/key?tagging", UNKNOWN),
        ("POST", "/bucket?delete", UNKNOWN),
    ],
)
def test_a_request_asks_for_the_action_that_aws_checks(method, target, action):
    assert asked(method, target).action == action


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("/studio-farm?list-type=2&prefix=runs%2Ffirst%2F", True),
        ("/another?list-type=2&prefix=runs%2F", False),
        ("/studio-farm/runs/first/run.json", True),
        ("/studio-farm/elsewhere/run.json", False),
        ("/another/runs/first/run.json", False),
        ("/studio-inputs/content/a.png", True),
    ],
)
def test_the_policy_grants_the_inputs_and_the_runs_alone(target, allowed):
    wanted = asked("GET", target)
    assert any(allows(statement, wanted) for statement in WRITTEN["Statement"]) == allowed


def test_listing_hangs_on_no_prefix():
    """Stores say "not there" instead of "no permission" to those alone who may list: the right is
    looked up for a GET, too, which has no prefix that could fulfil a condition."""
    assert all("Condition" not in statement for statement in WRITTEN["Statement"])


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_inputs_are_never_written(method):
    wanted = asked(method, "/studio-inputs/content/a.png")
    assert not any(allows(statement, wanted) for statement in WRITTEN["Statement"])
