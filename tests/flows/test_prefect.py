"""Prefect only shows a run: where it does not work, the run is the same, and a sentence says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.audit import audit
from tests.command_line import Cli
from tests.flows.jobs import write_job

NOWHERE = "http://127.0.0.1:1/api"


def test_a_configured_server_that_does_not_answer_is_named_and_the_run_goes_on(
    cli: Cli, pictures: Path
):
    answer = cli("run", write_job(pictures), env={"PREFECT_API_URL": NOWHERE})
    assert answer.code == 0, answer
    assert (
        f"PREFECT_API_URL (in the environment or the active profile) names {NOWHERE}" in answer.out
    )
    assert "6 of 6 items ok" in answer.out
    audit(pictures / "run")


def test_settings_that_prefect_refuses_are_named_and_the_run_goes_on(cli: Cli, pictures: Path):
    answer = cli("run", write_job(pictures), env={"PREFECT_API_REQUEST_TIMEOUT": "soon"})
    assert answer.code == 0, answer
    assert "Prefect refuses its settings (request_timeout" in answer.out
    audit(pictures / "run")


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(cli: Cli, pictures: Path):
    proxy = {name: "http://127.0.0.1:1" for name in ("http_proxy", "HTTP_PROXY", "https_proxy")}
    answer = cli("run", write_job(pictures), env=proxy)
    assert answer.code == 0, answer
    assert "without Prefect" not in answer.out


@pytest.mark.slow
def test_a_damaged_database_of_prefect_is_named_and_the_run_goes_on(cli: Cli, pictures: Path):
    home = pictures / "prefect"
    home.mkdir()
    shutil.copy(pictures / "style" / "x.png", home / "prefect.db")
    answer = cli("run", write_job(pictures), env={"PREFECT_API_URL": "", "PREFECT_HOME": str(home)})
    assert answer.code == 0, answer
    assert f"{home}/prefect.db is of another version of Prefect or damaged" in answer.out
    audit(pictures / "run")
