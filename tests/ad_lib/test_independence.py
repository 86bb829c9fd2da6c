"""An item does not depend on its batch-mates: alone, in a batch, in another order, another day."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ad_lib import load_backbone, render
from ad_lib.algorithm.features import References
from ad_lib.algorithm.losses import attention_distillation_loss, content_loss
from ad_lib.algorithm.noise import seeded_noise
from ad_lib.batch import plan_batches
from ad_lib.inputs import BatchInputs
from ad_lib.presets import PRESETS
from ad_lib.synthesis import ALGORITHMS
from tests.ad_lib.requests_of_every_task import OWN_TASKS, request
from tests.conftest import TINY_BACKBONE
from tests.rounding import (
    FLOOR,
    Wanted,
    assert_equal_up_to_rounding,
    median,
    undisturbed,
    worst,
)

TASKS = OWN_TASKS


def inputs_of(backbone, requests) -> BatchInputs:
    return BatchInputs(backbone, requests, [seeded_noise(one.seed) for one in requests])


def run(inputs: BatchInputs):
    (task,) = {one.task for one in inputs.requests}
    return ALGORITHMS[PRESETS[task].algorithm](inputs, lambda *done: None)


def first_losses_and_last_latents(latents, trace, place: int) -> dict[str, torch.Tensor]:
    return {
        "latents": latents[place],
        "style loss": trace.style[0, place],
        "content loss": trace.content[0, place],
    }


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    task=st.sampled_from([task for task in TASKS if task != "texture-expand"]),
    width=st.integers(64, 120),
    height=st.integers(64, 120),
    place=st.integers(0, 6),
)
def test_an_item_is_the_same_alone_and_among_seven(tiny_backbone, task, width, height, place):
    requests = [
        request(task, seed, style=50 + seed % 2, width=width, height=height) for seed in range(7)
    ]
    together = first_losses_and_last_latents(*run(inputs_of(tiny_backbone, requests)), place)

    def alone(disturb):
        draw = seeded_noise(requests[place].seed)

        def noise(tag, number, shape):
            drawn = draw(tag, number, shape)
            return disturb(drawn) if tag == "init" else drawn

        inputs = BatchInputs(tiny_backbone, requests[place : place + 1], [noise])
        if content := inputs.content:
            latents = [disturb(one) for one in content.latents]
            inputs.__dict__["content"] = References(latents, content.index)
        return first_losses_and_last_latents(*run(inputs), 0)

    wanted = {name: Wanted(tensor, FLOOR, worst) for name, tensor in together.items()}
    assert_equal_up_to_rounding(alone, wanted)


@pytest.mark.parametrize("batch", [2, 7])
def test_features_losses_and_gradients_do_not_see_the_batch(tiny_backbone, batch):
    generator = torch.Generator().manual_seed(4)
    latents, styles, contents = torch.randn(3, batch, 4, 9, 8, generator=generator)
    extract, t = tiny_backbone.feature_extractor(), torch.tensor(501)

    def seen(rows, disturb=undisturbed):
        moving = disturb(latents[rows]).clone().requires_grad_()
        index = [[place] for place in range(len(rows))]
        current = extract(moving, t)
        style = References(styles[rows], index).features(extract, t)
        content = References(contents[rows], index).features(extract, t)
        distilled = attention_distillation_loss(current, style)
        kept = content_loss(current, content)
        (gradient,) = torch.autograd.grad((distilled + 0.25 * kept).sum(), moving)
        return {
            "features": torch.cat([layer.out.flatten(1) for layer in current], 1).detach(),
            "style loss": distilled.detach(),
            "content loss": kept.detach(),
            "gradient": gradient,
        }

    together = seen(list(range(batch)))
    for row in range(batch):
        wanted = {name: Wanted(tensor[row, None]) for name, tensor in together.items()}
        typical = FLOOR * float(together["gradient"].abs().max())
        wanted["gradient's median"] = Wanted(together["gradient"][row, None], typical, median)

        def alone(disturb, row=row):
            found = seen([row], disturb)
            return found | {"gradient's median": found["gradient"]}

        assert_equal_up_to_rounding(alone, wanted)


@pytest.mark.parametrize("task", TASKS)
def test_the_same_batch_twice_is_equal_to_the_bit_on_another_day_too(tiny_backbone, task):
    requests = [request(task, seed) for seed in range(3)]
    another_day = load_backbone(str(TINY_BACKBONE), device="cpu")
    first, again = (render(one, requests) for one in (tiny_backbone, another_day))
    for one, other in zip(first, again, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.style_losses == other.style_losses
        assert one.content_losses == other.content_losses


def test_the_order_of_requests_changes_no_batch_and_no_picture(tiny_backbone):
    requests = [request("style-transfer", seed, style=50 + seed % 2) for seed in range(5)]
    forth = render(tiny_backbone, requests, batch_size=3)
    back = render(tiny_backbone, requests[::-1], batch_size=3)
    assert [r.image.tobytes() for r in forth] == [r.image.tobytes() for r in back[::-1]]


def test_requests_that_differ_in_kind_share_no_batch():
    requests = [request(task, seed) for task in TASKS for seed in (1, 2)]
    for batch in plan_batches(requests, lambda one: 8):
        assert len({(requests[p].task, requests[p].width) for p in batch}) == 1 or (
            {requests[p].task for p in batch} <= {"style-transfer", "texture-layout"}
        )


def test_a_picture_in_views_is_alone_in_its_batch():
    requests = [request("texture-expand", seed) for seed in range(3)]
    assert plan_batches(requests, lambda one: 8) == [[0], [1], [2]]
