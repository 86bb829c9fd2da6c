"""Do the paper's statements about its figures hold on the embedded model, too?

    python -m tests.paper.statements
    python -m tests.paper.statements --document docs/PAPER.md

Prints a table: each statement, the figure that it is measured by, the numbers, and whether it holds
here. It takes about ten minutes on a quiet core; every picture's figures are kept in the file
--progress, so that a run that was ended goes on. A statement that does not hold on the small model
is told as well; nothing depends on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from ad_lib.model.loading import load_backbone
from ad_lib.model.weights import EMBEDDED
from tasks.inputs.weights import find_model
from tests.paper.measuring import NON_STATIONARY, PROMPT, STATIONARY, Measured, Way

TIMESTEPS = (1, 251, 751, 981)
CASE_ITERATIONS = (1, 4)
DRAWN_ITERATIONS = (1, 2, 4)
START, END = "<!-- statements -->", "<!-- end of statements -->"
LEARNING_RATES = (0.005, 0.015, 0.045)
STYLES = ("style/van_gogh_village_street.jpg", "style/hokusai_great_wave.jpg")


@dataclass(frozen=True)
class Finding:
    """What was measured of one statement.

    Attributes:
        statement: of the paper, in our words.
        figure: what it is measured by.
        numbers: as text.
        holds: whether they are as the statement says.
    """

    statement: str
    figure: str
    numbers: str
    holds: bool


def fixed_timestep(timestep: int) -> Way:
    """Fig. 16, top."""
    return Way("texture-optimize", {"num_inference_steps": 200, "timesteps": timestep})


def case(number: int, iterations: int) -> Way:
    """Fig. 16, bottom: 50 timesteps, so many iterations at each."""
    task = "texture-sample" if number == 3 else "texture-optimize"
    noised = {"latents": "noised"} if number == 2 else {}
    steps = {"num_inference_steps": 50, "num_optimization_steps": iterations}
    return Way(task, steps | noised)


def optimised(num_iterations: int, references: Sequence[str]) -> Way:
    """Fig. 14: optimisation."""
    return Way("texture-optimize", {"num_inference_steps": num_iterations}, references)


def sampled(num_iterations: int, references: Sequence[str]) -> Way:
    """Fig. 14: sampling."""
    settings = {"num_inference_steps": 50, "num_optimization_steps": num_iterations}
    return Way("texture-sample", settings, references)


def drawn(learning_rate: float, iterations: int) -> Way:
    """Fig. 17."""
    settings = {
        "num_inference_steps": 25,
        "learning_rate": learning_rate,
        "num_optimization_steps": iterations,
    }
    return Way("style-t2i", settings, STYLES, PROMPT)


def coarse_and_fine(measured: Measured) -> list[Finding]:
    """Fig. 16, top: what large and small timesteps give."""
    told = []
    for band, better in (("coarse", "large"), ("fine", "small")):
        by_timestep = [measured.mean(fixed_timestep(t), f"{band} distance") for t in TIMESTEPS]
        low, high = sum(by_timestep[:2]), sum(by_timestep[-2:])
        gives = "coarse structure" if band == "coarse" else "detail"
        told.append(
            Finding(
                f"16 top: {better} timesteps give {gives}",
                f"difference of log power in the {band} band from the texture's; sum of the two "
                "largest t against that of the two smallest",
                _by(TIMESTEPS, by_timestep, "t"),
                high < low if band == "coarse" else low < high,
            )
        )
    return told


def three_cases(measured: Measured) -> list[Finding]:
    """Fig. 16, bottom: clean latents, noised latents, sampling."""
    swd = {
        number: [measured.mean(case(number, m), "swd") for m in CASE_ITERATIONS]
        for number in (1, 2, 3)
    }
    excess = [measured.mean(case(number, 4), "speckle excess") for number in (1, 2, 3)]
    steps = [50 * m for m in CASE_ITERATIONS]
    both = "; ".join(f"case {number}: {_by(steps, swd[number], 'n')}" for number in (1, 2))
    rivals = "; ".join(f"case {number}: {_by(steps, swd[number], 'n')}" for number in (2, 3))
    return [
        Finding(
            "16 bottom: case 2 is noisier than case 1",
            "excess of speckle (log power of fine waves of colour) over the texture's, 50 × 4",
            _by((1, 2, 3), excess, "case "),
            excess[1] > excess[0],
        ),
        Finding(
            "16 bottom: case 2 converges much more slowly than case 1",
            "swd after n iterations; holds where 2 after 200 is behind 1 after 50",
            both,
            swd[2][-1] > swd[1][0],
        ),
        Finding(
            "16 bottom: case 3 is far better than case 2",
            "swd after n iterations; holds where 3 has at most half of it at each n",
            rivals,
            all(three <= two / 2 for two, three in zip(swd[2], swd[3], strict=True)),
        ),
        Finding(
            "16 bottom: case 3 is faster than case 2",
            "swd after n iterations; holds where 3 after 50 is ahead of 2 after 200",
            rivals,
            swd[3][0] < swd[2][-1],
        ),
    ]


def needed_iterations(measured: Measured) -> list[Finding]:
    """Fig. 14: what non-stationary textures need."""
    told = []
    for name, way, counts in (
        ("optimisation", optimised, (100, 200, 300)),
        ("sampling", sampled, (1, 2, 3)),
    ):
        gains, texts = [], []
        for kind, references in (("stationary", STATIONARY), ("non-stationary", NON_STATIONARY)):
            swd = [measured.mean(way(count, references), "swd") for count in counts]
            gains.append(swd[0] / swd[-1])
            texts.append(f"{kind}: {_by(counts, swd, 'n')}")
        told.append(
            Finding(
                f"14: non-stationary textures need more iterations ({name})",
                "swd after n; holds where it falls by a larger factor than of stationary ones",
                "; ".join(texts) + f"; factors {gains[0]:.2f} and {gains[1]:.2f}",
                gains[1] > gains[0],
            )
        )
    return told


def strength(measured: Measured) -> list[Finding]:
    """Fig. 17: learning rate and iterations."""
    told = []
    for statement, figure, meaning in (
        ("17: less learning rate or fewer iterations under-stylise", "swd", "swd to the style"),
        (
            "17: more of either loses the prompt's structure",
            "kept",
            "ssim to what the prompt gives without distillation",
        ),
    ):
        grid = [
            [measured.mean(drawn(rate, count), figure) for count in DRAWN_ITERATIONS]
            for rate in LEARNING_RATES
        ]
        lines = [*grid, *(list(column) for column in zip(*grid, strict=True))]
        falls = [one > two for line in lines for one, two in pairwise(line)]
        told.append(
            Finding(
                statement,
                f"{meaning}; holds where it falls from each value to the next one",
                "; ".join(
                    f"lr {rate}: {_by(DRAWN_ITERATIONS, line, 'M')}"
                    for rate, line in zip(LEARNING_RATES, grid, strict=True)
                )
                + f"; {sum(falls)} of {len(falls)} pairs fall",
                all(falls),
            )
        )
    return told


GROUPS: Mapping[str, Callable[[Measured], list[Finding]]] = {
    "14": needed_iterations,
    "16-top": coarse_and_fine,
    "16-bottom": three_cases,
    "17": strength,
}
"""What measures the statements of a figure."""


def _by(names: Sequence[object], values: Sequence[float], letter: str) -> str:
    return ", ".join(
        f"{letter}{name} {value:.4g}" for name, value in zip(names, values, strict=True)
    )


def table(findings: Sequence[Finding]) -> str:
    """The findings as a table of Markdown."""
    lines = ["| statement | figure | numbers | here |", "|---|---|---|---|"]
    for one in findings:
        holds = "holds" if one.holds else "**does not hold**"
        lines.append(f"| {one.statement} | {one.figure} | {one.numbers} | {holds} |")
    return "\n".join(lines)


def write_into(document: Path, findings: Sequence[Finding]) -> None:
    """Puts the table between the marks of a document, in place of what stands there."""
    head, start, rest = document.read_text(encoding="utf-8").partition(START)
    _, end, tail = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"{document} has no place for the table: {START} … {END}")
    text = "".join((head, START, "\n", table(findings), "\n", END, tail))
    document.write_text(text, encoding="utf-8")


def main() -> None:
    """Measures what is not measured yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--progress", type=Path, default=Path("runs/statements.jsonl"))
    parser.add_argument("--document", type=Path, help="put the table between its marks as well")
    parser.add_argument(
        "--only", choices=GROUPS, action="append", help="of a figure; all unless given"
    )
    options = parser.parse_args()
    if options.only and options.document:
        parser.error("--document takes all statements: leave --only out")
    options.progress.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    revision = find_model(EMBEDDED, None).revision
    measured = Measured(load_backbone(EMBEDDED, device="cpu"), revision, options.progress)
    findings = [one for name in options.only or GROUPS for one in GROUPS[name](measured)]
    print(table(findings))  # noqa: T201
    if options.document:
        write_into(options.document, findings)


if __name__ == "__main__":
    main()
