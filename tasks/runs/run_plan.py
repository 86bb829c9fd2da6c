"""What is planned in a run folder, over all of its generations.

A plan never changes, and a run may grow: `refreshed` shows the generations that came since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from infra.store import Store
from manifests.commits import PlanReference, RunRecord
from manifests.counting import PLAN_COLUMNS, Contested, contested_items, superseded_shards
from manifests.generations import Generation
from manifests.items import Item
from manifests.plan import PlannedShard, generation_of
from manifests.plan_table import PlanFile
from tasks.runs.run_folder import find_generations, load_plan


@dataclass(frozen=True)
class RunPlan:
    """The shards and items of a run; made by `open_plan`.

    Attributes:
        run: generation 0.
        generations: those after it, in order.
        plans: of each generation, 0 included.
    """

    store: Store
    run: RunRecord
    generations: tuple[Generation, ...]
    plans: tuple[PlanFile, ...]

    @cached_property
    def every_shard(self) -> Mapping[str, PlannedShard]:
        """Every planned shard, in plan order."""
        return {name: shard for plan in self.plans for name, shard in plan.shards.items()}

    @cached_property
    def shards(self) -> Mapping[str, PlannedShard]:
        """The planned shards that are not superseded, in plan order."""
        gone = superseded_shards(self.generations)
        return {name: shard for name, shard in self.every_shard.items() if name not in gone}

    def close(self) -> None:
        """Closes the files of all plans; temporary ones are removed."""
        for plan in self.plans:
            plan.close()

    def counting_items(self) -> Iterator[Item]:
        """Every item that nothing replaces, once, as it was planned first."""
        seen: set[str] = set()
        for item in self.iter_items():
            is_again = item.item_id in self.contested.repeated and item.item_id in seen
            if not is_again and item.item_id not in self.contested.replaced:
                seen.update([item.item_id] if item.item_id in self.contested.repeated else [])
                yield item

    @property
    def num_items(self) -> int:
        """The items of all generations; one that is planned again counts again."""
        return sum(plan.num_items for plan in self.plans)

    def items(self, shard: str) -> list[Item]:
        """The items of a shard, in plan order; only its part of the plan is read.

        Raises:
            KeyError: no generation has such a shard.
        """
        return self.plans[generation_of(shard)].items(shard)

    def iter_items(self) -> Iterator[Item]:
        """The items of every generation; one that is planned again comes again."""
        return chain.from_iterable(plan.iter_items() for plan in self.plans)

    def problems(self) -> Iterator[Item]:
        """The items that planning found wanting, of every generation."""
        return chain.from_iterable(plan.problems() for plan in self.plans)

    def reference(self, shard: str) -> PlanReference:
        """The run or the generation that planned a shard."""
        return self.generation(shard) or self.run

    def generation(self, shard: str) -> Generation | None:
        """The generation that planned a shard; None for the run's own plan."""
        number = generation_of(shard)
        return self.generations[number - 1] if number else None

    def changes(self, shard: str) -> Mapping[str, Any]:
        """What the generation of a shard changes of the run."""
        generation = self.generation(shard)
        return generation.changes if generation is not None else {}

    @cached_property
    def contested(self) -> Contested:
        """The items whose rows decide what counts."""
        if not self.generations:
            return Contested(self.run.num_items)
        return contested_items([plan.columns(*PLAN_COLUMNS) for plan in self.plans])

    def refreshed(self) -> RunPlan:
        """This plan, with the generations that were added since it was opened.

        Raises:
            RunFolderError: a generation or its plan is missing or damaged.
        """
        added = find_generations(self.store, self.run, known=len(self.generations))
        if not added:
            return self
        plans = _opened(self.store, added, first=len(self.plans))
        return RunPlan(self.store, self.run, (*self.generations, *added), (*self.plans, *plans))


def open_plan(store: Store, run: RunRecord) -> RunPlan:
    """What is planned in a run folder.

    Raises:
        RunFolderError: a generation or a plan is missing or damaged.
    """
    generations = find_generations(store, run)
    plans = _opened(store, (run, *generations), first=0)
    return RunPlan(store, run, generations, plans)


def _opened(
    store: Store, references: Sequence[PlanReference], *, first: int
) -> tuple[PlanFile, ...]:
    return tuple(
        load_plan(store, reference, generation=number)
        for number, reference in enumerate(references, start=first)
    )
