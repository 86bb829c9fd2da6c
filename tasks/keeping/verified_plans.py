"""Are the records that say what a run has planned what they were: `run.json`, generations, plans?

Only who has a copy of them can bring them back: nothing else holds what they hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from infra.store import ObjectNotFound, Store
from manifests.commits import RUN_NAME, Index, PlanReference, RunRecord, StoredFile
from manifests.counting import superseded_shards
from manifests.errors import RunFolderError
from manifests.generations import Generation, generation_name, number_of, read_generation
from manifests.plan import PlannedShard, generation_of, plan_name
from manifests.plan_table import PlanFile
from manifests.records import MAX_RECORD_BYTES, fits_its_seal, is_as_written
from tasks.keeping.findings import Finding, finding, matter_of, stored_matter
from tasks.runs.run_folder import find_commit, load_plan


class VerifiedPlans:
    """What a run has planned, as far as its records and plans can be read.

    Attributes:
        references: `run.json` as 0, and the generations by number.
        plans: those that can be read.
        superseded: the shards that no longer count.
        shards: the others that the plans have.
        findings: what is wrong with records, plans and lists of sources.
    """

    def __init__(
        self, store: Store, run: RunRecord, committed: Collection[str], index: Index | None
    ) -> None:
        """Reads and checks all of it.

        Args:
            store: of the run folder.
            run: the run.
            committed: shards whose commits were listed before.
            index: as it was published last.
        """
        self._store, self._run = store, run
        self.findings: list[Finding] = []
        self.references: dict[int, PlanReference] = {0: run}
        self.plans: dict[int, PlanFile] = {}
        if not is_as_written(RunRecord, store.get_range(RUN_NAME, 0, MAX_RECORD_BYTES)):
            self._refuse(RUN_NAME, "is damaged (it is not as stylefarm wrote it)")
        self._read_generations()
        self._lost = set(self._lost_generations(committed, index))
        for number in sorted(self._lost):
            self._refuse(generation_name(number), "is missing, and the run has shards of it")
        for number, reference in self.references.items():
            self._read_plan(number, reference)
        known = (one for one in self.references.values() if isinstance(one, Generation))
        self.superseded = superseded_shards(known)
        self.shards: Mapping[str, PlannedShard] = {
            name: shard
            for plan in self.plans.values()
            for name, shard in plan.shards.items()
            if name not in self.superseded
        }

    def is_foreign(self, shard: str) -> bool:
        """Whether no plan has such a shard, as far as can be told."""
        number = generation_of(shard)
        if number > max(self.references):
            return number not in self._lost
        return number in self.plans and shard not in self.plans[number].shards

    def _read_generations(self) -> None:
        found = (number_of(listed.key) for listed in self._store.list("generations/"))
        for number in range(1, max(filter(None, found), default=0) + 1):
            try:
                self._read_generation(number)
            except ObjectNotFound:
                self._refuse(generation_name(number), "is missing")

    def _read_generation(self, number: int) -> None:
        name = generation_name(number)
        data = self._store.get_range(name, 0, MAX_RECORD_BYTES + 1)
        try:
            self.references[number] = read_generation(data, number, self._run)
        except RunFolderError as error:
            if fits_its_seal(data):  # of another run, or of a later version
                raise
            self._refuse(name, matter_of(error, name))
        else:
            if not is_as_written(Generation, data):
                self._refuse(name, "is damaged (it is not as stylefarm wrote it)")

    def _lost_generations(self, committed: Collection[str], index: Index | None) -> Iterator[int]:
        """Numbers after the last generation that the index names, or a commit whose plan is here.

        Other commits of such numbers are of another run.
        """
        last = max(self.references)
        yield from (one.number for one in index.generations if one.number > last) if index else ()
        for shard in committed:
            if generation_of(shard) > last and self._has_plan_of(shard):
                yield generation_of(shard)

    def _has_plan_of(self, shard: str) -> bool:
        try:
            commit = find_commit(self._store, shard)
        except RunFolderError:
            return False
        known = {reference.plan_digest for reference in self.references.values()}
        if commit is None or commit.plan_digest in known:
            return False
        return self._store.find(plan_name(commit.plan_digest)) is not None

    def _read_plan(self, number: int, reference: PlanReference) -> None:
        try:
            self.plans[number] = load_plan(self._store, reference, generation=number)
        except RunFolderError as error:
            self._refuse(reference.plan_name, matter_of(error, reference.plan_name))
        if reference.sources_name is not None and reference.sources_digest is not None:
            name = reference.sources_name
            listed = self._store.find(name)
            size = listed.size if listed else 0
            file = StoredFile(name=name, bytes=size, sha256=reference.sources_digest)
            if matter := stored_matter(self._store, file):
                self._refuse(name, matter)

    def _refuse(self, name: str, matter: str) -> None:
        self.findings.append(finding(name, matter, "restore"))
