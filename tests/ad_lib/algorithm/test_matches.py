from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest
import torch

from ad_lib.algorithm import matches
from ad_lib.algorithm.features import AttentionFeatures
from ad_lib.algorithm.labels import Regions
from ad_lib.algorithm.matches import match_uncertainty
from tests.ad_lib.waiting import NothingWaits

HEADS, WIDTH = 2, 16


def layer(seed: int, tokens: int, batch: int = 1, scale: float = 1.0) -> AttentionFeatures:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, batch, HEADS, tokens, WIDTH, generator=generator)
    return AttentionFeatures(scale * query, scale * key, value, None)


def permuted(features: AttentionFeatures, order: torch.Tensor) -> AttentionFeatures:
    query, key, value = (one[:, :, order] for one in (features.query, features.key, features.value))
    return AttentionFeatures(query, key, value, None)


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def dense(current, style, scale=1.0, allowed=None, bias: Any = 0.0):
    """The figure as its docstring states it, with whole matrices in numpy."""
    figures = []
    for head in range(HEADS):
        q, k, v = (
            one[0, head].double().numpy() for one in (current.query, current.key, current.value)
        )
        qs, ks = (one[0, head].double().numpy() for one in (style.query, style.key))
        alike = np.ones((len(q), len(ks)), bool) if allowed is None else allowed
        at_home = (
            np.ones((len(q), len(q)), bool)
            if allowed is None
            else allowed.astype(int) @ (allowed.T.astype(int)) > 0
        )
        step = scale / WIDTH**0.5
        a = softmax(np.where(alike, step * q @ ks.T + bias, -1e9))
        b = softmax(np.where(alike.T, step * qs @ k.T, -1e9))
        s = softmax(np.where(at_home, step * q @ k.T, -1e9))
        found, expected = a @ b @ v, s @ s @ v
        found, expected = found - found.mean(0), expected - expected.mean(0)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        figures.append(np.clip(1 - (found * expected).sum(1) / lengths, 0, 1).mean())
    return np.mean(figures)


def test_the_figure_is_that_of_a_dense_computation():
    current, style = layer(0, 12), layer(1, 9)
    found = match_uncertainty([current, layer(2, 6)], [style, layer(3, 7)], attn_scale=1.5)
    expected = np.mean([dense(current, style, 1.5), dense(layer(2, 6), layer(3, 7), 1.5)])
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_a_picture_is_sure_of_itself_in_any_order_and_listed_twice():
    picture = layer(0, 20)
    shuffled = permuted(picture, torch.randperm(20, generator=torch.Generator().manual_seed(1)))
    twice = permuted(picture, torch.arange(40) % 20)
    for style in (picture, shuffled, twice):
        assert match_uncertainty([picture], [style]).item() == pytest.approx(0, abs=1e-5)


def test_one_to_one_matches_are_sure_and_uniform_attention_is_not():
    names = torch.eye(16).expand(1, HEADS, 16, 16)
    values = layer(0, 16).value
    picture = AttentionFeatures(50 * names, 50 * names, values, None)
    assert match_uncertainty([picture], [permuted(picture, torch.arange(15, -1, -1))]) < 1e-5
    blank = AttentionFeatures(0 * names, 0 * names, values, None)
    assert match_uncertainty([picture], [blank]) > 0.99


def test_the_colours_and_the_order_of_a_style_do_not_matter_nor_which_head_is_which():
    picture, style = layer(0, 12), layer(1, 12)
    expected = match_uncertainty([picture], [style])
    other_values = AttentionFeatures(style.query, style.key, 7 - style.value, None)
    flipped = [
        AttentionFeatures(one.query.flip(1), one.key.flip(1), one.value.flip(1), None)
        for one in (picture, style)
    ]
    louder = AttentionFeatures(picture.query, picture.key, 3 * picture.value + 5, None)
    for mine, theirs in ((picture, other_values), flipped, (louder, style)):
        torch.testing.assert_close(match_uncertainty([mine], [theirs]), expected)


def test_an_item_has_the_same_figure_alone_and_in_any_batch():
    picture, style = layer(0, 12, batch=3), layer(1, 9, batch=3)
    together = match_uncertainty([picture], [style])
    alone = [match_uncertainty([picture.of_item(i)], [style.of_item(i)]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_queries_go_in_pieces_and_that_changes_nothing(monkeypatch):
    picture, style = layer(0, 50), layer(1, 30)
    whole = match_uncertainty([picture], [style])
    monkeypatch.setattr(matches, "MAX_QUERIES", 8)
    with NothingWaits() as seen:
        in_pieces = match_uncertainty([picture], [style])
    torch.testing.assert_close(in_pieces, whole)
    assert max(shape[2] for shape in seen.shapes) == 8


def test_tokens_match_those_of_their_own_label_only():
    wanted = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    there = torch.tensor([[0, 1, 1, 2], [0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 0, 2]])
    regions = Regions(
        [there], [wanted], source_size=(4, 4), target_size=(4, 4), token_grids=lambda size: [size]
    )
    picture, style = layer(0, 16), layer(1, 16)
    allowed = wanted.flatten()[:, None].numpy() == there.flatten().numpy()
    found = match_uncertainty([picture], [style], regions=regions)
    assert found.item() == pytest.approx(dense(picture, style, allowed=allowed), abs=1e-5)


def test_a_style_of_weight_zero_is_not_there():
    picture, style = layer(0, 10), layer(1, 8)
    weights = torch.tensor([[0.0] * 5 + [log(3)] * 3])
    weighted = AttentionFeatures(style.query, style.key, style.value, None, weights)
    found = match_uncertainty([picture], [weighted]).item()
    assert found == pytest.approx(dense(picture, style, bias=weights.numpy()), abs=1e-5)
    nothing = torch.tensor([[-torch.inf] * 5 + [0.0] * 3])
    without = AttentionFeatures(style.query, style.key, style.value, None, nothing)
    rest = permuted(style, torch.arange(5, 8))
    torch.testing.assert_close(
        match_uncertainty([picture], [without]), match_uncertainty([picture], [rest])
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_figure_to_its_rounding(dtype):
    def cast(one):
        query, key, value = (x.to(dtype) for x in (one.query, one.key, one.value))
        return AttentionFeatures(query, key, value, None)

    picture, style = layer(0, 12), layer(1, 9)
    found = match_uncertainty([cast(picture)], [cast(style)])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, match_uncertainty([picture], [style]), atol=0.03, rtol=0)
