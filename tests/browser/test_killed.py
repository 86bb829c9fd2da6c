"""The server is killed while people vote: no vote is lost, and none is there twice."""

from __future__ import annotations

import random
import time
from collections import Counter

from tests.browser.people import choices, votes_on_disk

NUM_TRIALS = 5


def test_a_choice_while_the_server_is_away_is_kept_said_and_stored_later(person, serve):
    served = serve("overall")
    ann = person().open(served.link).start()
    ann.click("left")
    served.kill()
    ann.page.click("#right")
    ann.page.wait_for_selector("#notice:visible")
    assert "not saved yet" in ann.page.inner_text("#notice")
    assert ann.number == 1
    assert choices(votes_on_disk(served.folder)) == [(0, "left")]
    served.start()
    ann.page.click("#retry")
    ann.wait_for(3)
    assert ann.page.is_hidden("#notice")
    assert choices(votes_on_disk(served.folder)) == [(0, "left"), (1, "right")]


def test_killed_at_any_moment_of_a_study_each_click_is_stored_once(person, serve):
    served = serve("overall")
    ann = person().open(served.link).start()
    moments = random.Random(13)
    clicked = []
    for trial in range(NUM_TRIALS):
        side = moments.choice(["left", "right"])
        assert ann.number == trial
        ann.page.click(f"#{side}", no_wait_after=True)
        clicked.append((trial, side))
        time.sleep(moments.uniform(0, 0.02))
        served.kill()
        stored = choices(votes_on_disk(served.folder))
        assert stored in (clicked, clicked[:-1])
        served.start()
        if trial == 2:  # and the person leaves the page meanwhile
            ann.page.once("dialog", lambda dialog: dialog.accept())
            ann.page.reload()
            ann.page.wait_for_selector("#trial:visible")
            if ann.number == trial:  # the click came to nothing, and nobody was thanked for it
                ann.click(side)
        ann.wait_for(trial + 2)
        assert choices(votes_on_disk(served.folder)) == clicked
    assert ann.is_thanked
    files = [file.name for file in (served.folder / "votes").glob("*/*.parquet")]
    assert Counter(files) == {f"{trial:03d}-0.parquet": 1 for trial in range(NUM_TRIALS)}


def test_ctrl_c_ends_the_server_in_order(person, serve):
    served = serve("overall")
    ann = person().open(served.link).start()
    ann.click("left")
    code, said = served.stop()
    assert code == 4
    assert "Traceback" not in said
    assert "Stopped" in said
    assert "127.0.0.1" not in said.partition("Open")[2].partition("\n")[2].replace("--host", "")
