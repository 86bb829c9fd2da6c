"""How does an item's input become a picture of the size at which it is used, as it was planned?"""

from __future__ import annotations

import hashlib

from PIL import Image

from ad_lib.errors import ImageError
from ad_lib.pictures.decoding import decoded_image
from ad_lib.requests import fit_role
from infra.store import ObjectNotFound
from manifests.items import ErrorClass, Input, Item, Problem
from tasks.plans.preflight import UNREADABLE, input_bytes
from tasks.runs.item_settings import settings_of
from tasks.work.problems import problem_of

Loaded = Image.Image | Problem


def load_picture(image: Input, item: Item, max_pixels: int) -> Loaded:
    """A picture at the size at which an item uses it; memory is shared as in preflight.

    Raises:
        StoreError: a store does not answer; an image that is missing is a problem of that image.
    """
    try:
        with input_bytes(image) as data:
            return _decoded(image, data, item, max_pixels)
    except (ObjectNotFound, FileNotFoundError):
        message = f"{image.full_uri} was there when it was planned and is gone"
        return Problem(ErrorClass.INPUT_MISSING, message)
    except UNREADABLE as error:
        return Problem(ErrorClass.INPUT_MISSING, str(error))
    except ImageError as error:
        return Problem(ErrorClass(error.kind), f"{image.full_uri}: {error}")
    except BaseException as error:
        return problem_of(error)


def _decoded(image: Input, data: bytes, item: Item, max_pixels: int) -> Loaded:
    if hashlib.sha256(data).hexdigest() != image.sha256:
        message = f"{image.full_uri} has changed since it was planned; plan a new run"
        return Problem(ErrorClass.INPUT_MISSING, message)
    with decoded_image(data, max_pixels=max_pixels) as picture:
        return fit_role(image.role, picture, item.width, item.height, settings_of(item))
