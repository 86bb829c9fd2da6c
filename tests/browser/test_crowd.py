"""Twenty people at once, and a study for others than this machine's own."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.browser.people import choices, votes_on_disk

NUM_PEOPLE = 20
NUM_TRIALS = 5


async def take_part(browser: Browser, link: str, together: asyncio.Barrier, name: int) -> None:
    """One person, who picks by the digits of their name."""
    context = await browser.new_context(viewport={"width": 800, "height": 600})
    page = await context.new_page()
    page.set_default_timeout(60_000)
    await page.goto(link)
    await page.wait_for_selector("#start:visible")
    await together.wait()
    await page.click("#start")
    for trial in range(NUM_TRIALS):
        await page.wait_for_function(
            """(number) => document.getElementById("trial").checkVisibility() &&
            document.getElementById("progress-text").textContent === number""",
            arg=f"{trial + 1} of {NUM_TRIALS}",
        )
        await page.keyboard.press("2" if name >> trial & 1 else "1")
    await page.wait_for_selector("#thanks:visible")
    assert await context.cookies() == []
    await context.close()


async def twenty_people(link: str) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        together = asyncio.Barrier(NUM_PEOPLE)
        people = [take_part(browser, link, together, name) for name in range(NUM_PEOPLE)]
        await asyncio.gather(*people)
        await browser.close()


def test_twenty_people_at_once_each_have_their_own_study(serve):
    served = serve("overall")
    failed: list[BaseException] = []

    def run() -> None:  # the other tests' browser has this thread's event loop
        try:
            asyncio.run(twenty_people(served.link))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed, failed[0]
    rows = votes_on_disk(served.folder)
    by_session: dict[str, list[str]] = {}
    for row in rows:
        by_session.setdefault(row["session"], []).append(row["choice"])
    sides = ["".join(side[0] for side in picked) for picked in by_session.values()]
    expected = ["".join("lr"[name >> trial & 1] for trial in range(5)) for name in range(20)]
    assert sorted(sides) == sorted(expected)
    assert {row["session_number"] for row in rows} == set(range(NUM_PEOPLE))
    assert Counter(row["revision"] for row in rows) == {0: NUM_PEOPLE * NUM_TRIALS}


def test_off_loopback_the_link_opens_the_study_and_less_of_it_does_not(person, serve):
    served = serve("overall", "--host", "0.0.0.0", "--token", "a-token-of-this-test")
    link = f"http://127.0.0.1:{served.port}/"
    ann = person()
    answer = ann.page.goto(link)
    assert answer is not None
    assert answer.status == 403
    assert "whole link" in ann.page.inner_text("body")
    ann.open(f"{link}a-token-of-this-test/").start()
    for trial in range(NUM_TRIALS):
        ann.click("left" if trial % 2 else "right")
    assert ann.is_thanked
    asked = [address for address in ann.requests if not address.endswith("favicon.ico")]
    assert all(address.startswith(f"{link}a-token-of-this-test/") for address in asked[1:])
    assert len(choices(votes_on_disk(served.folder))) == NUM_TRIALS
    assert served.link.endswith("/a-token-of-this-test/")
    assert "127.0.0.1" not in served.link


def test_the_page_opens_at_another_address_of_this_machine(person, serve, tmp_path: Path):
    served = serve("overall", "--host", "127.0.0.2")
    ann = person().open(served.link).start()
    ann.click("right")
    assert choices(votes_on_disk(served.folder)) == [(0, "right")]
