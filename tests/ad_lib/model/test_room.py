"""How many items fit together: told from the network, the sizes and the memory that there is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ad_lib.batch import automatic_batch_size
from ad_lib.model.room import (
    MAX_BATCH_CELLS,
    MAX_BATCH_SIZE,
    CellBytes,
    main_memory,
    memory_class,
    room,
)
from ad_lib.settings import Settings

GIB = 2**30
cells = st.integers(64, 300_000)
networks = st.builds(CellBytes, held=st.floats(1e3, 1e6), features=st.floats(1e2, 1e5))
memory = st.floats(0, 1e12)


def test_what_a_pass_holds_grows_with_the_cells_as_the_small_pass_said(tiny_backbone):
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    weights = {one.untyped_storage().data_ptr() for one in tiny_backbone.unet.parameters()}
    latents = torch.zeros(3, 4, 32, 24, requires_grad=True)
    extract = tiny_backbone.feature_extractor()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = extract(latents, torch.tensor(500))
    held = sum(one.untyped_storage().nbytes() for at, one in kept.items() if at not in weights)
    predicted = tiny_backbone.cell_bytes
    assert held == pytest.approx(predicted.held * 3 * 32 * 24, rel=0.15)
    tapped = sum(layer.key.nbytes + layer.value.nbytes for layer in features)
    assert tapped == pytest.approx(predicted.features * 3 * 32 * 24)


@given(network=networks, num_bytes=memory, of_item=cells, of_references=cells)
def test_a_batch_fits_into_its_memory_unless_it_is_one_item(
    network, num_bytes, of_item, of_references
):
    sizes = {"cells": of_item, "reference_cells": of_references}
    found = network.batch_size(num_bytes, **sizes)
    assert 1 <= found <= MAX_BATCH_SIZE
    if found > 1:
        assert network.peak(found, **sizes) <= num_bytes
        assert found * of_item <= MAX_BATCH_CELLS


@given(network=networks, num_bytes=memory, of_item=cells, of_references=cells, more=cells)
def test_more_memory_gives_no_smaller_batch_and_a_larger_picture_no_larger_one(
    network, num_bytes, of_item, of_references, more
):
    sizes = {"cells": of_item, "reference_cells": of_references}
    found = network.batch_size(num_bytes, **sizes)
    assert network.batch_size(2 * num_bytes, **sizes) >= found
    assert network.batch_size(num_bytes, cells=of_item + more, reference_cells=of_references) <= (
        found
    )
    assert network.batch_size(num_bytes, cells=of_item, reference_cells=of_references + more) <= (
        found
    )


@pytest.mark.parametrize(
    ("gib", "expected"),
    [(79.1, 80), (79.6, 80), (23.5, 24), (22.0, 24), (3.8, 4), (139.8, 128), (0.4, 1), (9000, 512)],
)
def test_devices_of_one_kind_are_taken_to_have_the_same_memory(gib, expected):
    assert memory_class(int(gib * GIB)) == expected * GIB


def test_sharers_and_weights_leave_less_room():
    cpu = torch.device("cpu")
    assert room(cpu, 0) == memory_class(main_memory()) / 2
    assert room(cpu, GIB) == room(cpu, 0) - GIB
    assert room(cpu, 0, sharers=4) == room(cpu, 0) / 4


def test_small_pictures_come_in_full_batches_and_huge_ones_alone(tiny_backbone):
    def fitting(side: int) -> int:
        return automatic_batch_size(
            tiny_backbone, Settings(), width=side, height=side, num_references=1
        )

    assert fitting(64) == MAX_BATCH_SIZE
    assert fitting(4096) == 1
