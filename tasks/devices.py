"""Can a job compute where it says?"""

from __future__ import annotations

from ad_lib.devices import check_device_name, find_device
from ad_lib.errors import BackboneError
from manifests.errors import JobError


def check_device(name: str, *, must_exist: bool) -> None:
    """Refuses the device of a job before anything is planned or written.

    Args:
        name: `compute.device` of the job.
        must_exist: this machine must have it, because it is going to render; a plan can be made
            for another machine.

    Raises:
        JobError: no name of a device, or a device that is not there.
    """
    try:
        check_device_name(name)
        if must_exist and name not in ("auto", "cpu"):
            find_device(name)
    except BackboneError as error:
        raise JobError(f"compute.device: {error}") from error
