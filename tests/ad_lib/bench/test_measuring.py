"""What a measurement counts, and what it says of rows that cannot be had."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ad_lib import Backbone, RequestError
from ad_lib.bench.flops import counted
from ad_lib.bench.measuring import NO_TIME_LEFT, OUT_OF_MEMORY, measure
from ad_lib.bench.ways import InBatches
from ad_lib.bench.workload import Workload

SMALL = Workload(
    task="style-transfer", size=64, batch_size=2, contents=2, settings={"num_inference_steps": 1}
)


def test_a_product_counts_two_operations_for_each_multiply_and_add():
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert counted(lambda: left @ right)[1] == 2 * 3 * 5 * 7


def test_a_frozen_convolution_costs_as_much_backward_as_forward():
    convolution = nn.Conv2d(4, 6, 3, padding=1).requires_grad_(False)
    pixels = torch.ones(1, 4, 8, 8, requires_grad=True)
    forward = 2 * 6 * 4 * 9 * 64
    assert counted(lambda: convolution(pixels))[1] == forward
    total = counted(lambda: torch.autograd.grad(convolution(pixels).sum(), pixels))[1]
    assert total == 2 * forward


def test_attention_counts_two_products_on_every_device():
    query, key = torch.ones(2, 3, 16, 8), torch.ones(2, 3, 24, 8)
    products = 2 * (2 * 2 * 3 * 16 * 24 * 8)
    for device in ("cpu", "meta"):
        moved = query.to(device), key.to(device), key.to(device)
        attend = lambda of=moved: F.scaled_dot_product_attention(*of)  # noqa: E731
        assert counted(attend)[1] == products


def test_sharing_and_stopping_early_save_operations(tiny_backbone: Backbone):
    names = ["batch", "shared-references", "early-exit"]
    before = tiny_backbone.techniques
    rows = measure(tiny_backbone, [SMALL], techniques=names, repeats=1).rows
    assert tiny_backbone.techniques is before
    operations = [row.flops for row in rows if row.flops is not None]
    assert len(operations) == 3
    assert operations == sorted(operations, reverse=True)
    assert len(set(operations)) == 3


def test_a_row_that_runs_out_of_memory_says_so_and_the_others_are_measured(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
):
    class Greedy(InBatches):
        def __call__(self, *arguments):
            if not self.shares:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(*arguments)

    monkeypatch.setattr("ad_lib.bench.measuring.InBatches", Greedy)
    names = ["batch", "shared-references"]
    failed, measured = measure(tiny_backbone, [SMALL], techniques=names, repeats=1).rows
    assert (failed.note, failed.seconds) == (OUT_OF_MEMORY, [])
    assert len(measured.seconds) == 1


def test_rows_for_which_no_time_is_left_say_so(tiny_backbone: Backbone):
    rows = measure(tiny_backbone, [SMALL], techniques=["literal"], until=0.0).rows
    assert [row.note for row in rows] == [NO_TIME_LEFT]


def test_an_unknown_technique_names_the_nearest_one(tiny_backbone: Backbone):
    with pytest.raises(RequestError, match="early-exit"):
        measure(tiny_backbone, [SMALL], techniques=["early-exits"])
