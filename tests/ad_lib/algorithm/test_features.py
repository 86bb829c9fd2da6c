"""References: each is looked at once, and every item gets its own, in their order."""

from __future__ import annotations

import pytest
import torch

from ad_lib.algorithm.features import AttentionFeatures, References
from ad_lib.algorithm.losses import distilled_attention
from tests.ad_lib.waiting import NothingWaits

TIMESTEP = torch.tensor(501)


@pytest.fixture
def latents():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def counted():
    """A toy extractor whose features are the latents' cells, and the batches that it was given."""
    batches = []

    def extract(latents, timestep, *, projections_only=False):
        batches.append(latents)
        tokens = latents.flatten(2).mT[:, None]
        return [AttentionFeatures(tokens, 2 * tokens, 3 * tokens, None)]

    return extract, batches


def test_each_distinct_reference_is_computed_once(counted):
    extract, batches = counted
    latents = torch.randn(2, 4, 1, 3)
    References(latents, [[0], [1], [0], [0]]).features(extract, TIMESTEP)
    assert len(batches) == 1
    assert torch.equal(batches[0], latents)


def test_every_item_gets_its_own_references_in_their_order(counted):
    latents = torch.randn(3, 4, 1, 2)
    references = References(latents, [[0, 2], [1, 0]])
    (seen,) = references.features(counted[0], TIMESTEP)
    tokens = latents.flatten(2).mT
    expected = torch.stack([tokens[[0, 2]].flatten(0, 1), tokens[[1, 0]].flatten(0, 1)])[:, None]
    torch.testing.assert_close(seen.query, expected)
    torch.testing.assert_close(seen.key, 2 * expected)
    torch.testing.assert_close(seen.value, 3 * expected)


def test_reference_latents_are_handed_out_per_item():
    latents = torch.randn(3, 4, 1, 2)
    references = References(latents, [[0, 2], [1, 0]])
    assert torch.equal(torch.stack(references.of_item(0)), latents[[0, 2]])
    assert torch.equal(torch.stack(references.of_item(1)), latents[[1, 0]])
    assert torch.equal(References(latents, [[2], [0]]).one_per_item(), latents[[2, 0]])


def test_references_carry_no_graph(tiny_backbone, latents):
    references = References(latents.requires_grad_(), [[0], [1]])
    for seen in references.features(tiny_backbone.feature_extractor(), TIMESTEP):
        assert not seen.key.requires_grad
        assert not seen.value.requires_grad


@pytest.mark.parametrize("weight", [1, 2, 3])
def test_a_reference_of_weight_n_counts_as_if_it_were_listed_n_times(
    tiny_backbone, latents, weight
):
    extract = tiny_backbone.feature_extractor()
    current = extract(latents[:1], TIMESTEP)
    weighted = References(latents, [[0, 1]], [1, weight]).features(extract, TIMESTEP)
    repeated = References(latents, [[0] + [1] * weight]).features(extract, TIMESTEP)
    for mine, ours, theirs in zip(current, weighted, repeated, strict=True):
        torch.testing.assert_close(
            distilled_attention(mine, ours), distilled_attention(mine, theirs), atol=1e-5, rtol=1e-4
        )


def test_weights_of_references_are_not_copied_to_the_device_at_each_timestep():
    def extract(latents, timestep, *, projections_only=False):
        tokens = latents.flatten(2).mT[:, None]
        return [AttentionFeatures(tokens, tokens, tokens, None)]

    styles = [torch.randn(4, 2, 3), torch.randn(4, 3, 3)]
    references = References(styles, [[0, 1]], [2.0, 0.0])
    with NothingWaits():
        (layer,) = references.features(extract, TIMESTEP)
    expected = [torch.tensor(2.0).log()] * 6 + [torch.tensor(-torch.inf)] * 9
    torch.testing.assert_close(layer.bias, torch.stack(expected)[None])


def test_a_reference_of_weight_zero_is_not_seen(tiny_backbone, latents):
    extract = tiny_backbone.feature_extractor()
    current = extract(latents[:1], TIMESTEP)
    weighted = References(latents, [[0, 1]], [1, 0]).features(extract, TIMESTEP)
    alone = References(latents, [[0]]).features(extract, TIMESTEP)
    for mine, ours, theirs in zip(current, weighted, alone, strict=True):
        torch.testing.assert_close(
            distilled_attention(mine, ours), distilled_attention(mine, theirs), atol=1e-5, rtol=1e-4
        )


def test_references_of_different_sizes_are_one_sequence_in_their_order(counted):
    wide, narrow = torch.randn(4, 1, 5), torch.randn(4, 1, 2)
    extract, batches = counted
    references = References([wide, narrow], [[0, 1], [1, 0]])
    (seen,) = references.features(extract, TIMESTEP)
    first, second = wide.flatten(1).T, narrow.flatten(1).T
    torch.testing.assert_close(seen.query[0, 0], torch.cat([first, second]))
    torch.testing.assert_close(seen.query[1, 0], torch.cat([second, first]))
    assert [len(batch) for batch in batches] == [1, 1]
