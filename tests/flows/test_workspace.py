"""Pictures of a flow run do not go where its worker removes them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from flows.workspace import refuse_workspace
from manifests.errors import JobError


def test_a_run_folder_that_a_worker_would_remove_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with tempfile.TemporaryDirectory(suffix="prefect") as workspace:
        monkeypatch.chdir(workspace)
        with pytest.raises(JobError, match=r"would be removed .* Set the parameter base"):
            refuse_workspace(f"{workspace}/runs/mine")
        refuse_workspace(str(tmp_path / "runs"))
        refuse_workspace("s3://bucket/runs/mine")
        monkeypatch.chdir(tmp_path)
        refuse_workspace(str(tmp_path / "runs"))
