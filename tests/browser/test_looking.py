"""What the page looks like: on a phone and a desk, magnified, and to who cannot see it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import CDPSession, FloatRect, Locator

from tests.browser.people import Person, votes_on_disk

SIZES = [(390, 844), (390, 664), (360, 640), (844, 390), (1440, 900), (1024, 768)]


def box(ann: Person, selector: str) -> FloatRect:
    return box_of(ann.page.locator(selector))


def box_of(found: Locator) -> FloatRect:
    box = found.bounding_box()
    assert box is not None
    return box


@pytest.mark.parametrize("kind", ["overall", "criteria", "prompt"])
def test_both_results_are_in_view_at_one_size_and_nothing_scrolls(person, shared, kind):
    wide = "document.documentElement.scrollWidth <= innerWidth"
    ann = person(*SIZES[0]).open(shared(kind).link)
    assert ann.page.evaluate(wide), "consent"
    ann.start()
    for width, height in SIZES:
        ann.page.set_viewport_size({"width": width, "height": height})
        assert ann.page.evaluate(wide)
        assert ann.page.evaluate("document.documentElement.scrollHeight <= innerHeight")
        left, right = box(ann, "#left .window"), box(ann, "#right .window")
        assert (left["width"], left["height"]) == pytest.approx((right["width"], right["height"]))
        assert left["y"] == pytest.approx(right["y"])
        assert left["x"] + left["width"] < right["x"]
        assert left["width"] >= 0.2 * min(width, height)
        for shown in [left, right, *map(box_of, ann.page.locator("#references figure").all())]:
            assert shown["width"] > 40
            assert shown["height"] > 40
            assert shown["x"] >= 0
            assert shown["x"] + shown["width"] <= width
            assert shown["y"] >= 0
            assert shown["y"] + shown["height"] <= height
        references = box(ann, "#references")
        criteria = box(ann, "#criteria")
        assert criteria["y"] + criteria["height"] <= min(left["y"], references["y"])
        if width < 500:
            assert references["y"] + references["height"] <= left["y"]
        else:
            assert references["x"] + references["width"] <= left["x"]


def test_z_magnifies_both_at_the_place_under_the_mouse(person, shared):
    ann = person().open(shared("overall").link).start()
    left = box(ann, "#left .window")
    whole = ann.scales()
    ann.page.mouse.move(left["x"] + 0.25 * left["width"], left["y"] + 0.5 * left["height"])
    ann.page.keyboard.press("z")
    at_left, at_right = ann.scales()
    assert at_left == at_right
    assert at_left.startswith("scale(3)")
    right = box(ann, "#right .window")
    ann.page.mouse.move(right["x"] + 0.75 * right["width"], right["y"] + 0.5 * right["height"])
    moved_left, moved_right = ann.scales()
    assert moved_left == moved_right
    assert moved_left != at_left
    ann.page.keyboard.press("Shift+ArrowLeft")
    nudged = ann.scales()
    assert nudged[0] == nudged[1] != moved_left
    assert box(ann, "#left .window") == left, "what is magnified stays in its frame"
    ann.page.keyboard.press("z")
    assert ann.page.get_attribute("#zoom", "aria-pressed") == "false"
    assert [scale.startswith("scale(1)") for scale in ann.scales()] == [True, True]
    assert whole[0] == whole[1]
    ann.page.click("#zoom")
    assert ann.page.get_attribute("#zoom", "aria-pressed") == "true"
    ann.press("ArrowRight")
    assert ann.page.get_attribute("#zoom", "aria-pressed") == "false", "each page begins whole"


def test_a_pinch_on_one_magnifies_both_and_is_no_choice(person, serve):
    served = serve("overall")
    ann = person(390, 844, has_touch=True, is_mobile=True).open(served.link).start()
    right = box(ann, "#right .window")
    x, y = right["x"] + right["width"] / 2, right["y"] + right["height"] / 2
    fingers = ann.page.context.new_cdp_session(ann.page)
    touch(fingers, *([(x - 20 - n, y), (x + 20 + n, y)] for n in range(0, 40, 2)))
    scale_left, scale_right = (float(re.findall(r"scale\((.*?)\)", s)[0]) for s in ann.scales())
    assert scale_left == scale_right == pytest.approx(58 / 20, rel=0.05)
    before = ann.scales()
    touch(fingers, *([(x - n, y - n)] for n in range(0, 50, 5)))
    after = ann.scales()
    assert after[0] == after[1] != before[0]
    ann.page.wait_for_timeout(400)
    assert ann.number == 0
    assert votes_on_disk(served.folder) == []
    ann.page.touchscreen.tap(x, y)
    ann.wait_for(2)
    assert [row["choice"] for row in votes_on_disk(served.folder)] == ["right"]


def touch(fingers: CDPSession, *moments: list[tuple[float, float]]) -> None:
    """Fingers come down at the first moment, move, and go, as the browser gets them of a screen."""
    for number, places in enumerate(moments):
        points = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(places)]
        kind = "touchMove" if number else "touchStart"
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(person, shared, scheme):
    ann = person(color_scheme=scheme).open(shared("criteria").link)
    assert min(ann.page.evaluate(CONTRASTS)) >= 4.5
    ann.start()
    assert min(ann.page.evaluate(CONTRASTS)) >= 4.5


CONTRASTS = """
() => {
  const channels = (color) => color.match(/[0-9.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = channels(color).slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    const color = getComputedStyle(one).backgroundColor;
    return channels(color)[3] === 0 ? behind(one.parentElement) : color;
  };
  return [...document.querySelectorAll("h1, p, li, span, button, figcaption, kbd")]
    .filter((one) => one.checkVisibility() && one.textContent.trim() && !one.disabled)
    .map((one) => {
      const pair = [light(getComputedStyle(one).color), light(behind(one))].sort((a, b) => a - b);
      return (pair[1] + 0.05) / (pair[0] + 0.05);
    });
}
"""


def test_who_cannot_see_the_page_is_told_what_there_is(person, shared):
    ann = person().open(shared("overall").link).start()
    said = ann.page.locator("#trial").aria_snapshot()
    for words in (
        *("status: 1 of 5", 'heading "Which result is better', 'button "Pick the result on the l'),
        *('button "Pick the result on the right"', 'img "Content picture"', 'button "Zoom"'),
        *("structural similarity to the content image", 'button "Back" [disabled]'),
    ):
        assert words in said, said
