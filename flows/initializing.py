"""What `stylefarm init` does: looks at a folder, chooses a task, writes the job file, says so."""

from __future__ import annotations

import os
from pathlib import Path

from ad_lib.presets import PRESETS, find_preset
from flows.initial_job import InitialJob, chosen_preset
from flows.output_files import check_writable, write_whole
from flows.terminal import Terminal
from infra.store import local_path
from manifests.errors import JobError
from manifests.items import EXTERNAL
from tasks.inputs.folder_contents import contents_of


def write_job(
    terminal: Terminal, task: str | None, folder: str | None, output: Path, *, force: bool
) -> None:
    """Writes a job file and prints what stands in it.

    Args:
        terminal: where that is printed.
        task: chosen by what the folder holds unless given; a lone folder may stand in its place.
        folder: where the inputs are.
        output: the job file.
        force: whether it may be there already.

    Raises:
        JobError: the folder is not there, or the file is.
        RequestError: there is no such task; the nearest name is given.
    """
    if task is not None and folder is None and task not in PRESETS and _is_folder(task):
        task, folder = None, task
    if task == EXTERNAL:
        raise JobError(
            "the task external renders nothing: choose the task that its pictures are compared "
            "with, and name their folders in the job file: external: {NAME: FOLDER}"
        )
    preset = find_preset(task) if task is not None else None
    if output.exists() and not force:
        raise JobError(
            f"{str(output)!r} is there already: give --force to replace it, or another --output"
        )
    check_writable("--output", output)
    contents = contents_of(_absolute(folder or "."))
    job = InitialJob(preset or chosen_preset(contents), contents, output.absolute().parent)
    write_whole(output, job.text().encode())
    why = (
        ""
        if task or not job.found()
        else f", which fits best to what {folder or 'this folder'} holds"
    )
    terminal.say(f"{output}: a job of the task {job.preset.name}{why}.")
    for told in job.found():
        terminal.say(f"  {told}")
    if job.refusal:
        terminal.say(f"To be mended first: {job.refusal}", "yellow")
    if job.missing:
        terminal.say(
            f"Not found: {', '.join(job.missing)}; put it where PUT-…-HERE stands.", "yellow"
        )
    terminal.say(f"Next: stylefarm run {output} --dry-run")


def _is_folder(text: str) -> bool:
    return text.startswith("s3://") or Path(text).expanduser().is_dir()


def _absolute(folder: str) -> str:
    path = local_path(folder)
    return folder if path is None else os.path.abspath(path)  # noqa: PTH100 - links stay
