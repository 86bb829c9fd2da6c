"""What is planned, as JSON documents; `flows/README.md` says what their names mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from manifests.items import Item
from manifests.plan_table import PlanFile
from tasks.plans.extending import Extension
from tasks.plans.retrying import Retry
from tasks.plans.source_changes import SourceChanges
from tasks.runs.run_plan import RunPlan
from tasks.work.predicting import Match

Document = dict[str, Any]


def plan_document(
    uri: str,
    plan: PlanFile | RunPlan,
    changes: SourceChanges | None = None,
    matches: Sequence[Match] | None = None,
) -> Document:
    """A plan, new or found.

    Args:
        uri: of the run folder.
        plan: what is planned.
        changes: of the sources since a plan that was found was made.
        matches: of a few pairs; None where nobody looked.
    """
    return {
        "run": uri,
        "is_new": changes is None,
        "items": plan.num_items,
        "shards": len(plan.shards),
        "sources": changes
        and {"came": changes.num_came, "gone": changes.num_gone, "changed": changes.num_changed},
        "problems": _problems(plan.problems()),
        "estimate": None,
        "matches": matches and [asdict(one) for one in matches],
    }


def extension_document(uri: str, extension: Extension | None) -> Document:
    """What an extension plans; nothing where there is none."""
    return {
        "run": uri,
        "items": extension.num_items if extension else 0,
        "replacing": extension.num_replacing if extension else 0,
        "problems": _problems(extension.problems if extension else ()),
    }


def retry_document(uri: str, retried: Retry) -> Document:
    """What a retry plans."""
    return {
        "run": uri,
        "items": sum(retried.by_class.values()),
        "by_class": dict(retried.by_class),
        "changes": dict(retried.changes),
    }


def _problems(items: Iterable[Item]) -> Iterator[Document]:
    for item in items:
        if problem := item.problem:
            error_class = problem.error_class.value
            yield {"key": item.key, "error_class": error_class, "error_message": problem.message}
