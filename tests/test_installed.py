"""The wheel works away from its checkout, and goes without a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.installed import linked_environment, remove, use
from tests.wheels import build_wheel


@pytest.mark.slow
def test_the_wheel_alone_makes_pictures_away_from_the_checkout_and_is_uninstalled_without_a_trace(
    prefect_server: str, tmp_path: Path
):
    here = linked_environment(tmp_path, build_wheel(tmp_path))
    use(replace(here, variables={"PREFECT_API_URL": prefect_server}))
    remove(here)
