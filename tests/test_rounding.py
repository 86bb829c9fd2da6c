"""The bound that is measured forgives what rounding does, and nothing else."""

from __future__ import annotations

import pytest
import torch

from tests.rounding import (
    Wanted,
    assert_equal_but_for_a_few_signs,
    assert_equal_up_to_rounding,
    compare,
    worst,
)

INPUTS = torch.linspace(-1, 1, 100)


def test_a_figure_within_its_tolerance_is_not_measured_again():
    calls = []

    def compute(disturb):
        calls.append(1)
        return {"doubled": 2 * disturb(INPUTS)}

    (figure,) = compare(compute, {"doubled": Wanted(2 * INPUTS)})
    assert figure.error == 0
    assert len(calls) == 1


def test_a_sign_that_rounding_decides_is_forgiven():
    nearly_nothing = torch.cat([INPUTS, torch.tensor([1e-8])])
    other = nearly_nothing.sign()
    other[-1] = -1
    assert_equal_up_to_rounding(
        lambda disturb: {"signs": disturb(nearly_nothing).sign()}, {"signs": other}
    )


@pytest.mark.parametrize("wrong", [-INPUTS, INPUTS * 1.001, INPUTS + 1e-4, INPUTS * torch.nan])
def test_another_result_is_not_forgiven(wrong):
    with pytest.raises(AssertionError, match="result"):
        assert_equal_up_to_rounding(
            lambda disturb: {"result": disturb(INPUTS)}, {"result": Wanted(wrong, deviation=worst)}
        )


def test_what_was_not_computed_fails():
    with pytest.raises(AssertionError, match="was not computed"):
        assert_equal_up_to_rounding(lambda disturb: {}, {"result": INPUTS})


def test_of_latents_after_a_step_a_few_may_have_gone_the_other_way_but_not_many():
    ours = torch.full((200,), 0.05)
    theirs = ours.clone()
    theirs[:3] = -0.05
    assert_equal_but_for_a_few_signs(ours, theirs, learning_rate=0.05)
    theirs[:10] = -0.05
    with pytest.raises(AssertionError):
        assert_equal_but_for_a_few_signs(ours, theirs, learning_rate=0.05)
