"""Texts and values that programs stumble over."""

from __future__ import annotations

import random
from typing import Any

TEXTS = (
    *("", " ", "\t", "\n", "a\nb", "\r\n", "\0", "a\0b.png", "\x7f", "\x1b[31mred\x1b[0m"),
    *("\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\x08\x08\x08", "a\u202egnp.exe", "\u2028x\u2029"),
    *("\x85", "\ufeff", "\ufffe", "\uffff", "\ud800", "x\udfff.png", "\udc80\udcff", "\U000e0001"),
    *("../../../etc/passwd", "../secret.png", "..", ".", "...", "/", "//", "/etc/passwd"),
    *("/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/self/environ", "a/../../secret.png"),
    *("~", "~/x.png", "~root/x.png", "~nosuchuser/x.png", "~nosuchuser", "~/../secret.png"),
    *("http://example.org/x.png", "https://user:hunter2@example.org/x.png?token=hunter2"),
    *(
        "HTTP://EXAMPLE.ORG/",
        "s3://",
        "s3:///x.png",
        "s3://b",
        "s3://UPPER_case/x.png",
        "s3://a b/c",
    ),
    *("s3://user:hunter2@bucket/key", "s3://b/../../x", "gs://b/x.png", "hf://o/n", "az://c/x.png"),
    *("file:///etc/passwd", "file://secret.png", "data:image/png;base64,AAAA", "://", "x://", ":"),
    *(
        "C:\\x\\y.png",
        "\\\\server\\share\\x.png",
        "http:/x.png",
        "http:x",
        "s3:/b/x",
        "ftp://h/x.tar",
    ),
    *(
        "{a,b",
        "a}b",
        "{}",
        "{,}",
        "{1..999999999}.png",
        "{1..5}{1..5}{1..5}",
        "{a..z..0}",
        "{{a,b},c}",
    ),
    *(
        "{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}.tar",
        "{9..1}",
        "{-5..5}.png",
        "{a,b}" * 12,
    ),
    *("**/*", "*", "?", "[", "[!", "[a-", "***", "**/**/**/*.png", "a[0-9999999].png", "*.tar"),
    *("a" * 300, "a" * 300 + ".png", "a" * 10_000, "x/" * 3000 + "y.png", "💥" * 500, "é" * 255),
    *("e\u0301" * 200, "Z\u0351\u036b\u0343" * 100, "İstanbul", "ß", "ﬁ", "写真", "фото", "צילום"),
    *(
        "%s%n%x",
        "%(x)s",
        "${HOME}",
        "$(touch pwned)",
        "`touch pwned`",
        "; touch pwned",
        "|touch pwned",
    ),
    *(
        "--help",
        "-",
        "-rf",
        "=1+1",
        "<script>alert(1)</script>",
        "'\"><img src=x>",
        "{{7*7}}",
        "{%x%}",
    ),
    *("[bold]x[/]", "[/red]", "[link=file:///etc/passwd]x[/link]", "[", "\\[", "[/]", ":smile:"),
    *(
        "null",
        "true",
        "no",
        "off",
        "NaN",
        "Infinity",
        "-inf",
        "1e999",
        "1e-2",
        "0x10",
        "0o17",
        "0512",
    ),
    *(
        "1_000",
        "12:30:45",
        "2020-13-45",
        "1" * 5000,
        "0x" + "f" * 4000,
        "١٢٣",
        "½",
        "1e5",
        "+1",
        "1.",
    ),
    *("con", "nul.png", ".hidden.png", "x.png/", "x.png#m", "x.png?y", "s.tar#m.png", "a//b.png"),
    *(
        "x.txt",
        "prompts.txt",
        "http://example.org/robots.txt",
        "a poster of https://e.org/robots.txt",
    ),
    *(
        "password=hunter2",
        "://u:hunter2@h",
        "import os",
        "__class__",
    ),
)

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 63, 64, 65, 100, 255, 256, 8192, 8193, 65535, 65536, 10**6, 10**9),
    *(2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**30),
    *(10**400, -(10**18), 0.0, -0.0, 0.5, -0.5, 1.5, 1e-2, 1e-320, 1e-45, 1e16, 1e38, 1e39, 1e308),
    *(float("inf"), float("-inf"), float("nan"), True, False),
)


def text(draw: random.Random) -> str:
    """A text that means trouble, or two of them."""
    chance = draw.random()
    if chance < 0.75:
        return draw.choice(TEXTS)
    if chance < 0.9:
        return draw.choice(TEXTS) + draw.choice(("", "/", ".png", " ", "\n")) + draw.choice(TEXTS)
    letters = (draw.randrange(0x110000) for _ in range(draw.choice((1, 3, 20, 200))))
    return "".join(map(chr, letters))


def number(draw: random.Random) -> Any:
    """A number at the edge of what some type holds."""
    return draw.choice(NUMBERS)


def value(draw: random.Random, depth: int = 3) -> Any:
    """Anything that JSON or YAML can say."""
    chance = draw.random()
    if chance < 0.35 or depth == 0:
        return text(draw)
    if chance < 0.65:
        return number(draw)
    if chance < 0.7:
        return None
    if chance < 0.85:
        return [value(draw, depth - 1) for _ in range(draw.choice((0, 1, 2, 3, 30)))]
    if chance < 0.88:
        return nested(draw)
    return {text(draw): value(draw, depth - 1) for _ in range(draw.choice((0, 1, 2, 5)))}


def nested(draw: random.Random) -> Any:
    """Lists in lists, as deep as a writer of JSON can still write."""
    inner: Any = draw.choice((None, 1, "x"))
    for _ in range(draw.choice((10, 100, 400))):
        inner = [inner] if draw.random() < 0.5 else {"a": inner}
    return inner


def replaced_somewhere(draw: random.Random, tree: Any) -> Any:
    """The tree of lists and mappings with one part of it replaced, dropped, renamed or added."""
    if isinstance(tree, dict) and tree and draw.random() < 0.8:
        key = draw.choice(sorted(tree, key=str))
        chance = draw.random()
        if chance < 0.7:
            return {**tree, key: replaced_somewhere(draw, tree[key])}
        if chance < 0.8:
            return {name: inner for name, inner in tree.items() if name != key}
        if chance < 0.9:
            return {**tree, text(draw): value(draw)}
        return {(text(draw) if name == key else name): inner for name, inner in tree.items()}
    if isinstance(tree, list) and tree and draw.random() < 0.8:
        place = draw.randrange(len(tree))
        chance = draw.random()
        if chance < 0.6:
            return [*tree[:place], replaced_somewhere(draw, tree[place]), *tree[place + 1 :]]
        if chance < 0.8:
            return tree[:place] + tree[place + 1 :]
        return [*tree, *[tree[place]] * draw.choice((1, 2, 100))]
    if isinstance(tree, int | float) and draw.random() < 0.6:
        return number(draw)
    if isinstance(tree, str) and draw.random() < 0.6:
        return text(draw)
    return value(draw)
