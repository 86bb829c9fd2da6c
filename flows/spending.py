"""How does a run end, where a budget may have ended its workers?"""

from __future__ import annotations

from flows.crew import Crew
from flows.progress import RunEnd
from manifests.budget import Bounds
from manifests.commits import Index
from manifests.job import Limits
from tasks.runs.faults import BudgetSpent
from tasks.runs.run_folder import open_run
from tasks.work.budget import budget_end

BUDGET_SPENT = BudgetSpent.__name__


def run_end(crew: Crew, index: Index, limits: Limits, bounds: Bounds) -> RunEnd:
    """How a run has ended whose workers were not asked to stop.

    Args:
        crew: its workers, which have ended.
        index: as it was published after that.
        limits: of the job.
        bounds: the budget.

    Returns:
        Where the budget does not cover what is left, an end of that name; its message says how to
        go on.
    """
    shortest = crew.uncovered_seconds
    if shortest is None or index.complete:
        return RunEnd.of(index, limits)
    sentence = budget_end(*open_run(crew.run_uri), index, bounds, shortest)
    return RunEnd(is_good=False, message=sentence, counts=index.counts, name=BUDGET_SPENT)


def refuse_spent(end: RunEnd) -> None:
    """Ends a command whose run was ended by its budget.

    Raises:
        BudgetSpent: it was.
    """
    if end.name == BUDGET_SPENT:
        raise BudgetSpent(end.message)
