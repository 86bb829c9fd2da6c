"""Where a run is computed: which kind of device, which devices of this machine, and in which dtype.

Kind and precision follow from the job alone, never from the machine that plans.
"""

from __future__ import annotations

import logging
from typing import Literal, cast

from ad_lib.errors import BackboneError
from ad_lib.model.devices import check_device_name, find_device
from manifests.commits import RunRecord
from manifests.errors import JobError
from manifests.job import BackboneChoice, Compute
from tasks.inputs.weights import FoundModel

logger = logging.getLogger(__name__)

DeviceType = Literal["cpu", "cuda", "mps"]
Dtype = Literal["float32", "bfloat16", "float16"]


def check_device(name: str) -> None:
    """Refuses a device of a job that has no such name, before anything is planned or written.

    Args:
        name: `compute.device` of the job.

    Raises:
        JobError: no name of a device.
    """
    try:
        check_device_name(name)
    except BackboneError as error:
        raise JobError(f"compute.device: {error}") from error


def device_type_of(name: str, model: FoundModel) -> DeviceType:
    """The kind of device that a job is rendered on.

    Args:
        name: `compute.device` of the job; its number is left out, and `auto` is `cuda` for large
            weights, else `cpu`.
        model: the weights that it renders with.
    """
    if name == "auto":
        return "cuda" if model.is_large else "cpu"
    return cast(DeviceType, name.partition(":")[0])


def dtype_of(backbone: BackboneChoice, device_type: DeviceType) -> Dtype:
    """The precision that a job is rendered in; `auto` is bfloat16 on CUDA and float32 elsewhere."""
    if backbone.dtype == "auto":
        return "bfloat16" if device_type == "cuda" else "float32"
    return backbone.dtype


def devices_of_run(
    run: RunRecord, compute: Compute, device_type: DeviceType | None = None
) -> list[str]:
    """The devices of the workers of this machine on a run; one where its store bears no second.

    Args:
        run: the run.
        compute: its device and its number of workers.
        device_type: the kind of device; the run's unless given.

    Raises:
        JobError: this machine lacks the device, or it is not of the run's kind.
    """
    devices = devices_for(device_type or run.device_type, compute.device, compute.workers)
    if len(devices) > 1 and not run.conditional_put:
        logger.warning(
            "one worker, on %s, instead of %d: the store of this run does not honour conditional "
            "writes",
            *(devices[0], len(devices)),
        )
        return devices[:1]
    return devices


def devices_for(device_type: DeviceType | None, device: str, workers: int | None) -> list[str]:
    """The devices of the workers of this machine, one for each worker.

    Args:
        device_type: the kind that the run was planned for; None for a run of the first layout.
        device: `compute.device`, or what the worker was told: `auto` is every device of the kind.
        workers: so many, the devices taken in turns; None is one for each device.

    Raises:
        JobError: this machine lacks the device, or it is not of the run's kind.
    """
    check_device(device)
    if device_type is None:  # as the first layout did: CUDA where the machine has it
        found = _cuda_devices() if device == "auto" else []
        found = found or [_found("cpu" if device == "auto" else device)]
    else:
        found = _of_kind(device_type, device)
    return [found[number % len(found)] for number in range(workers or len(found))]


def check_kind(device_type: DeviceType | None, device: str) -> None:
    """Refuses a device of another kind than the run's.

    Args:
        device_type: of the run; None for a run of the first layout, which takes any.
        device: `compute.device`, or what the worker was told.

    Raises:
        JobError: the pictures would differ.
    """
    kind = device.partition(":")[0]
    if device_type is not None and kind not in ("auto", device_type):
        raise JobError(
            f"compute.device: this run renders on {device_type}, and the pictures of {device!r} "
            f"would differ: give a device of that kind, or another output.uri for a run with "
            f"compute.device: {kind}"
        )


def _of_kind(device_type: DeviceType, device: str) -> list[str]:
    check_kind(device_type, device)
    if device in ("auto", "cuda") and device_type == "cuda" and (found := _cuda_devices()):
        return found
    try:
        return [_found(device_type if device == "auto" else device)]
    except JobError as error:
        raise JobError(
            f"{error}. This run renders on {device_type}: take a machine that has it, or another "
            "output.uri for a run with compute.device: cpu"
        ) from error


def _cuda_devices() -> list[str]:
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def _found(name: str) -> str:
    if name.partition(":")[0] == "cpu":  # without loading torch
        return "cpu"
    try:
        return str(find_device(name))
    except BackboneError as error:
        raise JobError(
            f"compute.device: {str(error).removesuffix('; give cpu or auto')}"
        ) from error
