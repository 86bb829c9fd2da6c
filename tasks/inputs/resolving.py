"""Looks up what a job names: presets, weights, prompts and lists of files. No image is read."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from ad_lib.errors import BackboneError
from ad_lib.model.hub import HUB_IDS, is_hub_id
from ad_lib.model.weight_files import SINGLE_FILE
from ad_lib.model.weights import EMBEDDED
from ad_lib.presets import PRESETS, Preset, find_preset
from ad_lib.settings import Settings
from infra.store import UriError, open_store
from manifests.commits import RunRecord
from manifests.errors import JobError
from manifests.identity import (
    differences,
    fingerprint,
    has_fast_kernels_as_default,
    in_first_layout,
    run_identity,
    settings_before,
    with_fast_kernels_as_default,
)
from manifests.items import EXTERNAL
from manifests.job import BackboneChoice, Job
from manifests.quality import CONTENT_FIGURES
from tasks.inputs.dated_output import dated_runs, new_run_uri, output_place
from tasks.inputs.devices import (
    DeviceType,
    Dtype,
    check_device,
    device_type_of,
    devices_for,
    dtype_of,
)
from tasks.inputs.listed_inputs import ListedInputs, list_inputs
from tasks.inputs.output_place import OutputPlace
from tasks.inputs.sources import resolve_uri
from tasks.inputs.weights import FoundModel, check_model, find_model, pinned
from tasks.runs.item_settings import settings_in_ids
from tasks.runs.run_folder import find_run

logger = logging.getLogger(__name__)

RENDERING_REVISION = 2
"""Goes up with every change of ours that changes rendered images; the CHANGELOG names it."""


@dataclass(frozen=True)
class Variation:
    """A task with its settings; every combination of inputs is rendered with each.

    Attributes:
        label: of the sweep entry, or the name of the program whose pictures are shown; empty where
            there is no sweep.
        suffix: the label in the letters of sample keys.
    """

    label: str
    suffix: str
    preset: Preset
    settings: Settings

    @property
    def is_external(self) -> bool:
        """Whether its pictures come from another program."""
        return self.preset.name == EXTERNAL


@dataclass(frozen=True)
class ResolvedJob:
    """A job with its names resolved and its sources listed; no image has been read.

    Attributes:
        preset, settings: of the job itself.
        variations: what is done with each combination of inputs: the sweep's entries, or the job;
            then what other programs have made of it.
        dtype, device_type: the precision and the kind of device, as the job alone decides them.
        place: where the runs of the job lie, one of them or one for each day.
        output_uri: the run folder; it may hold the run, or not be there yet.
        identity, fingerprint: of the run that this job describes.
    """

    job: Job
    preset: Preset
    settings: Settings
    variations: tuple[Variation, ...]
    model: FoundModel
    dtype: Dtype
    device_type: DeviceType
    place: OutputPlace
    output_uri: str
    inputs: ListedInputs
    identity: dict[str, object]
    fingerprint: str


class _ModelNames(NamedTuple):
    """What the weights of a job are looked up by."""

    name: str
    revision: str | None
    config: str | None
    controlnet: str | None
    controlnet_revision: str | None


@dataclass(frozen=True)
class _Chosen:
    """The settings of a job: its own and those of its sweep."""

    settings: Settings
    variations: tuple[Variation, ...]


@dataclass(frozen=True)
class _Run:
    """What becomes of a job in one run folder, whose record pins names of the hub.

    A run that an earlier version began keeps the settings that presets have changed since.
    """

    chosen: _Chosen
    model: FoundModel
    device_type: DeviceType
    dtype: Dtype
    identity: dict[str, object]


def resolve_job(
    job: Job,
    base: str,
    *,
    will_render: bool = False,
    for_extension: bool = False,
    check: Callable[[FoundModel], None] = check_model,
) -> ResolvedJob:
    """Looks up everything that a job names.

    Hub names without a revision are looked up once: where the run folder holds a run of the same
    model, its commits are taken.

    Args:
        job: as written.
        base: the folder that relative paths start from.
        will_render: this machine must have the job's device, where its own workers render.
        for_extension: of several run folders with dates a complete one is gone on with, too.
        check: raises where the weights do not fit their networks; `check_model` loads torch.

    Raises:
        RequestError, BackboneError: an unknown preset, setting or backbone, or a setting that a
            task does not read.
        JobError: sources that are not there or do not fit the task.
        RunFolderError: the record of the run folder is damaged.
        StoreError: a store refuses or does not answer.
    """
    preset = _rendered_preset(job.task)
    chosen = _chosen(job, preset)
    check_device(job.compute.device)
    place = output_place(job.output.uri, base)
    output_uri, record, found = _find_run(job, base, place, chosen, for_extension)
    if will_render and job.compute.runner == "local":
        device_type = found.device_type if record is None else record.device_type
        devices_for(device_type, job.compute.device, None)
    inputs = list_inputs(job, preset, base, place.uri)
    _check_control(job, preset, inputs)
    _check_quality(job, preset)
    check(found.model)
    for settings in (found.chosen.settings, *(one.settings for one in found.chosen.variations)):
        found.model.family.check(settings)
    for one in (preset, *(variation.preset for variation in found.chosen.variations)):
        one.check_family(found.model.family)
    return ResolvedJob(
        job=job,
        preset=preset,
        settings=found.chosen.settings,
        variations=found.chosen.variations,
        model=found.model,
        dtype=found.dtype,
        device_type=found.device_type,
        place=place,
        output_uri=output_uri,
        inputs=inputs,
        identity=found.identity,
        fingerprint=fingerprint(found.identity),
    )


def _find_run(
    job: Job, base: str, place: OutputPlace, chosen: _Chosen, for_extension: bool
) -> tuple[str, RunRecord | None, _Run]:
    """The run folder of a job, what it holds, and what becomes of the job's names there."""
    if not place.is_dated:
        record = find_run(open_store(place.uri))
        return place.uri, record, _run(job, base, chosen, record)
    known: dict[tuple[_ModelNames, _Chosen], _Run] = {}
    for uri, record in dated_runs(place, complete_too=for_extension):
        names = _model_names(job.backbone, base, record)
        kept = _chosen_in(record, job, chosen)
        try:
            found = known.get((names, kept)) or _named_run(job, kept, names)
        except BackboneError as error:
            logger.warning("%s is not gone on with: %s", uri, error)
            continue
        known[names, kept] = found
        if not _differences(record, found.identity, job):
            return uri, record, found
    return new_run_uri(place), None, _run(job, base, chosen, None)


def _run(job: Job, base: str, chosen: _Chosen, record: RunRecord | None) -> _Run:
    kept = _chosen_in(record, job, chosen)
    return _named_run(job, kept, _model_names(job.backbone, base, record))


def _named_run(job: Job, chosen: _Chosen, names: _ModelNames) -> _Run:
    model = find_model(
        names.name,
        names.revision,
        config=names.config,
        controlnet=names.controlnet,
        controlnet_revision=names.controlnet_revision,
    )
    device_type = device_type_of(job.compute.device, model)
    dtype = dtype_of(job.backbone, device_type)
    identity = run_identity(
        job,
        settings=_identity_settings(chosen),
        model_revision=model.revision,
        rendering_revision=RENDERING_REVISION,
        dtype=dtype,
        device_type=device_type,
    )
    return _Run(chosen, model, device_type, dtype, identity)


def differences_to(run: RunRecord, resolved: ResolvedJob) -> list[str]:
    """One line for each field in which a job is not the one of a run; none where it is."""
    return _differences(run, resolved.identity, resolved.job)


def _differences(run: RunRecord, wanted: Mapping[str, object], job: Job) -> list[str]:
    if run.schema_version == 1:
        wanted = in_first_layout(wanted, job, run.identity)
    if has_fast_kernels_as_default(run.identity, run.deterministic):
        wanted = with_fast_kernels_as_default(wanted, job)
    return differences(run.identity, wanted)


def _chosen_in(record: RunRecord | None, job: Job, chosen: _Chosen) -> _Chosen:
    """The settings of a job in the folder of a run, which an earlier version may have begun."""
    kept = {} if record is None else settings_before(record.settings, asdict(Settings()))
    return _chosen(job, find_preset(job.task), kept) if kept else chosen


def _chosen(job: Job, preset: Preset, kept: Mapping[str, Any] = MappingProxyType({})) -> _Chosen:
    """The settings of a job, over those of its presets and what a run has `kept`."""
    settings = preset.settings_with({**kept, **job.settings})
    return _Chosen(settings, _variations(job, preset, settings, kept))


def _variations(
    job: Job, preset: Preset, settings: Settings, kept: Mapping[str, Any]
) -> tuple[Variation, ...]:
    external = replace(PRESETS[EXTERNAL], size=preset.size)
    given = [
        Variation(entry.label, entry.suffix, external, external.settings)
        for entry in job.external_entries
    ]
    if not job.sweep_entries:
        return (Variation("", "", preset, settings), *given)
    variations: list[Variation] = []
    for entry in job.sweep_entries:
        swept = _rendered_preset(entry.task) if entry.task else preset
        if set(swept.roles) != set(preset.roles) or swept.takes_prompt != preset.takes_prompt:
            raise JobError(
                f"sweep: {entry.label!r} takes {_taken(swept)}, but {preset.name} takes "
                f"{_taken(preset)}: sweep over tasks that take the same inputs"
            )
        tried = swept.settings_with({**kept, **job.settings, **entry.settings})
        variations.append(Variation(entry.label, entry.suffix, swept, tried))
    return (*variations, *given)


def _rendered_preset(task: str) -> Preset:
    """The preset of a task that a job can name."""
    if task == EXTERNAL:
        raise JobError(
            "the task external renders nothing: name the folders of pictures beside the task, "
            "external: {NAME: FOLDER}"
        )
    return find_preset(task)


def _taken(preset: Preset) -> str:
    return " and ".join([*preset.roles, *(["a prompt"] if preset.takes_prompt else [])])


def _identity_settings(chosen: _Chosen) -> dict[str, object]:
    swept = {
        variation.label: {
            "task": variation.preset.name,
            **({} if variation.is_external else settings_in_ids(variation.settings)),
        }
        for variation in chosen.variations
        if variation.label
    }
    return {**settings_in_ids(chosen.settings), **({"sweep": swept} if swept else {})}


def _model_names(choice: BackboneChoice, base: str, run: RunRecord | None) -> _ModelNames:
    """What weights are looked up by; names of the hub with the commits that a run recorded."""
    name = _local_name(choice.name, base)
    controlnet = choice.controlnet and _local_name(choice.controlnet, base)
    revision, controlnet_revision = choice.revision, choice.controlnet_revision
    config = choice.config and _local_name(choice.config, base)
    if run is not None:
        named = run.named_backbone
        commit, _, controlnet_commit = run.model_revision.partition("+")
        if HUB_IDS.get(name, name) == run.model_id:
            revision = pinned(revision, named.get("revision"), commit)
            if "@" in (run.model_config_id or "") and choice.config == named.get("config"):
                config = run.model_config_id
        if controlnet == run.controlnet_id:
            recorded = named.get("controlnet_revision")
            controlnet_revision = pinned(controlnet_revision, recorded, controlnet_commit)
    return _ModelNames(name, revision, config, controlnet, controlnet_revision)


def _local_name(name: str, base: str) -> str:
    """The absolute path of a model's folder or file, or the name itself where it is no path.

    Paths are relative to the job file, not to the folder that the command is run in. `owner/name`
    is a hub id unless there is such a folder beside the job file.

    Raises:
        JobError: the name looks like a path, but no path can be like that.
    """
    is_path = name.startswith((".", "~")) or name.endswith(SINGLE_FILE)
    try:
        path = resolve_uri(name, base)
    except UriError as error:
        if is_path or not is_hub_id(name):
            raise JobError(f"backbone: {error}") from None
        return name
    is_known = name == EMBEDDED or name in HUB_IDS
    return path if is_path or (not is_known and os.path.exists(path)) else name  # noqa: PTH110


def _check_control(job: Job, preset: Preset, inputs: ListedInputs) -> None:
    """Refuses a control image without a ControlNet, and a ControlNet without a control image."""
    in_table = any(image.role == "control" for row in inputs.table for image in row.inputs)
    has_images = "control" in inputs.files or in_table
    if has_images and job.backbone.controlnet is None:
        raise JobError(
            "inputs.control needs a ControlNet to see it: add backbone.controlnet, a hub id or a "
            "folder"
        )
    if job.backbone.controlnet is not None and not has_images:
        way_out = "add inputs.control" if "control" in preset.all_roles else "drop it"
        raise JobError(f"backbone.controlnet has no control image to see: {way_out}")


def _check_quality(job: Job, preset: Preset) -> None:
    """Refuses a bound on a figure that pictures of the task do not have."""
    shaped = {"content", "layout"} & set(preset.roles if job.inputs.table else job.inputs.roles())
    masked = "target_mask" in preset.roles  # its content is where it starts
    for name in job.quality.bounds() if job.quality else ():
        has_content = shaped or (masked and name == "content_loss")
        has_content = has_content or (job.inputs.table and "content" in preset.all_roles)
        if name in CONTENT_FIGURES and not has_content:
            raise JobError(
                f"quality.{name} compares with a content, and this {preset.name} has none: drop it"
            )
