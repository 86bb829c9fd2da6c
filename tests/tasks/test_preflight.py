from __future__ import annotations

import hashlib

import pytest
from PIL import Image

from manifests.items import ErrorClass, Input
from tasks.plans.preflight import inspect_input, inspect_inputs
from tests import bad_images

PIXELS = 89_478_485
CLASS = {writer: ErrorClass.DECODE for writer in bad_images.BROKEN}
CLASS |= dict.fromkeys(bad_images.UNSUPPORTED, ErrorClass.UNSUPPORTED)


def named(writers):
    return pytest.mark.parametrize("writer", writers, ids=lambda writer: writer.__name__[6:])


@named(bad_images.BROKEN)
def test_a_broken_image_gets_its_class_and_one_sentence_with_its_name(tmp_path, writer):
    path = writer(tmp_path)
    found = inspect_input(Input("style", path.stem, str(path)), max_pixels=PIXELS)
    assert found.problem
    assert found.problem.error_class == CLASS[writer]
    assert found.problem.message.startswith(f"{path}: ")
    assert "\n" not in found.problem.message
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@named(bad_images.UNUSUAL)
def test_an_unusual_image_passes_with_its_hash_and_upright_size(tmp_path, writer):
    path = writer(tmp_path)
    found = inspect_input(Input("style", path.stem, str(path)), max_pixels=PIXELS)
    assert found.problem is None
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.num_bytes == path.stat().st_size
    one_pixel = writer is bad_images.write_one_pixel
    assert (found.width, found.height) == ((1, 1) if one_pixel else (128, 96))


def test_an_image_that_is_not_there_is_missing():
    found = inspect_input(Input("style", "a", "/nowhere/a.png"), max_pixels=PIXELS)
    assert found.problem
    assert found.problem.error_class == ErrorClass.INPUT_MISSING
    assert found.problem.message == "/nowhere/a.png is not there: check the name"
    assert found.sha256 is None


def test_a_picture_above_the_jobs_limit_is_refused_with_both_numbers(tmp_path):
    path = bad_images.write_grey_png(tmp_path)
    found = inspect_input(Input("style", "a", str(path)), max_pixels=100)
    assert found.problem
    assert found.problem.error_class == ErrorClass.UNSUPPORTED
    assert "128x96; the limit is 100 pixels" in found.problem.message


def test_each_distinct_image_is_read_once_and_told_once(tmp_path):
    paths = [bad_images.write_grey_png(tmp_path), bad_images.write_empty_file(tmp_path)]
    inputs = [Input("style", path.stem, str(path)) for path in paths]
    told: list[Input] = []
    found = inspect_inputs(inputs * 3, max_pixels=PIXELS, num_threads=2, on_inspected=told.append)
    assert found.keys() == set(inputs)
    assert sorted(one.key for one in told) == ["empty", "grey"]


def test_an_input_with_a_problem_is_not_read(tmp_path):
    known = Input("style", "a", "/nowhere/a.png").broken(ErrorClass.UNSUPPORTED, "as it is")
    assert inspect_input(known, max_pixels=PIXELS) is known


# ---------------------------------------------------------------------------- masks


def inspected_mask(path, role="source_mask") -> Input:
    return inspect_input(Input(role, path.stem, str(path)), max_pixels=PIXELS)


@pytest.mark.parametrize("role", ["source_mask", "target_mask"])
def test_a_mask_of_too_many_colours_is_refused_with_their_number(tmp_path, role):
    path = tmp_path / "mask.jpg"
    Image.fromarray(bad_images.picture()).save(path)
    found = inspected_mask(path, role)
    assert found.problem
    assert found.problem.error_class == ErrorClass.UNSUPPORTED
    count = len(Image.open(path).convert("RGB").getcolors(1 << 20))
    assert f"{count} colours" in found.problem.message
    assert "PNG" in found.problem.message


@pytest.mark.parametrize("num_colours", [1, 2, 256])
def test_a_mask_of_flat_colours_passes(tmp_path, num_colours):
    path = tmp_path / "mask.png"
    Image.fromarray(bad_images.picture()).quantize(num_colours).save(path)
    assert inspected_mask(path).problem is None


def test_a_texture_may_have_any_number_of_colours(tmp_path):
    path = tmp_path / "texture.png"
    Image.fromarray(bad_images.picture()).save(path)
    assert inspected_mask(path, "texture").problem is None
