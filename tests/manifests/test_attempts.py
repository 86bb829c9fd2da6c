"""Who is convicted, and who never is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.attempts import (
    AttemptRecord,
    Background,
    Worker,
    attempt_name,
    read_attempt,
    suspicion,
)
from manifests.errors import RunFolderError
from manifests.items import ErrorClass
from tests.manifests.kill_histories import Scene, play

WORKER = Worker(id="w", host="h", boot_id="b", pid_namespace="n", pid=7, started="5", device="cpu")
MANY = Background(deaths=0, finished=1000)


def attempt(number: int, **changes: Any) -> AttemptRecord:
    return AttemptRecord(
        shard="00000", number=number, attempt_id=f"a{number}", worker=WORKER, **changes
    )


def died(number: int, *in_hand: str, signal: int | None = 11, **changes: Any) -> AttemptRecord:
    found = {"in_hand": in_hand, "alone": len(in_hand) == 1, "ending": "died", "signal": signal}
    return attempt(number, **found | changes)


def lost(number: int, *in_hand: str) -> AttemptRecord:
    """Its worker was killed, and the next attempt took it over."""
    return attempt(number, in_hand=in_hand, alone=len(in_hand) == 1, took_over=number - 1 or None)


def test_whoever_was_in_hand_at_a_death_is_a_suspect_until_it_came_through_alone():
    deaths = [died(1, "a", "b", "c")]
    assert set(suspicion(deaths).suspects) == {"a", "b", "c"}
    cleared = died(2, "d", cleared=("a", "c"))
    assert set(suspicion([*deaths, cleared]).suspects) == {"b", "d"}
    again = died(3, "a", "b", cleared=("d",))
    assert set(suspicion([*deaths, cleared, again]).suspects) == {"a", "b"}


@pytest.mark.parametrize("ending", ["committed", "lost", "stopped", "infra", None])
def test_an_attempt_that_did_not_die_makes_nobody_a_suspect(ending):
    assert suspicion([attempt(1, in_hand=("a",), alone=True, ending=ending)]).suspects == ()


def test_suspects_take_turns_in_being_the_first_one():
    first = {suspicion([died(number, "a", "b", "c")]).suspects[0] for number in range(1, 4)}
    assert first == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("how", "error_class", "told"),
    [
        ({"signal": 11}, ErrorClass.CRASH, "signal 11"),
        ({"signal": None, "exit_code": 3}, ErrorClass.CRASH, "exit code 3"),
        ({"ending": "hung", "signal": None}, ErrorClass.TIMEOUT, "hung"),
    ],
)
def test_an_item_whose_process_dies_of_itself_twice_alone_is_convicted(how, error_class, told):
    assert suspicion([died(1, "a", "b", **how), died(2, "a", **how)]).convicted == {}
    found = suspicion([died(1, "a", "b", **how), died(2, "a", **how), died(3, "a", **how)])
    assert found.convicted.keys() == {"a"}
    assert found.suspects == ("b",)
    assert found.convicted["a"].error_class == error_class
    assert told in found.convicted["a"].message
    assert "2 times" in found.convicted["a"].message


def test_deaths_before_an_item_came_through_do_not_count():
    history = [died(1, "a"), died(2, "b", cleared=("a",)), died(3, "a", cleared=("b",))]
    assert suspicion(history).convicted == {}


@pytest.mark.parametrize("signal", [1, 2, 9, 15])
def test_a_signal_from_outside_convicts_only_when_it_comes_again_and_again(signal):
    history = [died(number, "a", signal=signal) for number in range(1, 5)]
    assert suspicion(history[:3], MANY).convicted == {}
    assert suspicion(history, MANY).convicted.keys() == {"a"}


def test_where_others_die_too_it_takes_more_deaths_to_convict():
    history = [died(number, "a", signal=9) for number in range(1, 40)]

    def needed(background: Background) -> int:
        return next(n for n in range(40) if suspicion(history[:n], background).convicted)

    quiet = needed(Background(deaths=0, finished=100))
    noisy = needed(Background(deaths=30, finished=100))
    assert quiet < needed(Background()) < 25
    assert quiet < noisy < 25


def test_a_kernel_out_of_memory_convicts_after_three_deaths_alone_whatever_else_happens():
    history = [died(n, "a", signal=9, out_of_memory=True) for n in range(1, 4)]
    noise = Background(deaths=100, finished=10)
    assert suspicion(history[:2], noise).convicted == {}
    assert "out of memory" in suspicion(history, noise).convicted["a"].message


def test_only_an_attempt_that_was_taken_over_counts_as_lost():
    history = [lost(number, "a") for number in range(1, 6)]
    assert suspicion(history[:1], MANY).suspects == ()
    assert suspicion(history[:2], MANY).suspects == ("a",)
    assert suspicion(history, MANY).convicted.keys() == {"a"}


scenes = st.builds(
    Scene,
    num_shards=st.just(12),
    shard_items=st.sampled_from([1, 4, 100]),
    batch_size=st.sampled_from([1, 4]),
    chance=st.floats(0, 0.5),
    kill=st.sampled_from(["parent", "child"]),
)


@settings(max_examples=40, derandomize=True)
@given(scenes, st.integers(0, 10**6))
def test_a_hundred_kills_among_healthy_items_convict_nobody(scene, seed):
    assert play(scene, random.Random(seed)).convicted == set()


@settings(max_examples=40, derandomize=True)
@given(scenes, st.sampled_from([11, 9, None]), st.integers(0, 10**6))
def test_poison_is_convicted_however_it_kills_and_whoever_else_is_killed(scene, signal, seed):
    poison = frozenset({"00001-0", "00003-0"})
    poisoned = Scene(**{**vars(scene), "poison": poison, "signal": signal, "max_kills": 40})
    assert play(poisoned, random.Random(seed)).convicted == poison


@pytest.mark.parametrize(("signal", "most"), [(11, 4), (9, 8), (None, 8)])
def test_a_poison_item_costs_a_handful_of_attempts(signal, most):
    scene = Scene(
        num_shards=30,
        shard_items=4,
        batch_size=4,
        chance=0,
        kill="child",
        poison=frozenset({"00020-3"}),
        signal=signal,
    )
    spent = [len(play(scene, random.Random(seed)).attempts["00020"]) - 1 for seed in range(9)]
    assert sorted(spent)[4] <= most


def test_an_attempt_is_read_as_it_was_written():
    written = died(3, "a", "b", cleared=("c",), error="x", took_over=2)
    assert read_attempt(written.to_bytes(), "00000", 3) == written


def test_a_note_of_the_first_layout_is_an_attempt_that_failed_and_suspects_nobody():
    note = b'{"error": "E: x", "shard": "00000", "attempt_id": "a", "worker": "h:1"}'
    found = read_attempt(note, "00000", 2)
    assert (found.ending, found.error, found.number) == ("infra", "E: x", 2)
    assert suspicion([found]).suspects == ()


@pytest.mark.parametrize("data", [b"", b"[]", b'{"schema_version": 2}', b'{"error": 3}', b"\xff"])
def test_a_damaged_attempt_is_refused_by_name(data):
    with pytest.raises(RunFolderError, match=rf"^{attempt_name('00000', 1)} is damaged"):
        read_attempt(data, "00000", 1)
