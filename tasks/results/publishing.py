"""How are the derived files of a run brought up to date, by many at once, and never back in time?

`index.json`, `metadata/<digest12>/`, the contact sheet and the page are made from commits and can
be made again at any time. Whoever writes looks again afterwards, until the index covers every
commit that there is. What is up to date is not written again.
"""

from __future__ import annotations

from infra.store import Store
from manifests.commits import INDEX_NAME, REPORT_NAME, Index, IndexedShard, RunRecord
from manifests.counting import is_current, superseded_shards
from manifests.generations import Generation
from tasks.results.contact_sheet import CONTACT_SHEET_NAME, render_contact_sheet
from tasks.results.final_rows import write_final_rows
from tasks.results.report import page_shows, render_report
from tasks.runs.committed import Committed, check_sizes, find_index, planned_commits, read_commits
from tasks.runs.run_folder import find_generations, listed_commits, open_run, recorded_job
from tasks.runs.run_plan import RunPlan, open_plan

MAX_ROUNDS = 10
"""After so many the commits come faster than they are indexed, and those who make them go on."""


def publish(run_uri: str) -> Index:
    """Brings every derived file of a run up to date with its commits.

    Raises:
        RunFolderError: there is no run, or one of its files is missing or damaged.
    """
    return Publication(*open_run(run_uri)).publish()


class Publication:
    """The derived files of one run; what was read of its plans is kept for the next time.

    Args:
        store: of the run folder.
        run: the run.
    """

    def __init__(self, store: Store, run: RunRecord) -> None:
        self._store, self._run = store, run
        self._plan: RunPlan | None = None

    def publish(self) -> Index:
        """Brings every derived file up to date.

        Raises:
            RunFolderError: a file of the run is missing or damaged.
        """
        num_rounds = 0
        while True:
            num_rounds += 1
            index = self.publish_index()
            check_sizes(self._store, [one for one in index.shards if not one.superseded])
            if self._has_page(index):
                return index
            self._publish_page(index)
            if not index.complete or num_rounds == MAX_ROUNDS:
                return index  # what came meanwhile is for the next page

    def is_up_to_date(self) -> bool:
        """Whether the run is complete and its index says so; no commit is read."""
        index = find_index(self._store, self._run)
        if index is None or not index.metadata:
            return False
        live = {one.shard: one.etag for one in index.shards if not one.superseded}
        listed = listed_commits(self._store)
        num_generations = 1 + len(self._generations())
        return num_generations == len(index.generations) and all(
            shard in listed and listed[shard].etag == etag for shard, etag in live.items()
        )

    def publish_index(self, *, also_complete: bool = True) -> Index:
        """Brings the index up to date, and the final rows of a complete run with it.

        Args:
            also_complete: whether that is done for a complete run too; it reads every row.

        Raises:
            RunFolderError: a record of the run is damaged, or a Parquet part of a complete one.
        """
        num_rounds = 0
        while True:
            num_rounds += 1
            before = self._etag()
            published = find_index(self._store, self._run)
            index = self._index(published)
            if index.complete and not also_complete:
                return index
            index = self._with_final_rows(index) if index.complete else index
            if index == published or num_rounds == MAX_ROUNDS:
                return index
            if self._etag() == before:
                self._store.put(INDEX_NAME, index.to_bytes())

    def _index(self, published: Index | None) -> Index:
        """The index as the commits say now."""
        generations = self._generations()
        commits = read_commits(
            self._store, superseded=superseded_shards(generations), index=published
        )
        if published and is_current(published, self._run, generations, commits.values()):
            return published
        return self._committed(commits).index()

    def _generations(self) -> tuple[Generation, ...]:
        if self._plan is None:
            return find_generations(self._store, self._run)
        self._plan = self._plan.refreshed()
        return self._plan.generations

    def _committed(self, commits: dict[str, IndexedShard]) -> Committed:
        if self._plan is None:
            self._plan = open_plan(self._store, self._run)
        return planned_commits(self._plan, commits)

    def _with_final_rows(self, index: Index) -> Index:
        """The index with the files of final rows, which are there afterwards."""
        if index.metadata:
            sizes = {one.key: one.size for one in self._store.list(index.metadata_folder)}
            if all(sizes.get(file.name) == file.bytes for file in index.metadata):
                return index
        files = write_final_rows(self._committed(_commits_in(index)), index)
        return index.model_copy(update={"metadata": files})

    def _has_page(self, index: Index) -> bool:
        if recorded_job(self._run).columns and not self._store.find(CONTACT_SHEET_NAME):
            return False
        return page_shows(self._store, index)

    def _publish_page(self, index: Index) -> None:
        """Makes the page, and before it what it shows and links to."""
        committed = self._committed(_commits_in(index))
        sheet, page = render_contact_sheet(committed), render_report(committed, index)
        if sheet:
            self._store.put(CONTACT_SHEET_NAME, sheet)
        self._store.put(REPORT_NAME, page.encode())

    def _etag(self) -> str | None:
        found = self._store.find(INDEX_NAME)
        return found and found.etag


def _commits_in(index: Index) -> dict[str, IndexedShard]:
    return {one.shard: one for one in index.shards}
