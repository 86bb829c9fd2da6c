"""The two losses, on random features without any network."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ad_lib.algorithm.features import AttentionFeatures
from ad_lib.algorithm.losses import attention_distillation_loss, content_loss, distilled_attention

HEADS, HEAD_DIM = 2, 3
LAYERS = 2


def random_features(batch=1, tokens=5, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def layer():
        q, k, v = torch.randn(3, batch, HEADS, tokens, HEAD_DIM, generator=generator)
        return AttentionFeatures(q, k, v, F.scaled_dot_product_attention(q, k, v))

    return [layer() for _ in range(LAYERS)]


def with_gradients(features):
    return [
        AttentionFeatures(
            *(tensor.clone().requires_grad_() for tensor in (f.query, f.key, f.value, f.out))
        )
        for f in features
    ]


def changed(features, **fields):
    """Every layer with some of its tensors passed through a function."""
    return [replace(f, **{n: of(getattr(f, n)) for n, of in fields.items()}) for f in features]


def test_latents_that_attend_to_themselves_have_no_distillation_loss():
    features = random_features()
    torch.testing.assert_close(attention_distillation_loss(features, features), torch.zeros(1))


def test_equal_queries_have_no_content_loss():
    current, content = random_features(seed=1), random_features(seed=2)
    content = [
        replace(theirs, query=mine.query) for mine, theirs in zip(current, content, strict=True)
    ]
    assert content_loss(current, content).item() == 0.0


def test_the_content_loss_reads_queries_only():
    current, content = random_features(seed=1), random_features(seed=2)
    other = changed(content, key=torch.zeros_like, value=torch.zeros_like, out=torch.zeros_like)
    assert torch.equal(content_loss(current, content), content_loss(current, other))


def test_losses_are_means_over_an_item_summed_over_layers():
    current, style = random_features(seed=1), random_features(seed=2, tokens=7)
    content = random_features(seed=3)
    style_loss = sum(
        (mine.out - F.scaled_dot_product_attention(mine.query, theirs.key, theirs.value))
        .abs()
        .mean()
        for mine, theirs in zip(current, style, strict=True)
    )
    kept = sum((a.query - b.query).abs().mean() for a, b in zip(current, content, strict=True))
    torch.testing.assert_close(attention_distillation_loss(current, style), style_loss[None])
    torch.testing.assert_close(content_loss(current, content), kept[None])


@given(seed=st.integers(0, 1000), batch=st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_an_items_losses_do_not_depend_on_its_batch_mates(seed, batch):
    current, style = random_features(batch, seed=seed), random_features(batch, seed=seed + 1)
    for loss in (attention_distillation_loss, content_loss):
        together = loss(current, style)
        assert together.shape == (batch,)
        for row in range(batch):
            alone = loss(*(one_item(features, row) for features in (current, style)))
            torch.testing.assert_close(alone[0], together[row])


def one_item(features, row):
    def pick(tensor):
        return tensor[row : row + 1]

    return changed(features, query=pick, key=pick, value=pick, out=pick)


def test_the_style_gradient_reaches_the_output_only():
    current, style = (
        with_gradients(random_features(seed=1)),
        with_gradients(random_features(seed=2)),
    )
    attention_distillation_loss(current, style).sum().backward()
    for mine, theirs in zip(current, style, strict=True):
        assert mine.out.grad.abs().sum() > 0
        assert [t.grad for t in (mine.query, mine.key, mine.value)] == [None] * 3
        assert [t.grad for t in (theirs.query, theirs.key, theirs.value, theirs.out)] == [None] * 4


def test_the_content_gradient_reaches_the_query_only():
    current, content = with_gradients(random_features(seed=1)), random_features(seed=2)
    content_loss(current, content).sum().backward()
    for mine in current:
        assert mine.query.grad.abs().sum() > 0
        assert [t.grad for t in (mine.key, mine.value, mine.out)] == [None] * 3


@pytest.mark.parametrize("loss", [attention_distillation_loss, content_loss])
def test_a_gradient_is_a_sign_over_the_items_elements_whatever_the_distance(loss):
    """An L1 mean: neither squared, nor divided by the size of the batch."""
    current = with_gradients(random_features(batch=3, seed=1))
    loss(current, random_features(batch=3, seed=2)).sum().backward()
    for mine in current:
        moved = mine.out if loss is attention_distillation_loss else mine.query
        step = 1 / moved[0].numel()
        torch.testing.assert_close(moved.grad.abs(), torch.full_like(moved.grad, step))


@pytest.mark.parametrize("copies", [2, 3])
def test_a_style_beside_itself_changes_nothing(copies):
    current, style = random_features(seed=1), random_features(seed=2)

    def repeat(tokens):
        return torch.cat([tokens] * copies, dim=2)

    repeated = changed(style, key=repeat, value=repeat)
    torch.testing.assert_close(
        attention_distillation_loss(current, repeated), attention_distillation_loss(current, style)
    )


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_order_of_style_tokens_does_not_matter(seed):
    current, style = random_features(seed=seed), random_features(tokens=7, seed=seed + 1)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    shuffled = changed(style, key=lambda k: k[:, :, order], value=lambda v: v[:, :, order])
    torch.testing.assert_close(
        attention_distillation_loss(current, shuffled), attention_distillation_loss(current, style)
    )


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10.0))
@settings(max_examples=15, deadline=None)
def test_attn_scale_multiplies_the_query_and_nothing_else(seed, scale):
    current, style = random_features(seed=seed), random_features(seed=seed + 1)
    scaled = changed(current, query=lambda query: scale * query)  # out stays
    torch.testing.assert_close(
        attention_distillation_loss(current, style, partial(distilled_attention, attn_scale=scale)),
        attention_distillation_loss(scaled, style),
    )


def test_a_large_attn_scale_picks_the_nearest_style_token():
    (current, *_), (style, *_) = random_features(seed=1), random_features(tokens=7, seed=2)
    nearest = (current.query @ style.key.mT).argmax(-1, keepdim=True)
    expected = style.value.gather(2, nearest.expand(-1, -1, -1, HEAD_DIM))
    torch.testing.assert_close(distilled_attention(current, style, attn_scale=1e6), expected)


def test_losses_are_float32_whatever_the_network_computes_in():
    def half(tensor):
        return tensor.bfloat16()

    current, style = (
        changed(random_features(seed=seed), query=half, key=half, value=half, out=half)
        for seed in (1, 2)
    )
    assert attention_distillation_loss(current, style).dtype == torch.float32
    assert content_loss(current, style).dtype == torch.float32


@pytest.mark.parametrize("loss", [attention_distillation_loss, content_loss])
def test_different_numbers_of_layers_are_refused(loss):
    features = random_features()
    with pytest.raises(ValueError, match="argument"):
        loss(features, features[:1])
