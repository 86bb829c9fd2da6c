"""The image, and what is started from it by compose and Kubernetes, against their own schemas."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from dockerfile_parse import DockerfileParser
from jsonschema import validators
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import Settings
from prefect.utilities.templating import apply_values
from sqlalchemy.engine import make_url

from ad_lib.model.weights import find_weights
from flows.exit_codes import ExitCode
from tests.infra.recipes import INFRA, ROOT, documents

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = INFRA / "docker" / "Dockerfile"
KUBERNETES = sorted((INFRA / "kubernetes").glob("*.yaml"))
UID = 10001
ENDS_SO_AGAIN = {*ExitCode} - {ExitCode.COMPLETE, ExitCode.BUG, ExitCode.INCOMPLETE}
"""The exit codes after which another try is in vain."""


@pytest.fixture(scope="module")
def steps() -> list[dict[str, Any]]:
    """The instructions of the Dockerfile, in order."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    return [dict(step) for step in DockerfileParser(fileobj=StringIO(text)).structure]


def values(steps: list[dict[str, Any]], instruction: str) -> list[str]:
    return [step["value"] for step in steps if step["instruction"] == instruction]


def test_what_is_copied_into_the_image_exists_and_is_not_ignored(steps):
    kept = [line[1:] for line in _ignore_lines() if line.startswith("!")]
    left_out = [line for line in _ignore_lines() if not line.startswith("!")]
    assert left_out[0] == "*"
    sources = [
        source
        for value in values(steps, "COPY")
        if not value.startswith("--from")
        for source in value.split()[:-1]
    ]
    assert {source.split("/")[0] for source in sources} == set(kept)
    for source in sources:
        assert (ROOT / source).exists()
        assert not any(fnmatch(source, pattern.removeprefix("**/")) for pattern in left_out[1:])


def _ignore_lines() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_image_has_every_package_and_whatever_its_wheel_is_built_from(steps):
    copied = " ".join(values(steps, "COPY")).split()
    tops = {name.partition(".")[0] for name in PYPROJECT["tool"]["setuptools"]["packages"]}
    assert tops | {"pyproject.toml", PYPROJECT["project"]["readme"]} <= set(copied)


def test_the_python_of_the_image_is_one_that_we_support_and_test(steps):
    (base,) = [value for value in values(steps, "ARG") if value.startswith("BASE_IMAGE=")]
    version = re.search(r"=python:(\d+\.\d+)-slim", base)
    assert version
    assert version[1] in SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert version[1] == PYPROJECT["tool"]["pyright"]["pythonVersion"]


def test_whatever_is_installed_in_the_image_is_pinned(steps):
    installed = [run for run in values(steps, "RUN") if "pip install" in run]
    assert len(installed) == 4
    for run in installed:
        pinned = re.search(r"-c /\w+/constraints\.txt", run)
        assert pinned or ("--no-deps" in run and "pip check" in run)
    (built,) = [run for run in values(steps, "RUN") if "pip wheel" in run]
    assert "--no-build-isolation" in built
    build = PYPROJECT["build-system"]["requires"]
    assert [Requirement(one).name for one in build] == ["setuptools"]


def test_the_image_installs_what_the_project_asks_for(steps, tmp_path):
    (code,) = [run for run in values(steps, "RUN") if "/requirements.txt" in run and '-c "' in run]
    (code,) = re.findall(r'python -c "([^"]+)"', code)
    told = subprocess.run(
        [sys.executable, "-c", code.replace("/source/", f"{ROOT}/")], capture_output=True, text=True
    )
    asked = PYPROJECT["project"]
    assert told.stdout.splitlines() == [
        *asked["dependencies"],
        *asked["optional-dependencies"]["ray"],
    ]


def test_a_change_of_our_code_leaves_the_big_layers_as_they_are(steps):
    """What a build keeps ends where something that changes is copied."""
    last = max(n for n, step in enumerate(steps) if step["instruction"] == "FROM")
    copied = [step["value"] for step in steps[last:] if step["instruction"] == "COPY"]
    assert copied == [
        "constraints.txt /build/",
        "--from=requirements /requirements.txt /build/",
        "--from=wheel /wheels /build/wheels",
    ]
    installed = [run for run in values(steps[last:], "RUN") if "pip install" in run]
    assert "/build/wheels" in installed[-1]
    assert not any("wheels" in run for run in installed[:-1])


def test_the_image_keeps_nothing_that_was_fetched_to_build_it(steps):
    for run in values(steps, "RUN"):
        for call in re.findall(r"pip (?:install|wheel) [^&]*", run):
            assert "--no-cache-dir" in call
        assert ("apt-get install" in run) == ("rm -rf /var/lib/apt/lists/*" in run)


def test_weights_are_where_volumes_are_mounted_and_the_user_owns_the_place(steps, compose):
    (home,) = re.findall(r"HF_HOME=(\S+)", " ".join(values(steps, "ENV")))
    made = next(run for run in values(steps, "RUN") if "useradd" in run)
    owned = re.findall(r"install -d -o stylefarm -g stylefarm (.+)", made)[0].split()
    assert {home, *values(steps, "WORKDIR")} <= set(owned)
    for name in ("worker-gpu", "worker-cpu"):
        assert set(compose["services"][name]["volumes"]) == {f"weights:{home}", "scratch:/tmp"}
    (cluster,) = documents(INFRA / "ray" / "cluster.yaml")
    (mount,) = re.findall(r"--volume (\S+)", " ".join(cluster["docker"]["run_options"]))
    here, _, there = mount.partition(":")
    assert there == home
    assert cluster["initialization_commands"] == [f"sudo install -d -o {UID} -g {UID} {here}"]


def test_what_is_baked_in_unless_told_otherwise_is_known(steps):
    (backbone,) = [v for v in values(steps, "ARG") if v.startswith("BACKBONE=")]
    assert find_weights(backbone.removeprefix("BACKBONE="), None)


def test_secrets_of_the_studio_reach_neither_git_nor_the_image():
    assert "/infra/.env" in (ROOT / ".gitignore").read_text().splitlines()
    assert "**/*.env" in _ignore_lines()


def test_the_image_has_what_the_launcher_of_ray_calls_in_it(steps):
    (apt,) = [run for run in values(steps, "RUN") if "apt-get install" in run]
    assert {"openssh-client", "rsync"} <= set(apt.split())


def test_the_image_does_not_run_as_root_and_hears_signals(steps):
    assert values(steps, "USER") == [f"{UID}:{UID}"]
    made = next(run for run in values(steps, "RUN") if "useradd" in run)
    assert f"--uid {UID}" in made
    assert json.loads(values(steps, "ENTRYPOINT")[0]) == ["stylefarm"]
    assert isinstance(json.loads(values(steps, "CMD")[0]), list)
    assert values(steps, "STOPSIGNAL") == ["SIGTERM"]
    order = [step["instruction"] for step in steps]
    assert order.index("USER") < order.index("ENTRYPOINT")


def test_the_image_says_which_version_it_is(steps):
    (labels,) = values(steps, "LABEL")
    assert f"image.version={PYPROJECT['project']['version']}" in labels
    assert f"stylefarm:{PYPROJECT['project']['version']} ." in DOCKERFILE.read_text()


def test_the_python_in_the_image_calls_what_exists_as_it_is_called(steps):
    for code in re.findall(r'python -c "([^"]+)"', "\n".join(values(steps, "RUN"))):
        tree = ast.parse(code)
        imported: dict[str, Any] = {}
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
            module = importlib.import_module(str(node.module))
            imported |= {alias.name: getattr(module, alias.name) for alias in node.names}
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(node.func, ast.Name) and node.func.id in imported:
                inspect.signature(imported[node.func.id]).bind(*node.args)


def test_whatever_a_build_may_be_told_is_asked_for(steps):
    told = set(re.findall(r"--build-arg (\w+)=", DOCKERFILE.read_text()))
    assert told == {value.partition("=")[0] for value in values(steps, "ARG")}


def _engine() -> list[str] | None:
    """What builds images here."""
    for name in ("docker", "podman", "buildah"):
        if shutil.which(name):
            asked = subprocess.run([name, "info"], capture_output=True)
            if asked.returncode == 0:
                return [name, "build"]
    return None


@pytest.mark.slow
def test_the_image_is_built_where_something_builds_images(tmp_path):
    engine = _engine()
    if engine is None:
        pytest.skip("nothing here builds images: install docker, podman or buildah")
    (base,) = re.findall(r"^ARG BASE_IMAGE=(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    pulled = subprocess.run([engine[0], "pull", base], capture_output=True, text=True)
    if "dial tcp" in pulled.stderr:  # so all three say that no registry is reached
        pytest.skip(f"{base} cannot be had here: no registry is reached")
    assert pulled.returncode == 0, pulled.stderr[-2000:]
    index = "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
    name = f"stylefarm-test:{tmp_path.name.lower()}"
    built = subprocess.run(
        [*engine, "-f", str(DOCKERFILE), "--build-arg", index, "-t", name, str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-2000:]
    if engine[0] != "buildah":
        said = subprocess.run(
            [engine[0], "run", "--rm", name, "--version"], capture_output=True, text=True
        )
        subprocess.run([engine[0], "rmi", name], capture_output=True)
        assert said.stdout.split() == ["stylefarm", PYPROJECT["project"]["version"]]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    (document,) = documents(INFRA / "compose.yaml")
    return document


def test_compose_is_what_the_compose_specification_allows(compose):
    spec = find_spec("check_jsonschema")
    assert spec
    assert spec.origin
    vendored = Path(spec.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text(encoding="utf-8"))
    validator = validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(compose)] == []
    assert list(validator.iter_errors(compose | {"workers": {}}))


def test_whatever_compose_names_is_there(compose):
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed]
        volumes = {mount.partition(":")[0] for mount in service.get("volumes", [])}
        assert volumes <= set(compose["volumes"])
        assert {config["source"] for config in service.get("configs", [])} <= set(
            compose["configs"]
        )
        if build := service.get("build"):
            assert (INFRA / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE


def test_our_image_is_built_by_whoever_starts_it(compose):
    """A service that only names it is looked for in a registry."""
    for service in compose["services"].values():
        assert service["image"].startswith("stylefarm:") == ("build" in service)


def test_services_that_end_are_started_only_with_those_that_wait_for_them(compose):
    """'up --wait' fails where a service ends that no running service has waited for."""
    services = compose["services"]
    for name, service in services.items():
        if service["restart"] != "unless-stopped":
            waiting = [one for one in services.values() if name in one.get("depends_on", {})]
            assert set(service["profiles"]) <= {
                profile for one in waiting for profile in one["profiles"]
            }


def test_browsers_and_workers_know_the_store_by_one_name(compose):
    """A link is signed for the name by which the worker that made it knows the store."""
    endpoint = compose["x-store"]["AWS_ENDPOINT_URL"]
    host, _, port = endpoint.removeprefix("http://").rpartition(":")
    store = compose["services"]["store"]
    assert host in store["networks"]["default"]["aliases"]
    assert f"-s3.port={port}" in store["command"]
    assert any(published.endswith(f":{port}:{port}") for published in store["ports"])
    told = compose["services"]["prefect"]["environment"]["PREFECT_UI_URL"]
    assert re.findall(r"\$\{(\w+):-", host) == re.findall(r"\$\{(\w+):-", told)


SERVED = {"postgres": 5432, "prefect": 4200, "store": 8333}


def test_addresses_in_compose_are_of_services_at_the_ports_that_they_serve(compose):
    text = (INFRA / "compose.yaml").read_text()
    found = re.findall(r"http://(?:\$\{FARM_HOST:-)?([a-z0-9.]+)\}?:(\d+)", text)
    assert len(found) >= 6
    for host, port in found:
        if host in ("localhost", "127.0.0.1"):
            assert int(port) in {*SERVED.values(), Settings().worker.webserver.port}
        else:
            assert int(port) == SERVED[host]
    for name, service in compose["services"].items():
        for published in service.get("ports", []):
            assert published == f"${{FARM_BIND:-127.0.0.1}}:{SERVED[name]}:{SERVED[name]}"
    assert re.findall(r":(\d+)", str(compose["services"]["store"]["healthcheck"])) == ["8333"]
    prefect = compose["services"]["prefect"]
    assert prefect["environment"]["PREFECT_UI_URL"].endswith(":4200")


def test_services_start_when_what_they_need_answers(compose):
    for service in compose["services"].values():
        for needed, how in service.get("depends_on", {}).items():
            stays = compose["services"][needed]["restart"] == "unless-stopped"
            wanted = "service_healthy" if stays else "service_completed_successfully"
            assert how == {"condition": wanted}
    needs = {name: set(one.get("depends_on", {})) for name, one in compose["services"].items()}
    assert needs["worker-gpu"] == needs["worker-cpu"] == {"prefect", "buckets"}
    assert (needs["prefect"], needs["buckets"]) == ({"postgres"}, {"store"})


def test_services_keep_their_data_and_hear_signals(compose):
    services = compose["services"]
    # Until version 17; later images keep a folder for each version.
    assert services["postgres"]["image"].startswith("postgres:17")
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql/data"]
    (config,) = services["store"]["configs"]
    assert f"-s3.config={config['target']}" in services["store"]["command"]
    (folder,) = [one for one in services["store"]["command"] if one.startswith("-dir=")]
    assert services["store"]["volumes"] == [f"store:{folder.removeprefix('-dir=')}"]
    # As process 1 Python hears no signal before it has said what to do with it.
    for name in ("prefect", "worker-gpu", "worker-cpu"):
        assert services[name]["init"]


def test_services_that_stay_have_a_healthcheck_and_start_again(compose):
    for name, service in compose["services"].items():
        if service["restart"] == "unless-stopped":
            assert "healthcheck" in service, name
            assert "stop_grace_period" in service, name


def test_values_that_only_the_studio_has_are_asked_for_by_name(compose):
    text = (INFRA / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{([A-Z_]+):\?", text))
    given = (INFRA / "compose.env.example").read_text()
    assert asked == set(re.findall(r"^([A-Z_]+)=$", given, re.MULTILINE))
    others = set(re.findall(r"\$\{([A-Z_]+):-", text))
    assert others == set(re.findall(r"^#([A-Z_]+)=", given, re.MULTILINE))
    assert len(re.findall(r"\$\{", text)) == len(re.findall(r"\$\{[A-Z_]+:[?-]", text))


def test_the_gpu_of_compose_is_asked_for_in_its_profile_alone(compose):
    services = compose["services"]
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    (device,) = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in services["worker-cpu"]


def test_prefect_finds_the_database_and_the_health_of_compose(compose, monkeypatch):
    services, password = compose["services"], "p@ss/w:rd"
    for name, value in services["prefect"]["environment"].items():
        monkeypatch.setenv(name, password if name.endswith("PASSWORD") else value)
    settings = Settings()
    assert settings.server.database.connection_url
    url = make_url(settings.server.database.connection_url.get_secret_value())
    made = services["postgres"]["environment"]
    assert (url.host, url.port, url.password) == ("postgres", 5432, password)
    assert (url.username, url.database) == (made["POSTGRES_USER"], made["POSTGRES_DB"])
    for name in ("worker-gpu", "worker-cpu"):
        (asked,) = re.findall(r"localhost:(\d+)/health", str(services[name]["healthcheck"]))
        assert int(asked) == settings.worker.webserver.port
    assert f"localhost:{settings.server.api.port}/api/health" in str(services["prefect"])


@pytest.mark.parametrize(
    "code", re.findall(r'CMD, python, -c, "(.+?)"\]', (INFRA / "compose.yaml").read_text())
)
def test_the_python_of_healthchecks_compiles(code):
    compile(code, "compose.yaml", "exec")


def test_the_python_that_makes_the_buckets_makes_them_once(compose, s3_bucket):
    (code,) = compose["services"]["buckets"]["command"]
    for _ in range(2):
        exec(compile(code, "compose.yaml", "exec"), {})


def kubernetes_documents() -> list[tuple[str, dict[str, Any]]]:
    return [(file.name, document) for file in KUBERNETES for document in documents(file)]


@pytest.mark.parametrize(
    ("name", "document"),
    [one for one in kubernetes_documents() if one[1]["kind"] != "PodMonitor"],
)
def test_kubernetes_takes_every_document(name, document):
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_a_field_that_kubernetes_does_not_know_is_refused():
    job = next(document for _, document in kubernetes_documents() if document["kind"] == "Job")
    wrong = json.loads(json.dumps(job))
    wrong["spec"]["template"]["spec"]["graceSeconds"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


@pytest.fixture(scope="module")
def pool_template() -> dict[str, Any]:
    return json.loads((INFRA / "kubernetes" / "base-job-template.json").read_text())


@pytest.fixture(scope="module")
def pool_job(pool_template) -> dict[str, Any]:
    """The Job that Prefect makes of the pool's template where nothing else is given."""
    variables = pool_template["variables"]["properties"]
    defaults = {name: one["default"] for name, one in variables.items() if "default" in one}
    return apply_values(pool_template["job_configuration"], defaults)["job_manifest"]


def test_a_job_of_the_work_pool_is_one_that_prefect_and_kubernetes_take(pool_job):
    pod = pool_job["spec"]["template"]["spec"]
    # What prefect-kubernetes asks of every template. The first two it asks for where Kubernetes has
    # no such fields and drops them.
    assert pod.pop("parallelism") == pod.pop("completions") == 1
    assert pod["restartPolicy"] == "Never"
    assert pod["containers"][0]["name"] == "prefect-job"
    made = json.loads(json.dumps(pool_job))
    made["metadata"]["generateName"] = "stylefarm-"
    made["spec"]["template"]["spec"]["containers"][0]["args"] = ["prefect", "flow-run", "execute"]
    kubernetes_validate.validate(made, kubernetes_validate.latest_version(), strict=True)


def test_the_image_starts_what_prefect_asks_for(pool_job):
    """Prefect gives its command as arguments, which the entrypoint `stylefarm` would get."""
    assert pool_job["spec"]["template"]["spec"]["containers"][0]["command"] == ["env"]


def test_every_variable_of_the_work_pool_is_used_and_known(pool_template):
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(pool_template["job_configuration"])))
    assert used == set(pool_template["variables"]["properties"])


def pods(pool_job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The templates of the pods that render."""
    found = {"base-job-template.json": pool_job["spec"]["template"]}
    for name, document in kubernetes_documents():
        if document["kind"] == "Job":
            found[name] = document["spec"]["template"]
        elif document["kind"] == "CronJob":
            found[name] = document["spec"]["jobTemplate"]["spec"]["template"]
    return found


def test_pods_that_render_are_alike_in_all_that_is_not_their_command(pool_job):
    def common(template: dict[str, Any]) -> dict[str, Any]:
        spec = dict(template["spec"])
        (container,) = spec.pop("containers")
        kept = ("image", "envFrom", "ports", "resources", "securityContext")
        mounts = [mount for mount in container["volumeMounts"] if mount["name"] != "job"]
        volumes = [volume for volume in spec.pop("volumes") if volume["name"] != "job"]
        for name in ("terminationGracePeriodSeconds", "parallelism", "completions"):
            spec.pop(name, None)
        container = {name: container[name] for name in kept} | {"volumeMounts": mounts}
        return {"metadata": template["metadata"], "spec": spec, "c": container, "v": volumes}

    first, *others = [common(template) for template in pods(pool_job).values()]
    assert len(others) == 2
    for other in others:
        assert other == first


def test_pods_that_render_take_a_gpu_and_run_as_the_user_of_the_image(pool_job):
    for template in pods(pool_job).values():
        (container,) = template["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert template["spec"]["securityContext"]["runAsUser"] == UID
        assert not template["spec"]["automountServiceAccountToken"]
        written = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/weights", "/home/stylefarm"} <= written


def test_jobs_are_tried_again_only_where_that_can_help():
    for _, document in kubernetes_documents():
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "podFailurePolicy" not in spec:
            assert document["kind"] not in ("Job", "CronJob")
            continue
        disrupted, failed = spec["podFailurePolicy"]["rules"]
        assert disrupted["action"] == "Ignore"
        # One of many workers that ends for good takes no other's shard in hand with it.
        assert failed["action"] == ("FailJob" if document["kind"] == "CronJob" else "FailIndex")
        assert (spec.get("completionMode") == "Indexed") == (failed["action"] == "FailIndex")
        assert spec.get("completions") == spec.get("parallelism")
        assert set(failed["onExitCodes"]["values"]) == {int(code) for code in ENDS_SO_AGAIN}
        assert failed["onExitCodes"]["operator"] == "In"
        assert failed["onExitCodes"]["containerName"] in {
            container["name"] for container in spec["template"]["spec"]["containers"]
        }
        assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_everything_lies_in_one_namespace():
    for _, document in kubernetes_documents():
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "stylefarm"


def test_prefect_starts_a_pod_once_and_tries_again_itself(pool_job):
    assert pool_job["spec"]["backoffLimit"] == 0


def test_the_worker_of_the_pool_may_do_its_work_and_is_found_healthy():
    made = {d["kind"]: d for name, d in kubernetes_documents() if name == "prefect-worker.yaml"}
    deployment = made["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]
    account = made["ServiceAccount"]["metadata"]["name"]
    assert pod["serviceAccountName"] == account == made["RoleBinding"]["subjects"][0]["name"]
    assert made["RoleBinding"]["roleRef"]["name"] == made["Role"]["metadata"]["name"]
    jobs = next(rule for rule in made["Role"]["rules"] if "jobs" in rule["resources"])
    assert {"create", "delete", "get", "list", "watch"} <= set(jobs["verbs"])
    assert container["image"].endswith("-kubernetes"), "else it cannot start pods"
    (port,) = container["ports"]
    assert port["containerPort"] == Settings().worker.webserver.port
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": port["name"]}
    (mount,) = container["volumeMounts"]
    told = {one["name"]: one["value"] for one in container["env"]}
    assert told["PREFECT_HOME"].startswith(f"{mount['mountPath']}/")
    assert told["PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"] == "stylefarm"


def test_the_nightly_job_finds_its_file_and_never_meets_itself():
    ((name, nightly),) = [one for one in kubernetes_documents() if one[1]["kind"] == "CronJob"]
    spec = nightly["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert CronSchedule(cron=spec["schedule"], timezone=spec["timeZone"])
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "job"]
    text = (INFRA / "kubernetes" / name).read_text()
    (file,) = re.findall(r"--from-file=(\S+)", text)
    assert container["args"] == ["extend", f"{mount['mountPath']}/{file}"]
    assert f"--from=cronjob/{nightly['metadata']['name']} " in text


def test_whatever_pods_refer_to_is_made_by_a_file_or_told_how_to_make(pool_job):
    made = {
        (document["kind"], document["metadata"].get("name"))
        for _, document in kubernetes_documents()
    }
    told = " ".join(file.read_text() for file in KUBERNETES)
    for template in pods(pool_job).values():
        spec = template["spec"]
        (container,) = spec["containers"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in made
        for source in container["envFrom"]:
            if name := source.get("configMapRef", {}).get("name"):
                assert ("ConfigMap", name) in made
            if name := source.get("secretRef", {}).get("name"):
                assert f"create secret generic {name}" in told
        for volume in spec["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in made
            if config := volume.get("configMap"):
                assert f"create configmap {config['name']}" in told


def test_the_monitor_finds_the_pods_by_label_and_port(pool_job):
    (monitor,) = [
        document for _, document in kubernetes_documents() if document["kind"] == "PodMonitor"
    ]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for template in pods(pool_job).values():
        (container,) = template["spec"]["containers"]
        assert endpoint["port"] in {port["name"] for port in container["ports"]}
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        assert wanted <= template["metadata"]["labels"].items()
