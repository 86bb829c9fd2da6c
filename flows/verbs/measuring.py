"""The command that measures: bench."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.exit_codes import ExitCode
from flows.verbs.options import Call, names_of, pairs_of
from flows.verbs.picture import Precision


class Suite(StrEnum):
    """Measurements that belong together."""

    CPU = "cpu"
    GPU = "gpu"


def _keep_output_for_json(context: typer.Context, file: str | None) -> str | None:
    if file == "-":
        context.ensure_object(Call).terminal.keep_output_for_json()
    return file


def bench(
    context: typer.Context,
    backbone: Annotated[
        str,
        typer.Option(
            help="embedded, sd15-random, sdxl-random (the architectures with random weights, which "
            "are as fast), sd15-tiny, sdxl-tiny (a few channels wide), or what 'stylefarm render' "
            "takes.",
        ),
    ] = "embedded",
    task: Annotated[
        str, typer.Option(help="A preset; 'stylefarm presets' lists them.")
    ] = "style-transfer",
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="Pixels of each side; several show how time grows with the area. 256, on a GPU "
            "the preset's, unless given.",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, max=999, help="Timesteps; each of them costs the same.")
    ] = 10,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="Pictures that run together; of texture-expand, views of one. 1,4 unless given; "
            "with a grid what memory has room for, as in a job.",
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="CxS",
            help="C contents under each of S styles, in batches. As many contents as the batch "
            "has pictures, on one style, unless given.",
        ),
    ] = None,
    contents: Annotated[
        int | None, typer.Option(min=1, help="C of the grid; 1 unless given with --styles.")
    ] = None,
    styles: Annotated[
        int | None, typer.Option(min=1, help="S of the grid; 1 unless given with --contents.")
    ] = None,
    techniques: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="Rows: literal, batch, shared-references, early-exit, constant-cross-attention, "
            "channels-last, compiled, captured, fast-kernels. All unless given.",
        ),
    ] = "",
    repeats: Annotated[
        int, typer.Option(min=1, max=1000, help="Turns of each row; the median is told.")
    ] = 3,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting of the preset."),
    ] = [],  # noqa: B006 - typer copies it
    dtype: Annotated[
        Precision, typer.Option(help="Of the networks; auto is bfloat16 on CUDA, else float32.")
    ] = Precision.AUTO,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Rows that would begin later are not measured, and say so."),
    ] = None,
    suite: Annotated[
        Suite | None,
        typer.Option(
            help="Measure all that matters on such a machine, each part in a process of its own; "
            "of the options above only --device and --minutes count then.",
        ),
    ] = None,
    tiny: Annotated[
        bool,
        typer.Option("--tiny", help="With --suite: the same with tiny networks, to try it out."),
    ] = False,
    document: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE|-",
            callback=_keep_output_for_json,
            help="Write the rows as JSON; - is standard output, and all else goes to standard "
            "error.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the rows as a picture.")
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="NEW.json", help="Measure nothing; take the rows of this file."
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="OLD.json",
            help="Say what got slower or faster than in this file; exit code 3 where something "
            "is slower than --tolerance allows.",
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0.0, help="With --compare: 0.1 allows 10 % more time."),
    ] = 0.1,
) -> None:
    """Measure how fast this machine renders: a row for each technique added to the published loop.

    The first row is the published algorithm, written out literally and run for one picture at a
    time; each further row keeps what those above it switched on. Rows take turns, and beside the
    seconds stands how far the latents are from the literal ones. Pictures are made up, so nothing
    is read but the model.
    """
    from flows import bench as benching
    from flows.bench_compare import show_comparison
    from flows.bench_documents import read_document

    call = context.ensure_object(Call)
    old = read_document("--compare", compare) if compare is not None else None
    wanted = benching.Wanted(document=document, plot=plot)
    found: dict[str, Any]
    if measured is not None:
        wanted.check()
        found = read_document("--from", measured)
        benching.show_rows(call.terminal, found)
        wanted.write(call.terminal, found)
    elif suite is not None:
        from flows.bench_suite import run_suite

        found = run_suite(
            call.terminal,
            call.stopping,
            suite.value,
            wanted,
            tiny=tiny,
            device=device,
            minutes=minutes,
        )
    else:
        pictures = _grid(grid, contents, styles)
        batches = benching.listed_numbers("--batch", batch, 1024) if batch else None
        found = benching.bench(
            call.terminal,
            call.stopping,
            benching.Asked(
                backbone=backbone,
                task=task,
                sizes=benching.listed_numbers("--size", size, 8192) if size else (),
                steps=steps,
                batch_sizes=batches or (None if pictures else (1, 4)),
                grid=pictures,
                techniques=tuple(names_of(techniques)),
                repeats=repeats,
                settings=pairs_of(settings),
                dtype=dtype.value,
                device=device,
                minutes=minutes,
            ),
            wanted,
        )
    if old is not None and not show_comparison(call.terminal, old, found, tolerance):
        raise typer.Exit(ExitCode.FAILED_ITEMS)


def _grid(grid: str | None, contents: int | None, styles: int | None) -> tuple[int, int] | None:
    from flows.bench import grid_of

    if grid is not None:
        if contents is not None or styles is not None:
            raise typer.BadParameter("give either --grid or --contents and --styles")
        return grid_of(grid)
    if contents is None and styles is None:
        return None
    return contents or 1, styles or 1
