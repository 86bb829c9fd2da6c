"""The command line `stylefarm`.

Exit codes:
    0  complete; also when there was nothing to do, and of a worker that did all it was asked for.
    2  wrong usage, or an input, a store, a device or a model that cannot be used; also where the
       sources of a run are gone.
    3  complete, but more items failed than the job allows.
    4  incomplete: stopped by a signal or by `stylefarm stop`, or the store of the run folder or
       every worker of this machine failed. What is committed stays; run it again.
    5  the run folder belongs to another job.
    6  stopped because too many items fail for other reasons than their inputs.
    1  an error of stylefarm itself.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from typer.exceptions import TyperException

from flows.logs import configure_logging
from flows.stopping import EXIT_INCOMPLETE, Stopping, run_stoppable
from flows.terminal import Terminal, prepare_streams

if TYPE_CHECKING:
    from manifests.job import Job
    from tasks.devices import DeviceType
    from tasks.resolving import ResolvedJob

EXIT_USAGE = 2
EXIT_FAILED_ITEMS = 3
EXIT_FINGERPRINT = 5
EXIT_FAILING = 6
DEBUG_VARIABLE = "STYLEFARM_DEBUG"
PACKAGES = ("ad_lib", "manifests", "infra", "tasks")

app = typer.Typer(
    name="stylefarm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
terminal = Terminal()


class Precision(StrEnum):
    """The data type of the networks."""

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

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check and plan, write nothing, render nothing.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        terminal.say(f"stylefarm {version('stylefarm')}")
        raise typer.Exit


@app.callback()
def stylefarm(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    verbosity: Annotated[
        int,
        typer.Option(
            *("--verbose", "-v"),
            count=True,
            help="Tell more of what happens, with times; twice for everything.",
        ),
    ] = 0,
) -> None:
    """Turn manifests of images into stylised datasets and texture assets."""
    configure_logging(terminal, verbosity)


@app.command()
def run(
    context: typer.Context,
    job: JobPath,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    output: OutputUri = None,
    dry_run: DryRun = False,
) -> None:
    """Make a job's pictures; run it again to finish what was interrupted.

    Every input is read and checked before anything is rendered. One worker renders on each device
    of this machine; 'stylefarm work' adds workers of other machines. What is finished is in the
    run folder, whatever happens; the same command continues from there and recomputes nothing.
    """
    resolved = _resolved(job, overrides, limit, output, will_render=True)
    from flows import planning

    if dry_run:
        planning.show_dry_run(terminal, resolved)
        return
    prepared = planning.prepare(terminal, resolved)
    _finish(context, prepared.uri, resolved.job, job.stem)


@app.command()
def extend(
    context: typer.Context,
    job: JobPath,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    output: OutputUri = None,
    dry_run: DryRun = False,
) -> None:
    """Add what is new in a job's sources to its run, and make those pictures.

    What is planned stays as it is. New files become new items; a changed file makes an item that
    replaces the old one. Files that were planned as they are now are not read again.
    """
    resolved = _resolved(job, overrides, limit, output, will_render=True, for_extension=True)
    from flows import planning

    if planning.extend_run(terminal, resolved, dry_run=dry_run):
        _finish(context, resolved.output_uri, resolved.job, job.stem)


@app.command()
def retry(
    context: typer.Context,
    run_uri: RunUri,
    classes: Annotated[
        str,
        typer.Option(
            "--class",
            metavar="CLASS,…",
            help="Try items again that failed with these classes, such as oom,decode; all unless "
            "given.",
        ),
    ] = "",
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="What differs this time: a key of compute, such as compute.batch_size=1, or "
            "backbone.dtype. May be repeated.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    dry_run: DryRun = False,
) -> None:
    """Plan the failed items of a run once more, and try to make their pictures.

    Their rows stay; of an item the newest row counts. Rejected items go on at the next seed.
    """
    uri = _run_folder(run_uri)
    from flows import planning

    wanted = [name.strip() for name in classes.split(",") if name.strip()]
    values = _pairs(overrides)
    retried = planning.retry_items(terminal, uri, classes=wanted, overrides=values, dry_run=dry_run)
    if retried is not None:
        job = planning.job_of(uri, retried.compute)
        device_type = cast("DeviceType | None", retried.changes.get("device_type"))
        _finish(context, uri, job, "retry", device_type)


@app.command()
def plan(
    job: JobPath,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    output: OutputUri = None,
) -> None:
    """Check every input and write the plan, without rendering."""
    resolved = _resolved(job, overrides, limit, output, will_render=False)
    from flows import planning

    planning.prepare(terminal, resolved)


@app.command()
def work(
    context: typer.Context,
    run_uri: RunUri,
    device: Annotated[
        str,
        typer.Option(help="What renders: cpu, cuda, cuda:1, mps; auto takes the run's kind."),
    ] = "auto",
    max_shards: Annotated[
        int | None, typer.Option(min=1, help="Commit so many shards at most, then end.")
    ] = None,
) -> None:
    """Join a planned run from any machine that reaches its folder, with one device.

    Any number of workers may join and leave at any time: each takes shards that nobody holds,
    until every shard is committed. Whoever planned the run, or 'stylefarm report', publishes it.
    """
    uri = _run_folder(run_uri)
    from flows import session

    session.work_on(terminal, _stopping(context), uri, device, max_shards)


@app.command()
def stop(run_uri: RunUri) -> None:
    """Ask all workers of a run to stop, wherever they are; nothing that is committed is lost."""
    uri = _run_folder(run_uri)
    from flows import session

    session.stop_run(terminal, uri)


@app.command()
def status(run_uri: RunUri) -> None:
    """Say how far a run is, from its commits."""
    uri = _run_folder(run_uri)
    from flows.status import show_status

    show_status(terminal, uri)


@app.command()
def report(
    run_uri: RunUri,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Bring index.json and report.html up to date, and say where the page is."""
    uri = _run_folder(run_uri)
    from flows import session

    session.show_report(terminal, uri, show)


@app.command()
def render(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")],
    style: Annotated[
        list[Path], typer.Option(help="The image whose style is taken. May be repeated.")
    ] = [],  # noqa: B006 - typer copies it
    texture: Annotated[
        list[Path], typer.Option(help="The image whose texture is taken. May be repeated.")
    ] = [],  # noqa: B006
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
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Seed of the noise.")] = 0,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting of the preset."),
    ] = [],  # noqa: B006 - typer copies it
) -> None:
    """Render one picture from files, without a job, and print its figures.

    Beside them are the figures of the unchanged content (identity) and of the style itself (style
    copy), because a good figure alone says little.
    """
    from flows import single

    files = {
        "content": [content],
        "style": style,
        "texture": texture,
        "layout": [layout],
        "source_mask": [source_mask],
        "target_mask": [target_mask],
        "control": [control],
    }
    given = {role: [path for path in paths if path] for role, paths in files.items()}
    asked = single.OnePicture(
        output=output,
        files={role: paths for role, paths in given.items() if paths},
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
    single.render_one(terminal, _stopping(context), asked)


@app.command()
def presets() -> None:
    """List the tasks: what each takes, its published numbers, and what it does."""
    from flows.presets import show_presets

    show_presets(terminal)


def main() -> None:
    """Runs the command line; every error is a sentence and an exit code, never a traceback."""
    prepare_streams()
    _quiet_libraries()
    code = run_stoppable(_run_command, terminal)
    terminal.restore()
    sys.exit(code)


def _run_command(stopping: Stopping) -> int:
    try:
        return app(standalone_mode=False, obj=stopping) or 0
    except SystemExit:
        return 0  # the reader of the help has gone
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            _show_causes(error)
        sentence, code = _explained(error)
        if sentence:
            terminal.complain(sentence)
        return code


def _show_causes(error: Exception) -> None:
    """Prints the traceback with the whole chain of causes, those cut by `from None` too."""
    import traceback

    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    terminal.say_traceback("".join(traceback.format_exception(error)))


def _explained(error: Exception) -> tuple[str, int]:
    """The sentence and the exit code of an error."""
    from ad_lib.errors import BackboneError, ImageError, RequestError
    from infra.objects import StoreError
    from manifests.errors import FingerprintMismatch, ManifestError
    from tasks.faults import BreakerTripped, SourcesGone, Stopped, StoreTrouble, WorkerFault

    if isinstance(error, Stopped):
        return "", EXIT_INCOMPLETE  # who asked has been told, or `finish` has said why
    if isinstance(error, FingerprintMismatch):
        return str(error), EXIT_FINGERPRINT
    if isinstance(error, BreakerTripped):
        return str(error), EXIT_FAILING
    if isinstance(error, SourcesGone):
        return str(error), EXIT_USAGE
    if isinstance(error, StoreTrouble | WorkerFault):
        return str(error), EXIT_INCOMPLETE
    if isinstance(error, TyperException):
        return _usage(error), EXIT_USAGE
    known = (ManifestError, RequestError, ImageError, BackboneError, StoreError)
    if isinstance(error, known):
        return str(error), EXIT_USAGE
    if isinstance(error, OSError):
        return f"the machine refuses something that is needed: {error}", EXIT_USAGE
    if isinstance(error, MemoryError):
        return "out of memory; lower compute.batch_size and compute.io_threads", EXIT_USAGE
    text = f"unexpected {type(error).__name__}: {error} (set {DEBUG_VARIABLE}=1 for the traceback)"
    return text, 1


def _usage(error: TyperException) -> str:
    """What is wrong with the arguments, and where the right ones are explained."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""  # the help has been printed
    command = context.command_path if context else "stylefarm"
    message = error.format_message()
    end = "" if message.endswith((".", "?", ")")) else "."
    return f"{message}{end} See '{command} --help'."


def _finish(
    context: typer.Context, uri: str, job: Job, name: str, device_type: DeviceType | None = None
) -> None:
    """Renders what is pending, publishes, and ends with the run's exit code."""
    from flows import session

    shown = job.name or name
    index = session.finish(terminal, _stopping(context), uri, job, shown, device_type)
    session.show_outcome(terminal, job, uri, index)
    if not index.complete:
        raise typer.Exit(EXIT_INCOMPLETE)
    if not job.limits.allows(index.counts.failed, index.counts.planned):
        session.show_failed_items(terminal, job, uri, index)
        raise typer.Exit(EXIT_FAILED_ITEMS)


def _stopping(context: typer.Context) -> Stopping:
    """Whether this process was asked to stop; a command that is called without `main` never is."""
    return context.obj or Stopping()


def _run_folder(uri: str) -> str:
    """The full URI of a run folder; a wrong one is told before anything large is imported."""
    from tasks.dated_output import follow_latest
    from tasks.run_folder import open_run

    found = follow_latest(_absolute(uri))
    open_run(found)
    return found


def _resolved(
    path: Path,
    overrides: list[str],
    limit: int | None,
    output: str | None,
    *,
    will_render: bool,
    for_extension: bool = False,
) -> ResolvedJob:
    """The job with everything looked up that it names."""
    from ad_lib.presets import find_preset

    job = _load(path, overrides, limit, output)
    find_preset(job.task).settings_with(job.settings)  # told before anything larger is imported
    from tasks.resolving import resolve_job

    _refuse_shadowed_packages()
    base = str(path.absolute().parent)
    return resolve_job(job, base, will_render=will_render, for_extension=for_extension)


def _load(path: Path, overrides: list[str], limit: int | None, output: str | None) -> Job:
    from manifests.job import load_job

    values = _pairs(overrides)
    if limit is not None:
        values["limits.max_items"] = str(limit)
    if output is not None:
        values["output.uri"] = _absolute(output)
    return load_job(path, values)


def _absolute(uri: str) -> str:
    from infra.store import local_path

    path = local_path(uri)
    return uri if path is None else str(Path(path).absolute())


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


def _refuse_shadowed_packages() -> None:
    """Our packages have plain names; another distribution may ship one of them."""
    from manifests.errors import ManifestError

    home = Path(__file__).absolute().parent.parent
    for name in PACKAGES:
        found = Path(str(sys.modules[name].__file__)).absolute().parent.parent
        if found != home:
            raise ManifestError(
                f"the package {name!r} comes from {found}, not from stylefarm's {home}: another "
                "distribution ships that name; install stylefarm in an environment of its own"
            )


def _quiet_libraries() -> None:
    """Keeps messages of libraries off the terminal; called before they are imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads crawl on a busy machine
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL", "CRITICAL")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.raiseExceptions = False  # a log that Prefect cannot store is no message for the user
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()
