"""What is in the folder of a study?

`study.json` is written last and once: a folder without it is no study, whatever lies there. The
same inputs and the same seed give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageOps

from infra.store import Store, honours_put_if_absent, local_path
from manifests.errors import ManifestError
from manifests.records import MAX_RECORD_BYTES
from tasks.runs.run_folder import refuse_linked_folders
from tasks.study.contests import Contest, Wanted, draw_contests
from tasks.study.criteria import CRITERIA, caption
from tasks.study.sessions import Asked, lay_out
from tasks.study.study_file import DECOY, STUDY_NAME, Case, Shown, Study, find_study

MAX_SIDE = 2048
"""Pixels; larger results are shown smaller."""

MAX_TRIALS = 30
"""Of each person, unless more are asked for."""

DECOY_BLOCK = 8
"""Pixels of one colour in the noise of attention trials."""


@dataclass(frozen=True)
class Built:
    """What has been built.

    Attributes:
        study: as it lies in the folder now.
        was_there: whether the very same one lay there before.
        contests: one for each task.
        num_comparisons: of all cases and entries.
    """

    study: Study
    was_there: bool
    contests: Sequence[Contest]
    num_comparisons: int

    @property
    def num_judged(self) -> tuple[int, int]:
        """How many people see the comparisons that are shown least and most."""
        counts = Counter(
            (trial.case, frozenset((trial.left, trial.right)))
            for of_person in self.study.sessions
            for trial in of_person
            if trial.kind == "plain"
        )
        fewest = min(counts.values()) if len(counts) == self.num_comparisons else 0
        return fewest, max(counts.values())


def build_study(store: Store, wanted: Wanted) -> Built:
    """Draw a study, and write it with copies of its pictures.

    Args:
        store: of the folder that becomes the study.
        wanted: what is compared, and how much of it is shown.

    Raises:
        ManifestError: what is asked for cannot be shown, or another study lies there.
        RunFolderError: a run folder is damaged.
        StoreError: a store refuses or does not answer.
    """
    existing = _existing(store)
    contests = draw_contests(wanted)
    comparisons = [one for contest in contests for one in contest.comparisons(wanted.all_pairs)]
    ours = contests[0].ours.name
    asked = Asked(
        people=wanted.num_people,
        trials=wanted.num_trials or min(len(comparisons), MAX_TRIALS),
        repeats=wanted.num_repeats,
        attention=wanted.num_attention,
    )
    sessions = lay_out(comparisons, ours, asked, Random(f"sessions {wanted.seed}"))
    with_decoy = {
        trial.case for of_person in sessions for trial in of_person if trial.kind == "attention"
    }
    pictures = _Pictures(store, existing)
    study = Study(
        title=wanted.title,
        consent=wanted.consent,
        seed=wanted.seed,
        ours=ours,
        question=wanted.question,
        criteria={contest.task: CRITERIA[contest.kind] for contest in contests},
        cases=tuple(
            _case(contest, case, pictures, wanted.seed, contest.case_id(case) in with_decoy)
            for contest in contests
            for case in contest.cases
        ),
        sessions=sessions,
    )
    _write(store, study, existing)
    return Built(study, existing is not None, contests, len(comparisons))


def _existing(store: Store) -> Study | None:
    """The study that lies in the folder already.

    Raises:
        ManifestError: what lies there is not a study's, or the store cannot keep votes.
    """
    refuse_linked_folders(store, "pictures", "sessions", "votes")
    existing = find_study(store)
    if existing is None:
        for folder in ("sessions/", "votes/"):
            if next(iter(store.list(folder)), None) is not None:
                raise ManifestError(
                    f"{store.uri!r} has {folder} of a study and no {STUDY_NAME}: restore it, or "
                    "choose another folder"
                )
        if local_path(store.uri) is None and not honours_put_if_absent(store):
            raise ManifestError(
                f"{store.uri!r} lies on a store without conditional writes, where two people could "
                "get one number: choose another store or a local folder"
            )
    return existing


def _write(store: Store, study: Study, existing: Study | None) -> None:
    data = study.to_bytes()
    if len(data) > MAX_RECORD_BYTES:
        raise ManifestError(
            f"the study would have {len(data) >> 20} MiB of trials, and {MAX_RECORD_BYTES >> 20} "
            "are read: give fewer --people or --trials"
        )
    if (existing is not None and existing != study) or not store.put_if_absent(STUDY_NAME, data):
        raise ManifestError(
            f"{store.uri!r} holds another study, which stays as it is: choose another folder"
        )


def _case(contest: Contest, case: str, pictures: _Pictures, seed: int, with_decoy: bool) -> Case:
    """A case with its pictures, which lie in the folder then; its results all have one size."""
    ours = contest.ours
    first = ours.picture(case, (MAX_SIDE, MAX_SIDE))
    results = {ours.name: pictures.add(first)}
    for rival in contest.rivals:
        picture = rival.picture(case, (MAX_SIDE, MAX_SIDE))
        fitted = ImageOps.fit(picture, first.size, Image.Resampling.LANCZOS)
        results[rival.name] = pictures.add(fitted)
    if with_decoy:
        results[DECOY] = pictures.add(_noise(first.size, seed))
    references: list[Shown] = []
    for reference in ours.references(case, first.size):
        if reference.picture is None:
            raise ManifestError(f"{reference.key} went away while the study was built: build again")
        shown = caption(contest.kind, reference.role)
        references.append(Shown(caption=shown, picture=pictures.add(reference.picture)))
    return Case(
        id=contest.case_id(case),
        task=contest.task,
        references=tuple(references),
        prompt=ours.items[case].prompt,
        results=results,
    )


def _noise(size: tuple[int, int], seed: int) -> Image.Image:
    """Coloured noise, which nobody takes for the better result."""
    width, height = (-(-side // DECOY_BLOCK) for side in size)
    pixels = Random(f"decoy {seed} {size}").randbytes(3 * width * height)
    small = Image.frombytes("RGB", (width, height), pixels)
    large = (width * DECOY_BLOCK, height * DECOY_BLOCK)
    return small.resize(large, Image.Resampling.NEAREST).crop((0, 0, *size))


class _Pictures:
    """The copies in the folder; those of a study that lies there are not added to."""

    def __init__(self, store: Store, existing: Study | None) -> None:
        self._store = store
        self._there = {found.key for found in store.list("pictures/")}
        self._named = None if existing is None else existing.pictures

    def add(self, picture: Image.Image) -> str:
        """Store a picture under the name that its bytes give it, without what else its file said.

        All are PNG, so that neither the format nor its metadata tell whose result it is.
        """
        file = io.BytesIO()
        Image.fromarray(np.asarray(picture.convert("RGB"))).save(file, "PNG")
        name = f"pictures/{hashlib.sha256(file.getvalue()).hexdigest()}.png"
        if name not in self._there and (self._named is None or name in self._named):
            self._store.put(name, file.getvalue())
            self._there.add(name)
        return name
