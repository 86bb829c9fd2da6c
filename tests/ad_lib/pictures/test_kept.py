"""What is kept, for how long, and that threads do not compute it twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ad_lib.pictures.kept import Kept


def bytes_of(count):
    return np.zeros(count, dtype=np.uint8)


def test_a_value_is_computed_once_and_is_the_same_object_from_then_on():
    kept = Kept(100)
    first = kept.get("a", lambda: bytes_of(10))
    assert kept.get("a", lambda: pytest.fail("it is known")) is first
    assert kept.nbytes == 10


def test_the_values_not_asked_for_longest_are_forgotten_and_no_more_than_needed():
    kept = Kept(100)
    for key in "abc":
        kept.get(key, lambda: bytes_of(30))
    kept.get("a", lambda: pytest.fail("it is known"))
    kept.get("d", lambda: bytes_of(40))
    for key in "acd":
        kept.get(key, lambda: pytest.fail("it was not the oldest"))
    assert kept.nbytes == 100
    again = kept.get("b", lambda: bytes_of(31))
    assert again.nbytes == 31


def test_a_value_that_does_not_fit_is_given_and_not_kept():
    kept = Kept(100)
    assert kept.get("large", lambda: bytes_of(101)).nbytes == 101
    assert kept.nbytes == 0


def test_what_could_not_be_computed_is_tried_again():
    kept = Kept(100)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: bytes_of(1 // 0))
    assert kept.get("a", lambda: bytes_of(3)).nbytes == 3


def test_of_threads_that_ask_at_the_same_time_one_computes_and_all_are_answered():
    kept, asking, computed = Kept(100), threading.Barrier(4), []

    def compute():
        computed.append(threading.get_ident())
        return bytes_of(5)

    def ask(_):
        asking.wait(timeout=30)
        return kept.get("a", compute)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    assert len(computed) == 1
    assert all(answer is answers[0] for answer in answers)
