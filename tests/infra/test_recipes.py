"""The files under `infra/` are held to the code: names, versions, ports, variables, commands."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from flows.cli import app
from flows.deploying import DEFAULT_POOL
from flows.stopping import FAREWELL_SECONDS, STEP_SECONDS
from tests.infra.recipes import DOCUMENTS, INFRA, ROOT, command_lines, documents, mappings, recipes

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.partition(" ;")[0].split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line
)
SECONDS_TO_STOP = STEP_SECONDS + 2 * FAREWELL_SECONDS + 1
METRICS_PORT = 9400

SECRET = re.compile(
    r"""AKIA[0-9A-Z]{16}                                # an access key of AWS
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY
    | \bhf_[A-Za-z0-9]{20,} | \bgh[po]_[A-Za-z0-9]{20,} | \bpnu_[A-Za-z0-9]{20,}
    | ://[^\s/:@]+:(?!\$)[^\s/@]+@                    # a password in a URL
    | (?:password|passwd|secret(?:_?access)?_?key|token|auth_string)["']?\ *[:=]\ *["']?
      (?![$<{/]|\s)[^\s"',:]{8,}                      # a value, not a reference to one
    | \b[0-9a-f]{32,}\b | \b[A-Za-z0-9+/]{40,}={0,2}(?![\w/.-])
    """,
    re.VERBOSE | re.IGNORECASE,
)


def named(file: Path) -> str:
    return str(file.relative_to(INFRA))


each_recipe = pytest.mark.parametrize("file", recipes(), ids=named)
each_document = pytest.mark.parametrize(
    "file", [file for file in recipes() if file.suffix in DOCUMENTS], ids=named
)


@each_document
def test_documents_are_read_and_no_key_stands_twice(file):
    assert documents(file)


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "x: {b: 1, b: 2}\n"])
def test_a_key_that_stands_twice_is_found(text, tmp_path):
    (tmp_path / "twice.yaml").write_text(text)
    with pytest.raises(ValueError, match="twice"):
        documents(tmp_path / "twice.yaml")


@each_recipe
def test_no_secret_stands_in_a_recipe(file):
    assert not SECRET.search(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "AWS_ACCESS_KEY_ID=AKIA" + "ABCDEFGH" * 2,
        "POSTGRES_PASSWORD: correct-horse",
        "url: postgresql://prefect:" + "hunter2@db/prefect",
        'AWS_SECRET_ACCESS_KEY="' + "wJalrXUtnFEMIK7MDENG" * 2 + '"',
        "HF_TOKEN=hf_" + "abcdefghij" * 3,
    ],
)
def test_a_secret_is_known_when_it_is_seen(text):
    assert SECRET.search(text)


@each_document
def test_images_are_ours_at_this_version_or_are_pinned(file):
    found = [
        m["image"] for d in documents(file) for m in mappings(d) if isinstance(m.get("image"), str)
    ]
    for image in (image for image in found if "{{" not in image):
        name, _, tag = image.rpartition(":")
        if name == "stylefarm":
            assert tag == PROJECT["version"]
        elif name == "prefecthq/prefect":
            assert tag.startswith(f"{PINS['prefect']}-python3.11")
        else:
            assert name
            assert re.search(r"\d", tag), f"{image} is another one tomorrow"


def called(program: str) -> list[tuple[str, list[str]]]:
    lines = [(named(file), line) for file in recipes() for line in command_lines(file)]
    return [(name, words[1:]) for name, words in lines if words[0] == program]


@pytest.mark.parametrize(("name", "words"), called("stylefarm"))
def test_our_commands_in_recipes_are_understood(name, words):
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup):
        assert words[0] in command.commands
        command, *words = command.commands[words[0]], *words[1:]
    if words:  # else it is only named
        command.make_context("stylefarm", list(words))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), called("prefect"))
def test_commands_of_prefect_in_recipes_are_understood(name, words):
    from prefect.cli import _app

    _app._app.parse_args(words, exit_on_error=False, print_error=False)


def test_workers_take_from_the_pool_that_deploy_fills():
    pools = [
        words[words.index("--pool") + 1]
        for program in ("stylefarm", "prefect")
        for _, words in called(program)
        if "--pool" in words
    ]
    assert len(pools) >= 5
    assert set(pools) == {DEFAULT_POOL}


def test_inputs_and_runs_in_recipes_lie_where_the_policy_lets_them():
    read = [
        pattern
        for one in policy()["Statement"]
        if "s3:GetObject" in one["Action"]
        for pattern in one["Resource"]
    ]
    found = {
        named(file): re.findall(r"s3://([\w./-]+)", file.read_text(encoding="utf-8"))
        for file in recipes()
        if file.suffix != ".md"
    }
    for place, uris in found.items():
        for uri in uris:
            arn = f"arn:aws:s3:::{uri}/run.json"
            assert any(fnmatchcase(arn, pattern) for pattern in read), (place, uri)
    assert {
        "kubernetes/worker-job.yaml",
        "prefect.yaml",
        "ray/cluster.yaml",
        "slurm/array.sbatch",
        "systemd/stylefarm-work@.service",
    } <= {place for place, uris in found.items() if uris}
    (compose,) = documents(INFRA / "compose.yaml")
    names = {
        arn.split(":::")[1].split("/")[0]
        for one in policy()["Statement"]
        for arn in one["Resource"]
    }
    assert all(f'"{name}"' in str(compose["services"]["buckets"]) for name in names)


def policy() -> dict[str, Any]:
    return json.loads((INFRA / "iam-policy.json").read_text(encoding="utf-8"))


def test_every_recipe_that_starts_something_is_seen_to_do_so():
    """What finds command lines would also be content with none."""
    ours = {name for name, _ in called("stylefarm")}
    starting = {"compose.yaml", "ray/cluster.yaml", "slurm/array.sbatch"}
    kubernetes = {"worker-job", "nightly-cronjob", "prefect-worker"}
    starting |= {f"kubernetes/{name}.yaml" for name in kubernetes}
    starting |= {"systemd/stylefarm-work@.service"}
    assert starting <= ours | {name for name, _ in called("prefect")}


SET_FOR_OTHERS = {
    "POSTGRES_USER": "the image of PostgreSQL",
    "POSTGRES_PASSWORD": "the image of PostgreSQL",
    "POSTGRES_DB": "the image of PostgreSQL",
    "FARM_BIND": "compose.yaml itself",
    "FARM_HOST": "compose.yaml itself",
    "NVIDIA_VISIBLE_DEVICES": "NVIDIA's container toolkit",
    "NVIDIA_DRIVER_CAPABILITIES": "NVIDIA's container toolkit",
    "PYTHONUNBUFFERED": "Python",
    "PIP_EXTRA_INDEX_URL": "pip",
    "BASE_IMAGE": "the Dockerfile itself",
    "BACKBONE": "the Dockerfile itself",
    "REVISION": "the Dockerfile itself",
    "STYLEFARM_RUN": "stylefarm-work@.service itself",
    "RAY_HEAD_IP": "Ray's cluster launcher",
    "SLURM_JOB_ID": "Slurm",
    "SLURM_ARRAY_JOB_ID": "Slurm",
    "SLURM_ARRAY_TASK_ID": "Slurm",
    "SLURM_RESTART_COUNT": "Slurm",
    "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES": "prefect-kubernetes 0.8",
}
READ_BY = {
    "AWS_": ("botocore",),
    "HF_": ("huggingface_hub",),
    "CUDA_": ("torch/cuda",),
    "XDG_": ("ad_lib",),
    "STYLEFARM_": ("ad_lib", "flows"),
}


def variables(file: Path) -> set[str]:
    """Names in capitals that are set or read in a file, comments included."""
    text = file.read_text(encoding="utf-8")
    capitals = r"([A-Z][A-Z0-9]*_[A-Z0-9_]+)"
    found = re.findall(rf"\${{?{capitals}", text)
    found += re.findall(rf"(?:^|[\s,\"'{{=])(?:ARG |ENV )?{capitals}(?=[=:]| |$|,|\.)", text, re.M)
    return {name for name in found if not name.startswith("AF_")}  # families of addresses


def is_read(name: str) -> bool:
    beginning = next((one for one in READ_BY if name.startswith(one)), None)
    if name.startswith("PREFECT_"):
        from prefect.settings import Settings
        from prefect.settings.legacy import _get_settings_fields

        return name in _get_settings_fields(Settings)
    if beginning is None:
        return False
    for folder in READ_BY[beginning]:
        package, _, inner = folder.partition("/")
        spec = find_spec(package)
        assert spec
        assert spec.origin
        place = Path(spec.origin).parent / inner
        texts = (file.read_text(encoding="utf-8") for file in place.rglob("*.py"))
        if any(f'"{name}"' in text or f"'{name}'" in text for text in texts):
            return True
    return False


@pytest.mark.parametrize("folder", ["docker", "kubernetes", "ray", "slurm", "systemd", ""])
def test_every_variable_of_a_recipe_is_one_that_somebody_reads(folder):
    files = [f for f in recipes() if f.parent == INFRA / folder and f.suffix != ".md"]
    names = set().union(*(variables(file) for file in files)) - set(SET_FOR_OTHERS)
    assert {name for name in names if not is_read(name)} == set()


def test_variables_are_found_and_judged():
    assert {"AWS_ENDPOINT_URL", "PREFECT_API_URL"} <= variables(INFRA / "compose.yaml")
    assert not is_read("AWS_ENDPOINT")
    assert not is_read("PREFECT_API_ADDRESS")
    assert not is_read("CUDA_VISIBLE_DEVICE")
    unit = INFRA / "systemd" / "stylefarm-worker@.service"
    assert {"CUDA_VISIBLE_DEVICES", "HF_HOME"} <= variables(unit), "the first of a line, too"
    assert is_read("AWS_ENDPOINT_URL")


@each_document
def test_workers_are_scraped_where_they_serve(file):
    ports: list[Any] = []
    for mapping in (m for document in documents(file) for m in mappings(document)):
        ports += [mapping["containerPort"]] if mapping.get("name") == "metrics" else []
        ports += [int(mapping[one]) for one in ["prometheus.io/port"] if one in mapping]
        ports += [int(port) for port in mapping.get("expose", [])]
    assert set(ports) <= {METRICS_PORT}


def test_prefect_is_where_it_listens():
    text = "\n".join(file.read_text() for file in recipes() if file.suffix in DOCUMENTS)
    assert set(re.findall(r"http://[^\s/]+?:(\d+)/api", text)) == {"4200"}


def test_machines_of_ray_join_their_head():
    (cluster,) = documents(INFRA / "ray" / "cluster.yaml")
    (port,) = re.findall(r"--port=(\d+)", " ".join(cluster["head_start_ray_commands"]))
    assert f"--address=$RAY_HEAD_IP:{port} " in " ".join(cluster["worker_start_ray_commands"])


def test_the_queue_of_a_deployment_is_one_that_it_is_told_how_to_make():
    (file,) = documents(INFRA / "prefect.yaml")
    made = re.findall(r"work-queue create (\S+)", (INFRA / "prefect.yaml").read_text())
    queues = {one["work_pool"]["work_queue_name"] for one in file["deployments"]}
    assert queues == {*made, "default"}
    assert file["prefect-version"] == PINS["prefect"]


def test_nobody_is_killed_before_he_has_ended_in_order():
    spans = _kubernetes_spans()
    for file in (INFRA / "systemd").glob("*.service"):
        (spans[file.name],) = map(
            float, re.findall(r"^TimeoutStopSec=(\d+)$", file.read_text(), re.M)
        )
    script = (INFRA / "slurm" / "array.sbatch").read_text()
    (spans["slurm"],) = map(float, re.findall(r"--signal=B:USR1@(\d+)", script))
    (compose,) = documents(INFRA / "compose.yaml")
    for name in ("worker-gpu", "worker-cpu"):
        minutes = compose["services"][name]["stop_grace_period"].removesuffix("m")
        spans[name] = 60 * float(minutes)
    assert len(spans) == 10
    assert min(spans.values()) > SECONDS_TO_STOP


def _kubernetes_spans() -> dict[str, float]:
    files = [file for file in (INFRA / "kubernetes").iterdir() if file.suffix in DOCUMENTS]
    return {
        file.name: mapping["terminationGracePeriodSeconds"]
        for file in files
        for document in documents(file)
        for mapping in mappings(document)
        if "terminationGracePeriodSeconds" in mapping
    }


def test_paths_in_recipes_exist():
    text = "\n".join(file.read_text(encoding="utf-8") for file in recipes() if file.suffix != ".md")
    paths = set(re.findall(r"\binfra/[\w./@-]+\w", text)) - {"infra/.env"}
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_the_policy_is_json_of_the_version_that_has_conditions():
    assert policy()["Version"] == "2012-10-17"
