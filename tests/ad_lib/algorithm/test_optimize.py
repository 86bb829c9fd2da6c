"""Algorithm 1 on toys whose answer is known, and on the tiny backbone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ad_lib.algorithm.dynamics import Timestep
from ad_lib.algorithm.features import AttentionFeatures, References
from ad_lib.algorithm.losses import attention_distillation_loss, content_loss
from ad_lib.algorithm.optimize import optimize_latents
from ad_lib.algorithm.step import Distiller, moved
from ad_lib.settings import Settings


def latents_of(batch=1, seed=0, size=4):
    return torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(seed))


def one_each(latents):
    """Every item its own reference."""
    return References(latents, [[row] for row in range(len(latents))])


def shared(latents, batch=1):
    """Every item all of the references."""
    return References(latents, [range(len(latents))] * batch)


def tokens_of(latents):
    """(b, 1, h * w, c): a latent cell is a token."""
    return latents.flatten(2).mT[:, None]


def toy(latents, timestep, *, projections_only=False):
    """One self-attention layer on the cells; the timestep changes what it sees."""
    tokens = tokens_of(latents) * (1 + timestep / 1000)
    query, key = tokens, tokens.flip(-1)
    out = F.scaled_dot_product_attention(query, key, tokens)
    return [AttentionFeatures(query, key, tokens, out)]


def identity(latents, timestep, *, projections_only=False):
    """Attention without mixing: every token of the style has the same key and value."""
    tokens = tokens_of(latents)
    return [AttentionFeatures(tokens, tokens, tokens, tokens)]


def levels(*numbers):
    """Timesteps by their numbers."""
    return [Timestep(number, torch.tensor(number)) for number in numbers]


TIMESTEPS = levels(751, 501, 251, 1)
SETTINGS = {"num_optimization_steps": 1, "learning_rate": 0.05, "content_weight": 0.25}


def optimize(
    extract=toy,
    timesteps=TIMESTEPS,
    start=None,
    style=None,
    content=None,
    on_step_end=lambda step: None,
    **settings,
):
    start = latents_of() if start is None else start
    style = shared(latents_of(seed=1), len(start)) if style is None else style
    distiller = Distiller(extract, Settings(**SETTINGS | settings))
    return optimize_latents(distiller, timesteps, start, style, content, on_step_end=on_step_end)


@pytest.mark.parametrize(("num_steps", "num_timesteps"), [(0, 4), (1, 0)])
def test_without_optimisation_steps_the_start_is_returned(num_steps, num_timesteps):
    start = latents_of(2)
    latents, trace = optimize(
        start=start, timesteps=TIMESTEPS[:num_timesteps], num_optimization_steps=num_steps
    )
    assert torch.equal(latents, start)
    assert trace.style.shape == trace.content.shape == (0, 2)


def test_the_start_is_not_written_to_and_the_result_carries_no_graph():
    start = latents_of()
    before = start.clone()
    latents, trace = optimize(start=start)
    assert torch.equal(start, before)
    assert not torch.equal(latents, before)
    assert not any(t.requires_grad for t in (start, latents, trace.style, trace.content))


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (3, 2)])
def test_the_trace_has_a_row_per_step_and_a_column_per_item(batch, steps):
    _, trace = optimize(start=latents_of(batch), num_optimization_steps=steps)
    assert trace.style.shape == trace.content.shape == (len(TIMESTEPS) * steps, batch)


def test_the_trace_tells_the_losses_before_each_step():
    start, content = latents_of(2), one_each(latents_of(2, seed=5))
    _, trace = optimize(start=start, content=content)
    t = TIMESTEPS[0].tensor
    current = toy(start, t)
    style = shared(latents_of(seed=1), 2)
    torch.testing.assert_close(
        trace.style[0], attention_distillation_loss(current, style.features(toy, t))
    )
    torch.testing.assert_close(trace.content[0], content_loss(current, content.features(toy, t)))


def test_without_content_the_content_loss_is_zero_whatever_its_weight():
    light, trace = optimize(content_weight=0.0)
    heavy, _ = optimize(content_weight=9.0)
    assert torch.equal(light, heavy)
    assert torch.equal(trace.content, torch.zeros(4, 1))


def test_a_weight_of_zero_still_reports_the_content_loss():
    content = one_each(latents_of(seed=5))
    without, _ = optimize(content_weight=0.0)
    latents, trace = optimize(content=content, content_weight=0.0)
    assert torch.equal(latents, without)
    assert (trace.content > 0).all()


def test_the_toy_reaches_the_optimum_that_is_known():
    """A style of one colour: whatever attends to it becomes that colour."""
    colour = torch.tensor([0.3, -0.7, 1.1, 0.0])
    style = shared(colour[None, :, None, None].expand(1, 4, 4, 4))
    latents, trace = optimize(
        identity, timesteps=levels(*range(300, 0, -1)), style=style, learning_rate=0.02
    )
    torch.testing.assert_close(
        latents, colour[None, :, None, None].expand(1, 4, 4, 4), atol=0.05, rtol=0
    )
    assert trace.style[-1] < 0.05 * trace.style[0]


def test_a_heavy_content_weight_leads_to_the_content():
    content = latents_of(seed=5)
    latents, _ = optimize(
        identity,
        timesteps=levels(*range(300, 0, -1)),
        content=one_each(content),
        content_weight=100.0,
        learning_rate=0.02,
    )
    torch.testing.assert_close(latents, content, atol=0.05, rtol=0)


def test_it_is_one_adam_over_all_timesteps():
    """The loop written by hand, one optimiser for the whole run and the losses of the paper."""
    start, style, content = latents_of(), latents_of(seed=1), latents_of(seed=5)
    expected = start.clone().requires_grad_()
    adam = torch.optim.Adam([expected], lr=0.03, betas=(0.9, 0.999), eps=1e-8)
    for t in [one.tensor for one in TIMESTEPS]:
        for _ in range(2):
            (mine,), (theirs,), (kept,) = toy(expected, t), toy(style, t), toy(content, t)
            target = F.scaled_dot_product_attention(1.5 * mine.query, theirs.key, theirs.value)
            loss = (mine.out - target.detach()).abs().mean()
            loss = loss + 0.25 * (mine.query - kept.query).abs().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()

    latents, _ = optimize(
        start=start,
        style=shared(style),
        content=one_each(content),
        num_optimization_steps=2,
        learning_rate=0.03,
        attn_scale=1.5,
    )
    torch.testing.assert_close(latents, expected.detach())


def test_everything_is_seen_clean_at_every_timestep_references_once():
    seen = []

    def watch(latents, timestep, **options):
        seen.append((int(timestep), latents.requires_grad, latents.detach().clone()))
        return toy(latents, timestep)

    start, style, content = latents_of(), latents_of(seed=1), latents_of(seed=5)
    optimize(
        watch, start=start, style=shared(style), content=one_each(content), num_optimization_steps=3
    )
    per_timestep = 2 + 3
    assert [t for t, *_ in seen] == [t.number for t in TIMESTEPS for _ in range(per_timestep)]
    references = [latents for _, optimised, latents in seen if not optimised]
    assert len(references) == 2 * len(TIMESTEPS)
    assert all(torch.equal(latents, style) for latents in references[::2])
    assert all(torch.equal(latents, content) for latents in references[1::2])
    assert torch.equal(seen[2][2], start)


def test_several_styles_are_read_as_one_long_sequence():
    one, two = latents_of(seed=1), latents_of(seed=2)
    apart, _ = optimize(style=shared(torch.cat([one, two])))
    joined, _ = optimize(style=shared(torch.cat([one, two], dim=-1)))  # twice the tokens
    torch.testing.assert_close(apart, joined)
    alone, _ = optimize(style=shared(one))
    assert not torch.allclose(apart, alone, atol=1e-3)


def test_a_style_may_have_another_size():
    latents, _ = optimize(style=shared(latents_of(seed=1, size=2)))
    assert latents.shape == (1, 4, 4, 4)


def test_items_follow_their_own_references():
    styles, contents, start = latents_of(3, seed=1), latents_of(3, seed=2), latents_of(3)
    index = [[2], [0], [1]]
    together, _ = optimize(
        start=start, style=References(styles, index), content=References(contents, index[::-1])
    )
    for row in range(3):
        alone, _ = optimize(
            start=start[row : row + 1],
            style=one_each(styles[index[row]]),
            content=one_each(contents[index[::-1][row]]),
        )
        torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_at_the_content_itself_the_content_loss_is_exactly_zero(tiny_backbone, batch):
    """Also where the passes have different shapes and round differently."""
    content = latents_of(1, size=8)
    references = References(content, [[0]] * batch)
    extract = tiny_backbone.feature_extractor()
    start = content.expand(batch, -1, -1, -1)
    style = shared(latents_of(seed=1, size=8), batch)
    _, trace = optimize(extract, TIMESTEPS[:1], start, style, references, num_optimization_steps=2)
    assert torch.equal(trace.content[0], torch.zeros(batch))
    assert (trace.content[1] > 0).all()
    # The first step is that of the style alone: rounding does not become a gradient.
    first, _ = optimize(extract, TIMESTEPS[:1], start, style, references)
    free, _ = optimize(extract, TIMESTEPS[:1], start, style, content_weight=0.0)
    torch.testing.assert_close(first, free, atol=0, rtol=0)


def test_only_items_on_their_content_are_told_to_be_there():
    content = latents_of(3)
    latents = content.clone()
    latents[1, 0, 0, 0] += 1e-6
    assert moved(latents, content).tolist() == [0.0, 1.0, 0.0]


def test_the_loss_falls_on_the_tiny_backbone(tiny_backbone):
    _, trace = optimize(
        tiny_backbone.feature_extractor(),
        tiny_backbone.dynamics(8).timesteps,
        latents_of(size=8),
        shared(latents_of(seed=1, size=8)),
    )
    assert trace.style[-1] < 0.9 * trace.style[0]


def test_every_timestep_is_reported_in_turn():
    steps = []
    optimize(on_step_end=steps.append)
    assert steps == [0, 1, 2, 3]
