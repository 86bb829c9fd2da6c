"""`stylefarm deploy`, `gpu-limit` and `automations`, against a real Prefect server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.blocks.webhook import Webhook
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import temporary_settings

from flows.automations import contents, show_automations
from flows.deploying import (
    Asked,
    check_asked,
    deploy_job,
    deployments_name,
    wanted_deployments,
)
from flows.job import collect_garbage, extend_job, run_job, work_on_run
from flows.terminal import Terminal
from flows.verbs.deploying import _variables
from flows.work_pools import limit_hosts
from infra.prefect_api import PrefectUnavailable, configured_api
from manifests.budget import Budget
from manifests.errors import JobError
from manifests.job import Job, load_job
from tasks.inputs.output_place import OutputPlace
from tests.command_line import command_environment
from tests.flows.conftest import Stylefarm
from tests.flows.jobs import write_job

PREFECT_YAML = Path(__file__).parents[2] / "infra" / "prefect.yaml"
WATCHING = {"stylefarm-heartbeat-lost", "stylefarm-never-began"}
"""The automations that notify nobody."""

FLOWS = {flow.name: flow for flow in (run_job, extend_job, work_on_run, collect_garbage)}


WATCHING = {"stylefarm-heartbeat-lost", "stylefarm-never-began"}
"""The automations that notify nobody."""


@pytest.fixture
def client(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    """A client of the server, which is the configured one of this process, too."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    with temporary_settings({"api.url": prefect_server}), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def job(pictures: Path) -> Job:
    return load_job(write_job(pictures))


def deploy(job: Job, folder: Path, name: str, **asked: Any) -> None:
    place = OutputPlace(str(folder / "run"))
    deploy_job(Terminal(), job, name=name, base=str(folder), place=place, asked=Asked(**asked))


def deployments(client: SyncPrefectClient, name: str) -> dict[str, Any]:
    """The deployments of that name, by the names of their flows."""
    found = [client.read_deployment_by_name(f"{flow}/{name}") for flow in FLOWS]
    return dict(zip(FLOWS, found, strict=True))


def crons(deployment: Any) -> list[tuple[str, str]]:
    return [(one.schedule.cron, one.schedule.timezone) for one in deployment.schedules]


def test_deploying_again_updates_the_same_deployments_and_keeps_their_schedules(
    client: SyncPrefectClient,
    job: Job,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("COLUMNS", "80")
    deploy(job, pictures, "monet", pool="first", cron="0 2 * * *", timezone="Europe/Zurich")
    told = capsys.readouterr().out
    assert "Made the work pool first, of type process." in told
    assert "prefect worker start --pool first --type process --limit 1" in told
    first = deployments(client, "monet")
    assert {flow: crons(one) for flow, one in first.items()} == {
        "stylefarm-run": [],
        "stylefarm-extend": [("0 2 * * *", "Europe/Zurich")],
        "stylefarm-work": [],
        "stylefarm-gc": [],
    }
    for flow, one in first.items():
        assert f"prefect deployment run '{flow}/monet'" in told
        assert one.entrypoint == f"flows.job.{FLOWS[flow].fn.__name__}"
        assert (one.pull_steps, one.path, one.storage_document_id) == ([], None, None)
        assert one.global_concurrency_limit is None
        assert one.tags == ["stylefarm"]
        assert one.enforce_parameter_schema
    named = job.model_copy(update={"name": "monet"})
    assert Job.model_validate(first["stylefarm-run"].parameters["job"]) == named
    assert set(automations(client)) >= WATCHING, "who is killed is known to be"

    (schedule,) = first["stylefarm-extend"].schedules
    client.update_deployment_schedule(first["stylefarm-extend"].id, schedule.id, active=False)
    deploy(job, pictures, "monet", pool="first", budget=Budget(max_gpu_hours=2))
    told = capsys.readouterr().out
    assert "Made the work pool" not in told
    assert "updated" in told
    assert "Zurich (off)" in " ".join(told.split())
    assert max(map(len, told.splitlines())) <= 80
    second = deployments(client, "monet")
    assert {one.id for one in second.values()} == {one.id for one in first.values()}
    assert crons(second["stylefarm-extend"]) == [("0 2 * * *", "Europe/Zurich")]
    assert [one.active for one in second["stylefarm-extend"].schedules] == [False]
    assert second.pop("stylefarm-gc").parameters == first["stylefarm-gc"].parameters
    assert [one.parameters["budget"] for one in second.values()] == [{"max_gpu_hours": 2}] * 3


def test_flow_runs_of_a_job_wait_in_its_own_queue_and_those_that_join_do_not(
    client: SyncPrefectClient, job: Job, pictures: Path
):
    deploy(job, pictures, "alone", pool="own")
    found = deployments(client, "alone")
    joins = found.pop("stylefarm-work")
    assert joins.work_queue_name == "default"
    assert {one.work_queue_name for one in found.values()} == {"alone"}
    assert client.read_work_queue_by_name("alone", "own").concurrency_limit == 1

    deploy(job, pictures, "alone", pool="own", machines=2, cron="* * * * *", only="extend")
    again = client.read_deployment_by_name("stylefarm-extend/alone")
    assert crons(again) == [("* * * * *", "UTC")] * 2
    assert client.read_work_queue_by_name("alone", "own").concurrency_limit == 2
    deploy(job, pictures, "alone", pool="own", only="gc")
    assert client.read_work_queue_by_name("alone", "own").concurrency_limit == 2


def scheduled(job: Job, uri: str, **asked: Any) -> set[str]:
    place = OutputPlace(uri)
    wanted = wanted_deployments(
        job, name="any", base="/", place=place, asked=Asked(cron="0 2 * * *", **asked)
    )
    return {one.flow.name for one in wanted if one.is_scheduled}


def test_a_schedule_makes_what_is_new_or_a_folder_each_day(job: Job):
    assert scheduled(job, "/runs/one") == {"stylefarm-extend"}
    assert scheduled(job, "/runs/{date}") == {"stylefarm-run"}
    assert scheduled(job, "/runs/one", only="run") == {"stylefarm-run"}
    assert scheduled(job, "/runs/one", keep="3d") == {"stylefarm-extend", "stylefarm-gc"}


def test_what_joins_or_cleans_a_run_with_a_date_takes_the_latest(job: Job):
    for uri, run in (("s3://b/{date}/x", "s3://b/latest/x"), ("s3://b/runs", "s3://b/runs")):
        wanted = wanted_deployments(
            job, name="any", base="/", place=OutputPlace(uri), asked=Asked(keep="12h")
        )
        parameters = {one.flow.name: one.parameters for one in wanted}
        assert parameters["stylefarm-work"] == {"run": run}
        assert parameters["stylefarm-gc"] == {"run": run, "older_than": "12h"}


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"cron": "at night"}, "--cron takes five fields .*; got .at night."),
        ({"cron": "0 2 * * *", "timezone": "Mars"}, "--timezone takes a name .* got 'Mars'"),
        ({"keep": "long"}, "--keep takes a number and .* got 'long'"),
        ({"pool": "a/b"}, "--pool takes a name without .* got 'a/b'"),
        ({"queue": " "}, "--queue takes a name"),
    ],
)
def test_what_no_deployment_can_have_is_refused_in_a_sentence(asked: dict[str, Any], sentence: str):
    with pytest.raises(JobError, match=sentence):
        check_asked(Asked(**asked))


def test_deployments_are_named_like_the_job_or_its_file(job: Job):
    assert deployments_name(job, Path("nights/monet.yaml")) == "monet"
    named = job.model_copy(update={"name": "a/b"})
    with pytest.raises(JobError, match="a deployment's name cannot hold /; got 'a/b'"):
        deployments_name(named, Path("monet.yaml"))


def test_without_a_server_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with (
        temporary_settings({"api.url": None}),
        pytest.raises(PrefectUnavailable, match="'prefect server start', and name it with"),
    ):
        configured_api()


def test_a_server_whose_url_has_a_user_and_a_password_answers(monkeypatch: pytest.MonkeyPatch):
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://user:password@127.0.0.1:{server.server_port}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert configured_api() == url
    monkeypatch.setenv("PREFECT_API_URL", "user:password@host/api")
    with pytest.raises(PrefectUnavailable, match="names host/api, which does not answer"):
        configured_api()


def test_commands_that_need_a_server_end_with_a_sentence_where_it_does_not_answer(
    stylefarm: Stylefarm, pictures: Path
):
    for arguments in (["deploy", write_job(pictures)], ["gpu-limit", "a=1"], ["automations"]):
        answer = stylefarm(*arguments)
        assert answer.code == 2
        assert "names none:, which does not answer" in answer.err
    answer = stylefarm("gpu-limit", "a=none")
    assert answer.code == 2
    assert "a=none: give a number from 1 to 999" in answer.err


def kubernetes_pool(client: SyncPrefectClient, name: str) -> None:
    """A work pool whose template has what a Kubernetes one's has, as far as it matters here."""
    known = {
        "env": {"type": "object"},
        "image": {"type": "string"},
        "namespace": {"type": "string"},
    }
    template = {
        "job_configuration": {key: f"{{{{ {key} }}}}" for key in known},
        "variables": {"type": "object", "properties": known},
    }
    client.create_work_pool(
        WorkPoolCreate(name=name, type="kubernetes", base_job_template=template)
    )


def test_a_pool_that_starts_images_is_told_ours_and_starts_nothing_in_a_folder(
    client: SyncPrefectClient, job: Job, pictures: Path
):
    kubernetes_pool(client, "cluster")
    asked = {"pool": "cluster", "only": "run"}
    deploy(job, pictures, "imaged", **asked, job_variables={"namespace": "studio"})
    assert client.read_deployment_by_name("stylefarm-run/imaged").job_variables == {
        "env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"},
        "image": "stylefarm:0.1.0",
        "namespace": "studio",
    }
    deploy(job, pictures, "imaged", **asked, job_variables={"image": "mine:2"})
    again = client.read_deployment_by_name("stylefarm-run/imaged")
    assert again.job_variables["image"] == "mine:2"
    with pytest.raises(JobError, match="--work-dir is for work pools of type process; 'cluster'"):
        deploy(job, pictures, "imaged", **asked, work_dir="/data")


def test_what_the_server_refuses_is_a_sentence(client: SyncPrefectClient, job: Job, pictures: Path):
    kubernetes_pool(client, "strict")
    with pytest.raises(PrefectUnavailable, match=r"the Prefect server http.* refuses: .*image"):
        deploy(job, pictures, "refused", pool="strict", job_variables={"image": ["no", "text"]})


def test_machines_get_a_queue_each_whose_limit_can_be_changed(
    client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]
):
    limit_hosts(Terminal(), "hosts", {"farm1": 2, "farm2": 1})
    assert (
        "prefect worker start --pool hosts --type process --work-queue farm2"
        in capsys.readouterr().out
    )
    limit_hosts(Terminal(), "hosts", {"farm1": 3})
    limits = {
        host: client.read_work_queue_by_name(host, "hosts").concurrency_limit
        for host in ("farm1", "farm2")
    }
    assert limits == {"farm1": 3, "farm2": 1}


def test_the_file_of_deployments_holds_what_deploy_makes(
    client: SyncPrefectClient, job: Job, pictures: Path
):
    deploy(job, pictures, "nightly", cron="0 2 * * *")
    written = PrefectYamlModel.model_validate(yaml.safe_load(PREFECT_YAML.read_text()))
    assert written.pull == []
    made = list(deployments(client, "nightly").values())
    for file, server in zip(written.deployments, made, strict=True):
        assert file.model_dump(include={"name", "entrypoint", "tags", "description"}) == {
            "name": "nightly",
            "entrypoint": server.entrypoint,
            "tags": server.tags,
            "description": server.description,
        }
        assert set(file.parameters) == set(server.parameters)
        assert file.parameters.get("older_than") == server.parameters.get("older_than")
        assert [(one.cron, one.timezone, one.slug) for one in file.schedules or []] == [
            (one.schedule.cron, one.schedule.timezone, one.slug) for one in server.schedules
        ]
        assert file.work_pool is not None
        assert file.work_pool.work_queue_name == server.work_queue_name
        assert file.work_pool.job_variables == server.job_variables
        assert file.concurrency_limit is None
    Job.model_validate(written.deployments[0].parameters["job"])


@pytest.mark.slow
def test_prefect_itself_deploys_the_file(client: SyncPrefectClient, tmp_path: Path):
    limit_hosts(Terminal(), "gpu", {"nightly": 1})
    command = [sys.executable, "-m", "prefect", "deploy", "--all", "--prefect-file"]
    subprocess.run(
        [*command, str(PREFECT_YAML)],
        cwd=tmp_path,
        env=command_environment(str(client.api_url)),
        check=True,
        capture_output=True,
        timeout=300,
    )
    for flow, one in deployments(client, "nightly").items():
        assert one.entrypoint == f"flows.job.{FLOWS[flow].fn.__name__}"
        assert one.pull_steps == []


def test_every_automation_is_what_prefect_creates_from_a_file():
    for content in contents().values():
        automation = AutomationCore.model_validate(content)
        assert automation.name.startswith("stylefarm-")
        assert automation.description


def automations(client: SyncPrefectClient) -> dict[str, Any]:
    """The automations of ours on the server, each of which is there once."""
    found = {name: client.read_automations_by_name(name) for name in contents()}
    assert all(len(ones) < 2 for ones in found.values())
    return {name: ones[0] for name, ones in found.items() if ones}


def test_automations_are_made_once_and_keep_whom_they_notify(
    client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]
):
    show_automations(Terminal(), None)
    assert set(automations(client)) == WATCHING
    assert "What is not made needs somebody to notify" in capsys.readouterr().out
    with pytest.raises(JobError, match="Prefect has no block 'webhook/studio'"):
        show_automations(Terminal(), "webhook/studio")
    block = Webhook.model_validate({"url": "http://127.0.0.1:1/"}).save("studio")
    show_automations(Terminal(), "webhook/studio")
    assert "What is not made needs somebody to notify" not in capsys.readouterr().out
    made = automations(client)
    assert set(made) == set(contents())
    client.pause_automation(made["stylefarm-completion"].id)
    show_automations(Terminal(), None)
    again = automations(client)
    assert {one.id for one in again.values()} == {one.id for one in made.values()}
    actions = [action for one in again.values() for action in one.actions]
    notified = [one.block_document_id for one in actions if one.type == "call-webhook"]
    assert notified == [block] * 4
    assert not again["stylefarm-completion"].enabled
    assert again["stylefarm-failure"].enabled


@pytest.mark.usefixtures("no_fork_server")
def test_a_job_that_run_refuses_is_refused_alike_before_anything_is_written(
    client: SyncPrefectClient,
    prefect_server: str,
    stylefarm: Stylefarm,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("tests.flows.conftest.NO_PREFECT", prefect_server)
    job = write_job(pictures, inputs={"content": "nowhere", "style": "style"})
    refused = stylefarm("deploy", job, "--pool", "unmade")
    assert (refused.code, refused.err) == (2, stylefarm("run", job, "--dry-run").err)
    with pytest.raises(ObjectNotFound):
        client.read_work_pool("unmade")

    answer = stylefarm(
        "deploy", write_job(pictures, name="paths"), "--only", "run", "--set", "seed=7"
    )
    assert answer.code == 0, answer
    parameters = client.read_deployment_by_name("stylefarm-run/paths").parameters
    assert parameters["base"] == str(pictures)
    assert parameters["job"]["seed"] == 7
    assert parameters["job"]["output"]["uri"] == "run"


@pytest.mark.parametrize(
    "variable",
    [
        'env={"AWS_SECRET_ACCESS_KEY": "hunter2"}',
        'env={"PREFECT_API_URL": "http://anna:hunter2@host/api"}',
        "api_key=hunter2",
    ],
)
def test_a_deployment_stores_no_credentials(stylefarm: Stylefarm, pictures: Path, variable: str):
    answer = stylefarm("deploy", write_job(pictures), "--job-variable", variable)
    assert answer.code == 2
    assert "a deployment is stored in Prefect, where others read it" in answer.err
    assert "{{ prefect.blocks.secret.aws-key }}" in answer.err
    assert "hunter2" not in answer.out + answer.err


def test_a_deployment_may_name_a_block_that_holds_credentials():
    named = {"AWS_SECRET_ACCESS_KEY": "{{ prefect.blocks.secret.aws-key }}"}
    assert _variables([f"env={json.dumps(named)}"]) == {"env": named}
