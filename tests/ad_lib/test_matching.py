"""Every result of the method says how sure its matches are; a baseline's does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ad_lib import Result, random_backbone, render
from ad_lib.inputs import BatchInputs
from ad_lib.matching import matches_of_batch, predicted_matches
from tests.ad_lib.requests_of_every_task import photo, request
from tests.ad_lib.test_device_rules import CopiesBetweenDevices
from tests.ad_lib.waiting import NothingWaits


@pytest.fixture(scope="module")
def tiny_flux2():
    return random_backbone("flux2", tiny=True)


def assert_a_figure(result: Result) -> float:
    figure = result.match_uncertainty
    assert figure is not None
    assert 0 < figure <= 1
    return figure


class Passes:
    """Counts a network's passes, by the number of pictures in each."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.sizes: list[int] = []
        self._hook = network.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs):
        self.sizes.append(len(args[0] if args else kwargs["hidden_states"]))

    def __enter__(self) -> list[int]:
        return self.sizes

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


TASKS = ("style-t2i-sd15", "texture-masked", "texture-layout", "texture-expand")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_the_figure_alone_and_in_a_batch(tiny_backbone, task):
    requests = [request(task, seed, num_inference_steps=1) for seed in range(2)]
    together = [assert_a_figure(one) for one in render(tiny_backbone, requests)]
    (alone,) = render(tiny_backbone, requests[1:])
    assert alone.match_uncertainty == pytest.approx(together[1], abs=1e-5)


def test_of_a_transfer_it_is_known_before_anything_is_rendered(tiny_backbone, tiny_flux2):
    for backbone in (tiny_backbone, tiny_flux2):
        wanted = [request("style-transfer", seed) for seed in range(2)]
        predicted = predicted_matches(backbone, wanted)
        assert [one.match_uncertainty for one in render(backbone, wanted)] == predicted


def test_a_style_that_is_the_content_is_matched_surely(tiny_backbone):
    one = request("style-transfer", content=photo(3))
    same, other = replace(one, styles=(photo(3),)), replace(one, styles=(photo(4),))
    predicted = predicted_matches(tiny_backbone, [same, other])
    assert predicted[0] == pytest.approx(0, abs=1e-5)
    assert predicted[1] > 1e-3


def test_several_styles_masks_seams_and_a_flux_texture_have_it(tiny_backbone, tiny_flux2):
    one = request("texture-optimize", seamless="both")
    several = replace(
        one,
        styles=(photo(1), photo(2)),
        settings=replace(one.settings, style_weights=(1, 3)),
    )
    assert_a_figure(render(tiny_backbone, [several])[0])
    for rope in ("shared", "none", "shifted"):
        (result,) = render(tiny_flux2, [request("texture-sample", rope=rope)])
        assert_a_figure(result)


def test_a_baseline_has_none(tiny_backbone):
    (result,) = render(tiny_backbone, [request("baseline-adain")])
    assert result.match_uncertainty is None


def test_it_costs_two_passes_of_one_picture_each(tiny_backbone):
    one = request("style-transfer", 0, num_inference_steps=3)
    with Passes(tiny_backbone.denoiser) as steps:
        render(tiny_backbone, [one])
    assert steps[-2:] == [1, 1]
    with Passes(tiny_backbone.denoiser) as more:
        render(tiny_backbone, [replace(one, settings=replace(one.settings, num_inference_steps=4))])
    per_step = len(more) - len(steps)
    assert len(steps) == 3 * per_step + 2
    assert 2 / (200 * per_step) < 0.03


def test_it_waits_for_no_device_and_a_large_picture_is_seen_through_one_view(tiny_backbone):
    large = request("texture-expand", width=256, height=192)
    inputs = BatchInputs(tiny_backbone, [large], [])
    inputs.encode()
    latents = torch.randn(1, tiny_backbone.latent_channels, 24, 32)
    matches_of_batch(inputs, latents)  # the empty prompt is encoded once a backbone
    with NothingWaits() as seen:
        found = matches_of_batch(inputs, latents)
    assert found.shape == (1,)
    assert max(shape[2] for shape in seen.shapes) <= 88  # an 8x8 view, and an 8x11 reference
    latents[..., :8, :] += 5  # not in the middle
    assert torch.equal(matches_of_batch(inputs, latents), found)


def test_on_a_device_nothing_is_copied():
    backbone = random_backbone("sd15", tiny=True).to("meta")
    inputs = BatchInputs(backbone, [request("style-transfer")], [])
    inputs.encode()
    backbone.feature_extractor()  # the empty prompt is encoded once a backbone
    with CopiesBetweenDevices() as copies:
        found = matches_of_batch(inputs, None)
    assert found.device.type == "meta"
    assert not copies.by_step


def test_pixels_and_losses_do_not_depend_on_it(tiny_backbone, monkeypatch):
    wanted = [request("style-transfer", seed) for seed in range(2)]
    told = render(tiny_backbone, wanted)
    monkeypatch.setattr("ad_lib.batch.matches_of_batch", lambda inputs, latents: torch.zeros(2))
    silent = render(tiny_backbone, wanted)
    for one, other in zip(told, silent, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.style_losses == other.style_losses
