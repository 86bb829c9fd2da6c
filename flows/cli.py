"""The command line `stylefarm`.

Exit codes: 0 complete, 2 wrong usage or unusable input, 3 more items failed than the job allows,
4 incomplete, 5 the run folder belongs to another job.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

EXIT_USAGE = 2
EXIT_FAILED_ITEMS = 3
EXIT_INCOMPLETE = 4
EXIT_FINGERPRINT = 5
DEBUG_VARIABLE = "STYLEFARM_DEBUG"

app = typer.Typer(
    name="stylefarm",
    help="Turn manifests of images into stylised datasets and texture assets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


class Precision(StrEnum):
    """Of the networks."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


JobPath = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
RunUri = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, local or s3://bucket/prefix.")
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a key of the job file, such as output.size=256. May be repeated.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Plan only so many items, picked by hash; needs its own run folder."),
]
OutputUri = Annotated[
    str | None,
    typer.Option("--output", metavar="URI", help="The run folder, relative to where you are."),
]


@app.command()
def run(
    job: JobPath,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    output: OutputUri = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and plan, write nothing, render nothing.")
    ] = False,
) -> None:
    """Make a job's pictures; run it again to finish what was interrupted.

    Every input is read and checked before anything is rendered. What is finished is in the run
    folder, whatever happens; the same command continues from there and recomputes nothing.
    """
    from flows import session

    loaded = _load(job, overrides, limit, output)
    resolved = session.resolve(loaded, job)
    if dry_run:
        session.show_dry_run(console, resolved)
        return
    prepared = session.prepare(console, resolved)
    index = session.finish(console, loaded, job, prepared)
    session.show_outcome(console, prepared.uri, index, has_sweep=bool(loaded.sweep_entries))
    raise typer.Exit(_exit_code(loaded, index))


@app.command()
def plan(
    job: JobPath,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    output: OutputUri = None,
) -> None:
    """Check every input and write the plan, without rendering."""
    from flows import session

    resolved = session.resolve(_load(job, overrides, limit, output), job)
    session.prepare(console, resolved)


@app.command()
def status(run_uri: RunUri) -> None:
    """Say how far a run is, from its commits."""
    from flows import session

    session.show_status(console, _absolute(run_uri))


@app.command()
def report(
    run_uri: RunUri,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Bring index.json and report.html up to date, and say where the page is."""
    from flows import session

    session.show_report(console, _absolute(run_uri), show)


@app.command()
def render(
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")],
    style: Annotated[list[Path], typer.Option(help="A style or texture image. May be repeated.")],
    content: Annotated[Path | None, typer.Option(help="The image whose structure is kept.")] = None,
    layout: Annotated[
        Path | None, typer.Option(help="A rough painting of where a texture's colours lie.")
    ] = None,
    source_mask: Annotated[
        Path | None, typer.Option(help="Which label each pixel of the texture has.")
    ] = None,
    target_mask: Annotated[
        Path | None, typer.Option(help="Which label each pixel of the result has.")
    ] = None,
    control: Annotated[Path | None, typer.Option(help="What the ControlNet sees.")] = None,
    prompt: Annotated[str, typer.Option(help="What is drawn.")] = "",
    negative_prompt: Annotated[
        str | None, typer.Option(help="What guidance leads away from.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="The task; 'stylefarm presets' lists them.")
    ] = "style-transfer",
    backbone: Annotated[
        str,
        typer.Option(
            help="embedded, sd15, sdxl, a hub id, a diffusers folder, or a .safetensors file."
        ),
    ] = "embedded",
    revision: Annotated[str | None, typer.Option(help="Commit or tag of a hub id.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Of a .safetensors file: where its configuration is.")
    ] = None,
    controlnet: Annotated[
        str | None, typer.Option(help="A ControlNet: a hub id or a diffusers folder.")
    ] = None,
    dtype: Annotated[
        Precision, typer.Option(help="Of the networks; auto is bfloat16 on CUDA, else float32.")
    ] = Precision.AUTO,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|WxH",
            help="Pixels of the shorter side, or WIDTHxHEIGHT. The preset's shorter side unless "
            "given.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting of the preset."),
    ] = [],  # noqa: B006 - typer copies it
) -> None:
    """Render one picture from files, without a job, and tell its figures.

    They stand beside those of the unchanged content (identity) and of the style itself (style
    copy), so that a good number can be seen for what it is.
    """
    from flows import single

    files = {"content": content, "layout": layout, "control": control}
    files |= {"source_mask": source_mask, "target_mask": target_mask}
    asked = single.OnePicture(
        output=output,
        styles=style,
        pictures={role: path for role, path in files.items() if path is not None},
        preset=preset,
        prompt=prompt,
        negative_prompt=negative_prompt,
        backbone={
            "name": backbone,
            "revision": revision,
            "config": config,
            "controlnet": controlnet,
            "dtype": dtype.value,
        },
        size=size,
        seed=seed,
        settings=_pairs(settings),
    )
    single.render_one(console, asked)


@app.command()
def presets() -> None:
    """List the tasks: what each takes, its published numbers, and what it does."""
    from flows import single

    single.show_presets(console)


def main() -> None:
    """Runs the command line; every error is a sentence and an exit code, never a traceback."""
    _quiet_libraries()
    try:
        app()
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        sys.exit(_complain(*_explained(error)))


def _explained(error: Exception) -> tuple[str, int]:
    from ad_lib.errors import BackboneError, ImageError, RequestError
    from infra.prefect_api import PrefectUnavailable
    from infra.store import StoreError
    from manifests.errors import FingerprintMismatch, ManifestError

    if isinstance(error, FingerprintMismatch):
        return str(error), EXIT_FINGERPRINT
    known = (
        ManifestError,
        RequestError,
        ImageError,
        BackboneError,
        StoreError,
        PrefectUnavailable,
    )
    if isinstance(error, known):
        return str(error), EXIT_USAGE
    text = f"unexpected {type(error).__name__}: {error} (set {DEBUG_VARIABLE}=1 for the traceback)"
    return text, 1


def _complain(sentence: str, code: int) -> int:
    errors.print(f"[bold red]error:[/] {_escaped(sentence)}", soft_wrap=True)
    return code


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _load(path: Path, overrides: list[str], limit: int | None, output: str | None) -> Any:
    from manifests.job import load_job

    values = _pairs(overrides)
    if limit is not None:
        values["limits.max_items"] = str(limit)
    if output is not None:
        values["output.uri"] = _absolute(output)
    return load_job(path, values)


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(
                f"--set takes KEY=VALUE, such as output.size=256; got {text!r}"
            )
        pairs[key] = value
    return pairs


def _exit_code(job: Any, index: Any) -> int:
    if index.counts.pending:
        return EXIT_INCOMPLETE
    allowed = job.limits.allows(index.counts.failed, index.counts.planned)
    return 0 if allowed else EXIT_FAILED_ITEMS


def _quiet_libraries() -> None:
    """Keeps the terminal for what the user asked; before Prefect and torch are imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads crawl on a busy machine
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


if __name__ == "__main__":
    main()
