"""What do the inputs of a job hold, as far as that shows without reading an image?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ad_lib.presets import Preset
from infra.store import StoredObject
from manifests.errors import JobError
from manifests.job import Job, external_role
from tasks.inputs.external import External, list_external
from tasks.inputs.named_files import known_objects
from tasks.inputs.passed_over import PassedOver
from tasks.inputs.prompts import read_prompts
from tasks.inputs.sources import SourceFile, list_files, resolve_uri
from tasks.inputs.tables import TableRow, read_table


@dataclass(frozen=True)
class ListedInputs:
    """What the job's inputs hold, as far as that shows without reading an image.

    Attributes:
        files: by role, in the order in which an item has its inputs.
        table: its rows, where the job names a table; then there are no files.
        prompts: those that every combination of images is drawn with; none for other tasks.
        negative_prompt: of every item.
        table_uri: where the table lies.
        known: what is stored, by URI, of the table and the files that its rows name; as it was
            before any of them was read.
        passed_over: by role, what its source holds and is not taken; complete once the tars of the
            source have been read.
        external: pictures that other programs have made, by their names.
    """

    files: Mapping[str, list[SourceFile]]
    table: list[TableRow]
    prompts: list[str]
    negative_prompt: str | None
    passed_over: Mapping[str, PassedOver]
    table_uri: str | None = None
    known: Mapping[str, StoredObject] = field(default_factory=dict[str, StoredObject])
    external: Mapping[str, External] = field(default_factory=dict[str, External])


def list_inputs(job: Job, preset: Preset, base: str, output_uri: str) -> ListedInputs:
    """What the inputs of a job hold, with the pictures that other programs have made of them.

    Args:
        job: which one.
        preset: its task.
        base: the folder that relative paths start from.
        output_uri: the run folder, which is never the job's own input.

    Raises:
        JobError: an input is not what the task takes, or a source is not there.
        StoreError: a store refuses or does not answer.
    """
    listed = _listed(job, preset, base, output_uri)
    external = {
        name: list_external(name, source, base, run_folder=output_uri)
        for name, source in job.external.items()
    }
    told = {external_role(name): one.passed_over for name, one in external.items()}
    return replace(listed, external=external, passed_over={**listed.passed_over, **told})


def _listed(job: Job, preset: Preset, base: str, output_uri: str) -> ListedInputs:
    if job.inputs.table is not None:
        table = read_table(
            job.inputs.table,
            preset.roles,
            base,
            optional_roles=preset.optional_roles,
            takes_prompt=preset.takes_prompt,
            may_name_local_files=job.inputs.table_may_name_local_files,
        )
        uri = resolve_uri(job.inputs.table, base)
        named = (image.uri for row in table for image in row.inputs if image.uri)
        return ListedInputs({}, table, [], None, {}, uri, known_objects([uri, *named]))
    prompts = _prompts(job, preset, base)
    passed_over = {str(role): PassedOver() for role in job.inputs.roles()}
    files = _files(job, preset, base, output_uri, passed_over)
    return ListedInputs(files, [], prompts, job.inputs.negative_prompt, passed_over)


def _files(
    job: Job, preset: Preset, base: str, output_uri: str, passed_over: Mapping[str, PassedOver]
) -> dict[str, list[SourceFile]]:
    sources = {str(role): source for role, source in job.inputs.roles().items()}
    for role in preset.roles:
        if role not in sources:
            raise JobError(f"the task {preset.name} needs a source for {role}: add inputs.{role}")
    for role in sources:
        if role not in preset.all_roles:
            raise JobError(
                f"the task {preset.name} takes {' and '.join(preset.all_roles)}: drop inputs.{role}"
            )
    wanted = [role for role in preset.all_roles if role in sources]
    return {
        role: list_files(
            role, sources[role], base, run_folder=output_uri, passed_over=passed_over[role]
        )
        for role in wanted
    }


def _prompts(job: Job, preset: Preset, base: str) -> list[str]:
    inputs = job.inputs
    if not preset.takes_prompt:
        for name in ("prompt", "negative_prompt"):
            if getattr(inputs, name) is not None:
                raise JobError(
                    f"the task {preset.name} takes no prompt: drop inputs.{name}, or use style-t2i"
                )
        return []
    if inputs.prompt is None:
        raise JobError(f"the task {preset.name} needs a prompt: add inputs.prompt")
    prompts = read_prompts(inputs.prompt, base)
    if job.pairing.mode == "zip" and len(prompts) > 1:
        raise JobError(
            f"pairing zip joins images by key, and {len(prompts)} prompts have none: give one "
            "prompt, or a table with a column prompt"
        )
    return prompts
