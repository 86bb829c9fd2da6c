"""A real Chromium, and studies that are served to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="pip install 'stylefarm[browser]', or make test-browser")

from playwright.sync_api import Browser, sync_playwright

from tests.browser.people import Person
from tests.browser.serving import Serving
from tests.shown_studies import write_study

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless, with a profile of its own that is gone afterwards."""
    if CHROMIUM is None:
        pytest.fail("Chromium is not installed: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


NewPerson = Callable[..., Person]


@pytest.fixture
def person(browser: Browser) -> Iterator[NewPerson]:
    """Makes people; each has a context of their own, with these options."""
    contexts = []

    def arrive(width: int = 1280, height: int = 800, **options: Any) -> Person:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        return Person(context.new_page())

    yield arrive
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def folder_of_each_kind(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Studies that no test changes; `new_folder` gives copies."""
    kinds: dict[str, dict[str, Any]] = {
        "overall": {},
        "criteria": {"question": "criteria", "num_cases": 2},
        "prompt": {"task": "style-t2i", "num_cases": 2},
    }
    folders = {}
    for kind, options in kinds.items():
        folders[kind] = tmp_path_factory.mktemp(kind) / "study"
        write_study(folders[kind], **options)
    return folders


@pytest.fixture(scope="module")
def shared(
    folder_of_each_kind: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Serving]]:
    """A server of each kind for a module; people come and go."""
    running: dict[str, Serving] = {}

    def serve(kind: str) -> Serving:
        if kind not in running:
            folder = tmp_path_factory.mktemp("shared") / kind
            shutil.copytree(folder_of_each_kind[kind], folder)
            running[kind] = Serving(folder).start()
        return running[kind]

    yield serve
    for one in running.values():
        one.stop()


@pytest.fixture
def serve(folder_of_each_kind: dict[str, Path], tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """A server of one test."""
    running: list[Serving] = []

    def start(kind: str, *options: str) -> Serving:
        folder = shutil.copytree(folder_of_each_kind[kind], tmp_path / f"{kind}{len(running)}")
        running.append(Serving(folder, options).start())
        return running[-1]

    yield start
    for one in running:
        one.stop()
