"""The units, read as systemd reads them."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from tests.infra.recipes import INFRA
from tests.infra.test_images import ENDS_SO_AGAIN

UNITS = sorted((INFRA / "systemd").glob("*.service"))
each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "RestrictSUIDSGID": "yes",
    "CapabilityBoundingSet": "",
}


def directives(unit: Path) -> dict[str, list[str]]:
    """Each directive of a unit with its values, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


@each_unit
def test_systemd_has_nothing_to_say_about_a_unit(unit, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt install systemd")
    # Where the virtual environment is, is all that differs here.
    text = unit.read_text().replace("/opt/stylefarm/bin/prefect", "/bin/true")
    here = tmp_path / unit.name
    here.write_text(text.replace("/opt/stylefarm/bin/stylefarm", "/bin/true"))
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True
    )
    ours = [line for line in (told.stdout + told.stderr).splitlines() if unit.stem[:9] in line]
    assert ours == []
    assert told.returncode == 0

    here.write_text(here.read_text().replace("RestartSec=", "RestartSecs="))
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", here], capture_output=True, text=True
    )
    assert "RestartSecs" in told.stderr


@each_unit
def test_units_run_as_nobody_who_matters_and_may_little(unit):
    found = directives(unit)
    assert found["User"] == ["stylefarm"]
    for name, value in HARDENING.items():
        assert found[name] == [value]


@each_unit
def test_secrets_are_read_from_files_that_only_root_reads(unit):
    assert all(file.startswith("/etc/stylefarm/") for file in directives(unit)["EnvironmentFile"])
    assert "mode 0600" in unit.read_text()
    assert not any("SECRET" in value for value in directives(unit)["Environment"])


@each_unit
def test_units_write_only_where_they_may(unit):
    found = directives(unit)
    allowed = ["/var/lib/stylefarm", "/var/cache/stylefarm"]
    assert found["StateDirectory"] == ["stylefarm"]
    for pair in (pair for value in found["Environment"] for pair in value.split()):
        name, _, value = pair.partition("=")
        if name in ("HF_HOME", "PREFECT_HOME", "XDG_CACHE_HOME"):
            assert value.startswith(tuple(allowed))
    if "XDG_CACHE_HOME" in str(found["Environment"]):
        assert found["CacheDirectory"] == ["stylefarm"]


def test_a_worker_is_started_again_only_where_that_can_help():
    found = directives(INFRA / "systemd" / "stylefarm-work@.service")
    (prevented,) = found["RestartPreventExitStatus"]
    assert {int(code) for code in prevented.split()} == {int(code) for code in ENDS_SO_AGAIN}
    assert found["Restart"] == ["on-failure"]
    assert found["RestartForceExitStatus"] == found["SuccessExitStatus"] == ["4"]
    assert found["StartLimitBurst"]


@pytest.mark.parametrize("name", ["stylefarm-work@", "stylefarm-worker@"])
def test_a_unit_for_a_gpu_finds_its_device_files_and_may_use_them(name):
    """A unit without new privileges cannot start the program of root that makes them."""
    found = directives(INFRA / "systemd" / f"{name}.service")
    (before,) = found["ExecStartPre"]
    assert before.startswith("-+/")
    assert before.endswith("=%i")
    # Each of these makes a list of allowed devices, on which no GPU stands.
    assert not {"DeviceAllow", "DevicePolicy", "PrivateDevices", "ProtectClock"} & set(found)


@pytest.mark.parametrize("name", ["stylefarm-work@", "stylefarm-worker@"])
def test_a_worker_is_told_before_it_is_killed_and_its_scratch_stays(name):
    found = directives(INFRA / "systemd" / f"{name}.service")
    # The first process alone is told: it ends its own in order.
    assert (found["KillMode"], found["KillSignal"]) == (["mixed"], ["SIGTERM"])
    assert found["ReadWritePaths"] == ["/tmp"]
    assert "PrivateTmp" not in found


@pytest.mark.parametrize("name", ["stylefarm-prefect", "stylefarm-worker@"])
def test_services_of_prefect_are_always_there(name):
    assert directives(INFRA / "systemd" / f"{name}.service")["Restart"] == ["always"]


def test_a_worker_for_a_gpu_takes_one_run_at_a_time():
    (start,) = directives(INFRA / "systemd" / "stylefarm-worker@.service")["ExecStart"]
    assert "--limit 1" in start
