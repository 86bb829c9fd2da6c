"""stylefarm as people install it: from its wheel, in an environment of its own, away from here.

`python -m tests.installed` makes such environments with pip and with pipx, downloads what stylefarm
depends on (some minutes), uses them, and removes stylefarm again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.audit import audit
from tests.wheels import ROOT, build_wheel, top_folders


@dataclass(frozen=True)
class Environment:
    """Where stylefarm is installed, and where it is used.

    Attributes:
        python: its interpreter.
        stylefarm: the command.
        place: an empty folder to be in.
        variables: what is around a command, besides PATH and a home of its own.
    """

    python: Path
    stylefarm: Path
    place: Path
    variables: dict[str, str] = field(default_factory=dict[str, str])

    def call(self, *command: str | Path) -> str:
        """Runs a command there; what it printed.

        Nothing of this checkout is on its path.
        """
        around = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.place),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        return _run(*command, place=self.place, around=around | self.variables)

    def install(self, *command: str | Path) -> str:
        """The same for pip and pipx, which find packages as this machine says."""
        around = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return _run(*command, place=self.place, around=around | self.variables)


def linked_environment(folder: Path, wheel: Path) -> Environment:
    """The wheel alone, with the dependencies of the Python that runs this."""
    python = _new_environment(folder, "--without-pip")
    here = Environment(python, python.with_name("stylefarm"), _place(folder))
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    here.install(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel)
    outer = f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n"
    (_site_packages(here) / "dependencies.pth").write_text(outer)
    return here


def complete_environment(folder: Path, wheel: Path) -> Environment:
    """The wheel with all that it depends on, downloaded."""
    python = _new_environment(folder)
    here = Environment(python, python.with_name("stylefarm"), _place(folder))
    here.install(python, "-m", "pip", "install", "--quiet", wheel)
    here.install(python, "-m", "pip", "check")
    return here


def pipx_environment(folder: Path, wheel: Path) -> Environment:
    """The same by pipx, which comes from its own environment."""
    python = _new_environment(folder / "of-pipx")
    here = Environment(python, python, _place(folder))
    here.install(python, "-m", "pip", "install", "--quiet", "pipx")
    variables = {"PIPX_HOME": str(folder / "home"), "PIPX_BIN_DIR": str(folder / "bin")}
    pipx = Environment(python, folder / "bin" / "stylefarm", here.place, variables)
    pipx.install(python, "-m", "pipx", "install", "--quiet", wheel)
    return pipx


def use(environment: Environment) -> None:
    """Does what a newcomer does, and looks at what came of it."""
    stylefarm, place = environment.stylefarm, environment.place
    assert environment.call(stylefarm, "--version").startswith("stylefarm ")
    assert "style-transfer" in environment.call(stylefarm, "presets")
    assert "--cron" in environment.call(stylefarm, "deploy", "--help")

    source = "import manifests.examples as found; print(found.__path__[0])"
    examples = Path(environment.call(_python_of(stylefarm), "-c", source).strip())
    assert not examples.is_relative_to(ROOT)
    pictures = examples / "images"
    content = sorted((pictures / "content").glob("*.jpg"))
    style = min((pictures / "style").glob("*.jpg"))
    given = ("--content", content[0], "--style", style, "--size", "64", "--output", "one.png")
    environment.call(stylefarm, "render", *given)
    assert (place / "one.png").stat().st_size > 1000

    environment.call(stylefarm, "init", "style-transfer", pictures)
    changes = ("--set", "output.size=64", "--set", "settings.num_inference_steps=2")
    told = environment.call(
        stylefarm, "run", "job.yaml", "--limit", "1", *changes, "--output", "run"
    )
    assert "1 of 1 items ok" in told
    assert "without Prefect" not in told
    audit(place / "run")
    assert "report.html" in environment.call(stylefarm, "report", "run")


def remove(environment: Environment) -> None:
    """Uninstalls stylefarm; nothing of it is left but what it was asked to make."""
    site_packages = _site_packages(environment)
    ours = [site_packages / name for name in top_folders()]
    assert all(folder.is_dir() for folder in ours)
    pip = (sys.executable, "-m", "pip", "--python", environment.python)
    environment.install(*pip, "uninstall", "--yes", "--quiet", "stylefarm")
    left = [folder for folder in ours if folder.exists()]
    assert not left, left
    assert not list(site_packages.glob("stylefarm*"))
    assert not environment.stylefarm.exists()


def _run(*command: str | Path, place: Path, around: dict[str, str]) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd=place,
        env=around,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, (command, done.stdout)
    return done.stdout


def _new_environment(folder: Path, *options: str) -> Path:
    subprocess.run([sys.executable, "-m", "venv", *options, folder / "venv"], check=True)
    return folder / "venv" / "bin" / "python"


def _place(folder: Path) -> Path:
    place = folder / "somewhere"
    place.mkdir(parents=True)
    return place


def _site_packages(environment: Environment) -> Path:
    source = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(environment.call(environment.python, "-c", source).strip())


def _python_of(command: Path) -> Path:
    """The interpreter that an installed command names in its first line."""
    first_line = command.resolve().read_text().partition("\n")[0]
    return Path(first_line.removeprefix("#!").split()[0])


@contextmanager
def _told(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    sys.stdout.write(f"{what}: {time.monotonic() - began:.0f} s\n")
    sys.stdout.flush()


def main() -> None:
    """Installs stylefarm by pip and by pipx, and uses it."""
    with tempfile.TemporaryDirectory(prefix="installed-") as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        with _told(f"pip install {wheel.name}, pip check"):
            by_pip = complete_environment(folder / "pip", wheel)
        with _told("version, presets, render, run and report"):
            use(by_pip)
        with _told("pip uninstall, which leaves nothing"):
            remove(by_pip)
        with _told(f"pipx install {wheel.name}"):
            by_pipx = pipx_environment(folder / "pipx", wheel)
        with _told("version, presets, render, run and report"):
            use(by_pipx)


if __name__ == "__main__":
    main()
