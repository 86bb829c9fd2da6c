"""Whole studies with real pictures, for tests that show them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from infra.store import LocalStore
from tasks.study.study_file import STUDY_NAME, Case, Shown, Study, Trial

CRITERIA = {
    "style-transfer": (
        "structural similarity to the content image",
        "stylistic similarity to the style image",
    ),
    "style-t2i": (
        "semantic alignment with the prompt",
        "stylistic similarity to the reference",
    ),
}
PROMPT = "a watercolour of a lighthouse above a bay, early morning, two boats"
ENTRIES = ("brushed-ours", "zz-rival")
"""Names that nothing else on the page could have in it."""


def write_study(
    folder: Path,
    *,
    question: Literal["overall", "criteria"] = "overall",
    num_cases: int = 3,
    num_sessions: int = 4,
    task: str = "style-transfer",
    paint: Callable[[str], Image.Image] | None = None,
) -> Study:
    """A study in a folder: each case once, the first one again, and an attention trial.

    Args:
        folder: where; it is made.
        question: of the study.
        num_cases: at least two, each with two results and a decoy.
        num_sessions: planned ones; sides take turns.
        task: the task of every case; `style-t2i` has a prompt and one reference.
        paint: the picture by its words, such as `case0 zz-rival`; random ones if none is given.
    """
    store = LocalStore(folder)
    paint = paint or _painted

    def stored(words: str) -> str:
        data = io.BytesIO()
        paint(words).save(data, "PNG")
        name = f"pictures/{hashlib.sha256(data.getvalue()).hexdigest()}.png"
        store.put(name, data.getvalue())
        return name

    captions = ("Content", "Style") if task == "style-transfer" else ("Reference",)
    cases = tuple(
        Case(
            id=f"case{n}",
            task=task,
            references=tuple(
                Shown(caption=caption, picture=stored(f"case{n} {caption}")) for caption in captions
            ),
            prompt=PROMPT if task == "style-t2i" else None,
            results={name: stored(f"case{n} {name}") for name in (*ENTRIES, "decoy")},
        )
        for n in range(num_cases)
    )
    study = Study(
        title="Which picture is better?",
        consent="You will see pairs of pictures that two methods have made.\n\nTaking part is "
        "voluntary. Whoever runs this study will publish the shares of choices, and nothing else.",
        seed=1,
        ours=ENTRIES[0],
        question=question,
        criteria={task: CRITERIA[task]},
        cases=cases,
        sessions=tuple(tuple(_trials(cases, session)) for session in range(num_sessions)),
    )
    store.put(STUDY_NAME, study.to_bytes())
    return study


def _trials(cases: Sequence[Case], session: int) -> list[Trial]:
    ours, rival = ENTRIES
    shown: list[tuple[str, str, str, Literal["plain", "repeat", "attention"]]] = [
        (case.id, ours, rival, "plain") if (n + session) % 2 else (case.id, rival, ours, "plain")
        for n, case in enumerate(cases)
    ]
    case, left, right, _ = shown[0]
    shown.append((case, right, left, "repeat"))
    shown.append((cases[1].id, rival, "decoy", "attention"))
    return [
        Trial(
            number=number,
            case=case,
            left=left,
            right=right,
            kind=kind,
            expected="left" if kind == "attention" else None,
        )
        for number, (case, left, right, kind) in enumerate(shown)
    ]


def _painted(words: str) -> Image.Image:
    """Coarse random colours, another picture for other words."""
    seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4])
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
