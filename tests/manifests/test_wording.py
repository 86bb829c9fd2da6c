"""Text from outside is shown bounded, without control characters and without passwords."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.wording import MAX_MESSAGE_LETTERS, safe_line, safe_text, unusable_letter

ANY_TEXT = st.text(st.characters(codec=None))


@given(ANY_TEXT)
def test_no_control_character_is_left_and_the_text_can_be_encoded(text):
    shown = safe_text(text)
    assert not [one for one in shown if unicodedata.category(one) == "Cc" and one != "\n"]
    shown.encode("utf-8")


@given(ANY_TEXT)
def test_a_line_is_one_line(text):
    assert "\n" not in safe_line(text)


@pytest.mark.parametrize("length", [MAX_MESSAGE_LETTERS, MAX_MESSAGE_LETTERS + 1, 10**6])
def test_a_text_of_any_length_becomes_a_bounded_one_that_says_what_was_left_out(length):
    shown = safe_text("x" * length)
    assert len(shown) <= MAX_MESSAGE_LETTERS
    if length > MAX_MESSAGE_LETTERS:
        kept = shown.count("x")
        assert shown.endswith(f"… ({length - kept} more letters)")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://anna:hunter2@example.com/a.png", "hunter2"),
        ("http://proxy:p@ss@host:80/", "p@ss"),
        ("https://x.org/a?X-Amz-Signature=abc123&b=1", "abc123"),
        ("--set password=hunter2", "hunter2"),
        ("hf_token=abc 'api-key=def'", "abc"),
        ("http://anna:hun?ter#2'@host/", "ter#2"),
        ("https://ghp_secretsecret@github.com/x", "secretsecret"),
        ("AWS_SECRET_ACCESS_KEY=hunter2", "hunter2"),
        ('{"token": "hunter2"}', "hunter2"),
        ("Authorization: Bearer hunter2", "hunter2"),
        ("password: hunter2", "hunter2"),
        ("https://x.blob.core.windows.net/a?sig=hunter2&x=1", "hunter2"),
        ("see hf_abcdefghijklmnopqrstuvwxyz", "abcdefghij"),
        ("key AKIAABCDEFGHIJKLMNOP here", "ABCDEFGHIJ"),
        ("key ASIAABCDEFGHIJKLMNOP here", "ABCDEFGHIJ"),
        ("key pnu_abcdefghijklmnopqrstuvwxyz", "abcdefghij"),
        ("AccountName=x;AccountKey=hunter2==;", "hunter2"),
    ],
)
def test_passwords_are_not_shown(text, secret):
    assert secret not in safe_text(text)


@given(ANY_TEXT)
def test_what_is_safe_already_stays_as_it_is(text):
    assert safe_text(safe_text(text)) == safe_text(text)


@pytest.mark.parametrize("piece", ["a-", "://", "://a:", "token", "\n ", "@", ":", "=", "'"])
def test_no_text_takes_long(piece):
    safe_line(piece * 1_000_000)  # some patterns would take hours


def test_writing_that_runs_backwards_is_shown_as_what_it_is():
    assert safe_line("a\u202egpj.exe") == r"a\u202egpj.exe"


@pytest.mark.parametrize(
    ("text", "found"),
    [("a\nb\tc é 東", None), ("a\0", r"\x00"), ("\ud83d", r"\ud83d"), ("\x85", r"\x85")],
)
def test_a_letter_that_no_text_may_hold_is_named(text, found):
    told = unusable_letter(text)
    assert (told is None) if found is None else (found in (told or ""))


def test_ordinary_text_is_left_as_it_is():
    text = "photos/Ünïcode 東京.jpg: 3 x 4 (see https://example.com/a?b=c)\nsecond line"
    assert safe_text(text) == text
