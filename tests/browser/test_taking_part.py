"""People take part in studies: what they clicked is what is on disk, and nothing else is."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from tests.browser.people import Person, choices, picture_of, votes_on_disk
from tests.shown_studies import CRITERIA, ENTRIES, PROMPT

NUM_TRIALS = 5  # of a study of three cases

SECRETS = (*ENTRIES, "decoy", "attention", "case0", "case1", "repeat")


def test_what_was_clicked_is_on_disk_and_the_page_gives_nothing_away(person, serve):
    served = serve("overall")
    ann = person().open(served.link).start()
    clicked, seen = [], []
    for trial, side in enumerate(["left", "right", "right", "left", "right"]):
        assert ann.number == trial
        assert len(votes_on_disk(served.folder)) == trial
        seen.append(ann.shown(side))
        clicked.append((trial, side))
        content = ann.page.content() + ann.page.url
        assert not [secret for secret in SECRETS if secret in content]
        ann.click(side)
        assert choices(votes_on_disk(served.folder)) == clicked
    assert ann.is_thanked
    rows = votes_on_disk(served.folder)
    assert [picture_of(served.folder, row) for row in rows] == seen
    assert all(0 < row["seconds"] < 60 for row in rows)
    assert {urlsplit(address).netloc for address in ann.requests} == {urlsplit(served.link).netloc}
    assert not [secret for secret in SECRETS if secret in " ".join(ann.requests)]
    assert ann.page.context.cookies() == []


@pytest.mark.parametrize("keys", [("ArrowLeft", "ArrowRight"), ("1", "2")])
def test_keys_pick(person, serve, keys):
    served = serve("overall")
    ann = person().open(served.link).start()
    for trial in range(NUM_TRIALS):
        ann.press(keys[trial % 2])
    assert ann.is_thanked
    sides = [(trial, ("left", "right")[trial % 2]) for trial in range(NUM_TRIALS)]
    assert choices(votes_on_disk(served.folder)) == sides


def test_a_whole_study_without_a_mouse_and_the_focus_is_seen(person, serve):
    served = serve("overall")
    ann = person().open(served.link)
    keyboard = ann.page.keyboard
    has_outline = "getComputedStyle(document.activeElement).outlineStyle === 'solid'"
    keyboard.press("Tab")
    assert ann.page.evaluate("document.activeElement.id") == "start"
    assert ann.page.evaluate(has_outline)
    keyboard.press("Enter")
    ann.page.wait_for_selector("#trial:visible")
    keyboard.press("Tab")
    reached = [ann.page.evaluate("document.activeElement.id")]
    assert ann.page.evaluate(has_outline)
    keyboard.press("Tab")
    reached.append(ann.page.evaluate("document.activeElement.id"))
    assert reached == ["left", "right"]
    for _ in range(NUM_TRIALS):
        ann.press("Space")
    assert ann.is_thanked
    assert {side for _, side in choices(votes_on_disk(served.folder))} == {"right"}


def test_a_key_that_is_held_down_is_one_choice(person, serve):
    served = serve("overall")
    ann = person().open(served.link).start()
    ann.page.keyboard.down("ArrowRight")
    for _ in range(30):
        ann.page.keyboard.down("ArrowRight")  # the browser repeats it
    ann.wait_for(2)
    for _ in range(30):
        ann.page.keyboard.down("ArrowRight")
    ann.page.wait_for_timeout(500)
    assert choices(votes_on_disk(served.folder)) == [(0, "right")]


SLOW_DOUBLE_CLICK = """
() => {
  document.getElementById("left").click();
  setTimeout(() => document.getElementById("left").click(), 250);
}
"""
"""Timed by the page itself, so that a slow machine makes no two clicks of it."""


def test_a_double_click_is_one_choice(person, serve):
    served = serve("overall")
    ann = person().open(served.link).start()
    ann.page.dblclick("#left", delay=30)
    ann.wait_for(2)
    ann.page.wait_for_timeout(300)
    assert choices(votes_on_disk(served.folder)) == [(0, "left")]
    ann.page.evaluate(SLOW_DOUBLE_CLICK)
    ann.wait_for(3)
    ann.page.wait_for_timeout(300)
    assert choices(votes_on_disk(served.folder)) == [(0, "left"), (1, "left")]


def test_each_criterion_is_asked_and_the_last_one_may_be_taken_back(person, serve):
    served = serve("criteria")
    ann = person().open(served.link).start()
    structure, style = CRITERIA["style-transfer"]
    assert structure in ann.page.inner_text("#question")
    ann.click("left")
    assert style in ann.page.inner_text("#question")
    assert votes_on_disk(served.folder) == []
    ann.press("Backspace")
    assert structure in ann.page.inner_text("#question")
    ann.click("right")
    ann.click("left")
    while not ann.is_thanked:
        ann.click("left")
    rows = votes_on_disk(served.folder)
    assert len(rows) == 2 * 4
    first = {row["question"]: row["choice"] for row in rows if row["trial"] == 0}
    assert first == {structure: "right", style: "left"}
    assert {row["choice"] for row in rows if row["trial"] > 0} == {"left"}


def test_one_may_go_back_once(person, serve):
    served = serve("overall")
    ann = person().open(served.link).start()
    assert ann.page.is_disabled("#back")
    ann.click("left")
    shown = ann.shown("left")
    ann.press("Backspace")
    assert ann.number == 0
    assert ann.page.is_disabled("#back")
    ann.click("right")
    assert (ann.number, ann.shown("left")) == (1, shown)
    assert ann.page.is_disabled("#back")
    ann.click("left")
    ann.page.click("#back")
    ann.wait_for(2)
    ann.click("left")
    while not ann.is_thanked:
        ann.click("left")
    ann.page.click("#change-last")
    ann.page.wait_for_selector("#trial:visible")
    assert ann.number == NUM_TRIALS - 1
    ann.click("right")
    assert ann.is_thanked
    assert ann.page.is_hidden("#change-last")
    rows = votes_on_disk(served.folder)
    assert choices(rows) == [(0, "right"), (1, "left"), (2, "left"), (3, "left"), (4, "right")]
    assert [row["revision"] for row in rows] == [1, 1, 0, 0, 1]
    assert len(list((served.folder / "votes").glob("*/*"))) == NUM_TRIALS + 3


def test_nothing_is_shown_or_stored_before_consent(person, serve):
    served = serve("overall")
    ann = person().open(served.link)
    assert ann.page.is_visible("#consent")
    assert "Taking part is voluntary" in ann.page.inner_text("#consent")
    for key in ("ArrowLeft", "2", "Backspace", "z"):
        ann.page.keyboard.press(key)
    ann.page.wait_for_timeout(300)
    assert ann.page.is_visible("#consent")
    assert not [address for address in ann.requests if "sessions" in address]
    assert not [address for address in ann.requests if "/pictures/" in address]
    assert not list(served.folder.glob("sessions/*"))
    assert not list(served.folder.glob("votes/*"))


def test_a_reload_goes_on_where_one_was_and_another_person_begins_anew(person, serve):
    served = serve("overall")
    ann = person().open(served.link).start()
    ann.click("left")
    ann.click("right")
    shown = ann.shown("left"), ann.shown("right")
    ann.page.reload()
    ann.page.wait_for_selector("#trial:visible")
    assert ann.number == 2
    assert (ann.shown("left"), ann.shown("right")) == shown

    later = ann.page.context.new_page()  # the same browser, after the tab was closed
    later.goto(served.link)
    later.wait_for_selector("#resume:visible")
    assert "2 of 5 done" in later.inner_text("#resume")
    later.click("#resume")
    later.wait_for_selector("#trial:visible")
    assert later.inner_text("#progress-text").startswith("3 of")

    other = ann.page.context.new_page()
    other.goto(served.link)
    other.wait_for_selector("#resume:visible")
    other.click("#start")
    other.wait_for_selector("#trial:visible")
    assert other.inner_text("#progress-text").startswith("1 of")
    assert len(list(served.folder.glob("sessions/*"))) == 2
    while not ann.is_thanked:
        ann.click("left")
    ann.page.reload()
    ann.page.wait_for_selector("#thanks:visible")
    assert choices(votes_on_disk(served.folder))[:2] == [(0, "left"), (1, "right")]
    assert len(votes_on_disk(served.folder)) == NUM_TRIALS


def test_two_windows_of_one_person_store_one_vote(person, serve):
    served = serve("overall")
    ann = person().open(served.link).start()
    other = ann.page.context.new_page()
    other.goto(served.link)
    other.click("#resume")
    other.wait_for_selector("#trial:visible")
    ann.click("left")
    other.click("#right")
    Person(other).wait_for(2)
    assert choices(votes_on_disk(served.folder)) == [(0, "left")]


def test_both_results_appear_together_however_late_one_comes(person, shared):
    ann = person()
    held = []
    ann.page.route(re.compile("/pictures/"), lambda route: held.append(route))
    ann.open(shared("overall").link)
    ann.page.click("#start")
    ann.page.wait_for_timeout(300)
    assert len(held) == 4
    for route in held[:3]:
        route.continue_()
    ann.page.wait_for_timeout(300)
    assert not ann.page.is_visible("#trial")
    held[3].continue_()
    ann.page.wait_for_selector("#trial:visible")
    complete = "[...document.querySelectorAll('#trial img')].every(one => one.complete)"
    assert ann.page.evaluate(complete)


def test_a_prompt_is_shown_beside_its_reference(person, shared):
    ann = person().open(shared("prompt").link).start()
    assert ann.page.inner_text("#references blockquote") == PROMPT
    assert ann.page.get_attribute("#references img", "alt") == "Reference picture"
    for criterion in CRITERIA["style-t2i"]:
        assert criterion in ann.page.inner_text("#criteria")
