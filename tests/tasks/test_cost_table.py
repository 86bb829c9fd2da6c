from __future__ import annotations

from pathlib import Path
from statistics import median

from infra.store import open_store
from tasks.results.cost_table import TABLE_1, cost_table
from tasks.runs.committed import open_committed
from tasks.runs.run_folder import open_run
from tests.audit import audit
from tests.tasks.runs import finish, prepare

SWEEP = [
    {"label": "b", "num_inference_steps": 1},
    {"label": "a", "task": "texture-sample", "num_inference_steps": 1},
]
TEXTURES = {"task": "texture-optimize", "inputs": {"texture": "style"}, "sweep": SWEEP}


def test_a_table_of_costs_has_the_rows_of_each_entry_in_the_order_of_the_sweep(pictures: Path):
    run = prepare(pictures, **TEXTURES)
    finish(run)
    table = cost_table(open_committed(*open_run(run.uri)))
    assert [cost.label for cost in table.costs] == ["b", "a"]
    for cost in table.costs:
        rows = [row for row in audit(run.uri).rows if row["label"] == cost.label]
        seconds = [row["synthesis_seconds"] for row in rows]
        assert sorted(cost.seconds) == sorted(seconds)
        assert cost.median_seconds == median(seconds)
        assert all(0 < row["synthesis_seconds"] < row["seconds"] for row in rows)
        assert cost.memory_bytes is None
        assert cost.published is None
    assert table.sizes == ("64x64",)
    assert not table.is_compiled
    assert open_store(run.uri).find("index.json")


def test_a_table_of_a_run_that_is_only_planned_has_no_entries(pictures: Path):
    run = prepare(pictures, **TEXTURES)
    table = cost_table(open_committed(*open_run(run.uri)))
    assert table.costs == ()


def test_the_published_table_has_optimisation_and_sampling_at_three_numbers_each():
    assert [key for key in TABLE_1 if key[0] == "texture-optimize"] == [
        ("texture-optimize", steps, 1) for steps in (100, 200, 300)
    ]
    assert [key for key in TABLE_1 if key[0] == "texture-sample"] == [
        ("texture-sample", 50, iterations) for iterations in (1, 2, 3)
    ]
