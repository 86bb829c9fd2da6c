"""An extension that dies at any write has planned what is new, or nothing."""

from __future__ import annotations

import shutil

import pytest

from tasks.inputs.resolving import resolve_job
from tasks.plans.extending import extend
from tasks.plans.planning import open_prepared
from tests.audit import audit
from tests.faults.workers import DEAD, extend_and_die, run_to_end
from tests.tasks.runs import make_job, prepare

WRITES = [("within", "plan/"), ("within", "sources/"), ("within", "generations/")]


@pytest.mark.parametrize(("when", "name"), [*WRITES, ("after", "generations/")])
def test_an_extension_that_is_killed_at_any_write_planned_all_or_nothing(pictures, when, name):
    job = make_job()
    first = prepare(pictures)
    shutil.copy(pictures / "content" / "a.png", pictures / "content" / "d.png")
    dumped = job.model_dump(exclude_unset=True)
    assert run_to_end(extend_and_die, str(pictures), dumped, when, name) == DEAD
    resolved = resolve_job(job, str(pictures))
    is_bound = (when, name) == ("after", "generations/")
    assert len(open_prepared(resolved).plan.generations) == is_bound
    assert (extend(resolved) is None) == is_bound
    plan = open_prepared(resolved).plan
    assert len(plan.generations) == 1
    assert plan.num_items == 8
    audit(first.uri, published=False, complete=False)
