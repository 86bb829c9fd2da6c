"""Job files: values of other types, texts that are no YAML, bombs, and what --set replaces."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from tests.faults.fuzz import sound, words
from tests.faults.fuzz.cases import Case, run_command
from tests.faults.fuzz.damage import damaged

TASKS = (
    *("style-transfer", "appearance-transfer", "style-t2i", "style-t2i-sd15", "texture-optimize"),
    *("texture-sample", "texture-masked", "texture-layout", "texture-expand"),
)
SETTINGS = (
    *("num_inference_steps", "num_optimization_steps", "learning_rate", "content_weight"),
    *("attn_scale", "layers", "style_weights", "reference_size", "timesteps", "guidance_scale"),
    *("adain", "start_time", "variant", "init", "controlnet_conditioning_scale", "seamless"),
    *("view_size", "view_stride", "view_shift", "view_batch_size", "colors", "decoder_epochs"),
)
PLACES = (
    *("name", "task", "settings", "backbone", "inputs", "pairing", "variants", "sweep", "seed"),
    *("quality", "output", "limits", "compute", "output.size", "output.codec", "output.quality"),
    *("output.resize_mode", "limits.max_items", "limits.max_failed", "limits.max_pixels"),
    *("compute.batch_size", "compute.device", "compute.shard_seconds", "compute.shard_items"),
    *("compute.seconds_per_item", "compute.io_threads", "pairing.mode", "pairing.seed"),
    *("pairing.styles_per_content", "backbone.name", "backbone.revision", "backbone.config"),
    *("backbone.controlnet", "backbone.controlnet_revision", "backbone.dtype", "inputs.content"),
    *(
        "inputs.style",
        "inputs.texture",
        "inputs.layout",
        "inputs.source_mask",
        "inputs.target_mask",
    ),
    *(
        "inputs.control",
        "inputs.prompt",
        "inputs.negative_prompt",
        "inputs.table",
        "inputs.content.uri",
    ),
    *("inputs.content.license", "quality.retries", "quality.ssim_luma", "quality.seam_ratio_x.max"),
    *("sweep.learning_rate", "sweep.seamless", *(f"settings.{name}" for name in SETTINGS)),
)
SCALARS = (
    *(
        "!!bool maybe",
        "!!int abc",
        "!!float x",
        "!!timestamp abc",
        "!!binary @@@",
        "!!null x",
        "!!set {a, b}",
    ),
    *(
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
        "!!str 5",
        "!!map x",
        "!!seq x",
        "!x y",
        "!!python/none x",
    ),
    *("!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system", "!<tag:x> y"),
    *(
        "0x10",
        "0o17",
        "0512",
        "0b1",
        "1_000",
        "12:30:45",
        "190:20:30",
        "2020-01-01",
        "2020-13-45",
        "1e-2",
    ),
    *(
        "1e400",
        ".inf",
        "-.inf",
        ".nan",
        ".NAN",
        "~",
        "yes",
        "No",
        "off",
        "ON",
        "y",
        "=",
        "<<",
        "*x",
        "&x",
    ),
    *(
        "&x [*x]",
        "{<<: 1}",
        "{<<: [1]}",
        "[",
        "{",
        "'",
        '"',
        '"\\ud800"',
        '"\\0"',
        '"\\x1b[31m"',
        '"\\uFFFF"',
    ),
    *(
        '"\\U0010FFFF"',
        '"\\UFFFFFFFF"',
        "|\n  a\n   b\n c",
        "> x",
        "- x",
        "? x",
        "@x",
        "`x`",
        "%x",
        "#",
        ",",
    ),
    *(
        "0x" + "f" * 4000,
        "9" * 5000,
        "1." + "0" * 5000 + "1",
        "[" * 2000,
        "[" * 50 + "]" * 50,
        "{a: {b: {c: 1}}}",
    ),
    *(
        "'" + "x" * 100_000 + "'",
        "--- x",
        "... x",
        "\t",
        "\x07",
        "\x85",
        "\u2028",
        "\ufeff",
        "é",
        "{1: 2}",
        "{[1]: 2}",
    ),
)


def replaced_values(draw: random.Random, folder: Path) -> Case:
    """A sound job with one to three values of it replaced."""
    content = _any_job(draw, folder)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        place = draw.choice(PLACES)
        _put(content, place, words.value(draw))
    return _case(draw, folder, _yaml(content), "values of a job", safe=False)


def yaml_scalars(draw: random.Random, folder: Path) -> Case:
    """A sound job in which one value is written as YAML has it in its odder corners."""
    content = _any_job(draw, folder)
    place = draw.choice(PLACES)
    _put(content, place, "HERE")
    scalar = draw.choice(SCALARS)
    text = _yaml(content).replace("HERE", scalar)
    return _case(draw, folder, text, f"{place}: {scalar[:30]!r}", safe=False)


def odd_yaml(draw: random.Random, folder: Path) -> Case:
    """Job files that are no YAML, no mapping, not text, or bombs."""
    plain = _yaml(_any_job(draw, folder))
    lines = ["x0: &x0 lol"]
    for number in range(1, draw.choice((5, 9, 30))):
        lines.append(f"x{number}: &x{number} [{', '.join([f'*x{number - 1}'] * 9)}]")
    bomb = "\n".join(lines) + "\n"
    merges = "m0: &m0 {a: 1}\n" + "".join(
        f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
    )
    text = draw.choice(
        (
            *(
                "",
                "\n",
                "---",
                "a",
                "[]",
                "1",
                "null",
                "--- a\n--- b",
                plain + "---\n" + plain,
                "{}",
                "[a: 1]",
            ),
            *(
                bomb + plain,
                plain + bomb,
                merges + plain,
                plain + "x: &a [*a]\n",
                plain + "x: &a {b: *a}\n",
            ),
            *(
                plain + "task: style-transfer\n",
                plain + "? [a]\n: b\n",
                plain + "? {a: b}\n: c\n",
                plain + "1: 2\n",
            ),
            *(
                plain + "null: 2\n",
                plain + "true: 2\n",
                plain + "2020-01-01: 2\n",
                plain + "x: " + "[" * 5000,
            ),
            *(
                plain + "x: " + "{a: " * 5000,
                plain + "a" * 2000 + ": 1\n",
                plain + "'" + "k" * 10**6 + "': 1\n",
            ),
            *(
                "%YAML 1.2\n---\n" + plain,
                "%TAG ! tag:x,2000:\n---\n" + plain,
                "%FOO\n---\n" + plain,
                "\ufeff" + plain,
            ),
            *(
                plain.replace("\n", "\r\n"),
                plain.replace("\n", "\r"),
                plain.replace("  ", "\t"),
                plain + "\0",
            ),
            *(
                plain + "\x1b[31m: 1\n",
                "- " * 3000 + "a",
                plain + "x: *nowhere\n",
                plain + "x: 'open",
                plain + "x: >",
            ),
            *(
                plain + "\n".join(f"k{n}: 1" for n in range(3000)),
                plain + "x: !!binary " + "A" * 100_000 + "\n",
            ),
            *(
                "#" + "x" * 10**6 + "\n" + plain,
                plain + "<<: {a: 1}\n",
                plain + "<<: [*x]\n",
                "{" + '"a":' * 1000,
            ),
            *(
                json.dumps(words.nested(draw)),
                json.dumps(words.value(draw)),
                json.dumps(sound.job()),
            ),
        )
    )
    encoding = draw.choice(
        ("utf-8",) * 8 + ("utf-16", "utf-32", "latin-1", "utf-8-sig", "utf-16-be")
    )
    return _bytes_case(draw, folder, text.encode(encoding, "replace"), f"odd YAML in {encoding}")


def damaged_bytes(draw: random.Random, folder: Path) -> Case:
    """A sound job file with damage."""
    data = _yaml(_any_job(draw, folder)).encode()
    return _bytes_case(draw, folder, damaged(draw, data), "a damaged job file")


def overrides(draw: random.Random, folder: Path) -> Case:
    """Values that --set replaces, and other arguments of the command line."""
    sound.write_style_transfer(folder, "ab")
    arguments: list[str] = []
    for _ in range(draw.choice((1, 1, 2))):
        place = draw.choice(PLACES) if draw.random() < 0.8 else words.text(draw)
        written = draw.choice(SCALARS) if draw.random() < 0.6 else words.text(draw)
        pair = draw.choice(
            (f"{place}={written}",) * 4 + (place, f"={written}", f"{place}.{place}={written}")
        )
        arguments += ["--set", _argument(pair)]
    if draw.random() < 0.2:
        arguments += draw.choice(
            (["--limit", "0"], ["--limit", "1" * 400], ["--limit", "x"], ["--nothing"])
        )
    command = ("run", "job.yaml", "--dry-run", *arguments)
    return Case(told="--set " + repr(arguments)[:60], command=command)


def sweeps(draw: random.Random, folder: Path) -> Case:
    """Sweeps that are very large, empty, twins, or of other tasks."""
    many = list(range(1, draw.choice((3, 50))))
    sweep: Any = draw.choice(
        (
            *(
                {name: many for name in SETTINGS[:5]},
                {"learning_rate": []},
                {},
                [],
                [{}],
                [{}, {}],
                "x",
                5,
            ),
            *({"learning_rate": [0.1] * draw.choice((2, 10**5))}, [{"label": words.text(draw)}]),
            *([{"task": words.text(draw)}], [{"task": draw.choice(TASKS)} for _ in range(3)]),
            *([{"label": "x" * 500, "learning_rate": 1}], {words.text(draw): [words.value(draw)]}),
            *(
                [words.value(draw)],
                {"layers": [[4, 8], words.value(draw)]},
                [{"label": "é"}, {"label": "è"}],
            ),
        )
    )
    changes: dict[str, Any] = {"sweep": sweep, "variants": draw.choice((1, 2, 10**9))}
    sound.write_style_transfer(folder, "ab")
    return _case(draw, folder, _yaml(sound.job(**changes)), "a sweep", safe=False)


def braces_and_globs(draw: random.Random, folder: Path) -> Case:
    """Sources that name very many files, or none."""
    chosen = [
        draw.choice([one for one in words.TEXTS if set(one) & set("{}*?[") and "\0" not in one])
    ]
    chosen += draw.choice(([], ["content"], ["content/{a,b}.png"], ["content/*.png"]))
    sound.write_style_transfer(folder, "ab")
    content = sound.job(inputs__content=chosen)
    return _case(draw, folder, _yaml(content), f"content: {chosen[0][:40]!r}", safe=False)


def extreme_settings(draw: random.Random, folder: Path) -> Case:
    """Settings that take numbers out of range, which are then rendered."""
    sound.write_style_transfer(folder, "a")
    numbers = [one for one in words.NUMBERS if abs(one) > 1e6 or abs(one) < 2]
    name = draw.choice(
        (
            "learning_rate",
            "content_weight",
            "attn_scale",
            "guidance_scale",
            "start_time",
            "timesteps",
        )
    )
    setting: Any = {name: draw.choice(numbers)}
    if draw.random() < 0.3:
        setting = draw.choice(
            (
                *({"style_weights": [draw.choice(numbers)]}, {"layers": [draw.choice(numbers), 4]}),
                *({"reference_size": draw.choice((1, 8, 64, 10**6))}, {"decoder_epochs": 1}),
                *({"colors": "content"}, {"seamless": True}, {"adain": 1}, {"init": "style"}),
            )
        )
    content = sound.job()
    content["settings"] |= setting
    text = _yaml(content)
    (folder / "job.yaml").write_text(text)
    return Case(told=f"settings {setting}"[:60], **run_command(draw, renders=0.5))


MAKERS = (
    replaced_values,
    replaced_values,
    yaml_scalars,
    yaml_scalars,
    odd_yaml,
    damaged_bytes,
    overrides,
    sweeps,
    braces_and_globs,
    extreme_settings,
)


def _any_job(draw: random.Random, folder: Path) -> dict[str, Any]:
    """A sound job of one of the tasks, with its pictures."""
    sound.write_style_transfer(folder, "ab")
    task = draw.choice(TASKS) if draw.random() < 0.4 else "style-transfer"
    if task.startswith("texture"):
        inputs: dict[str, Any] = {"texture": "style.png"}
        if task == "texture-layout":
            inputs["layout"] = "content"
        elif task == "texture-masked":
            inputs |= {"source_mask": "style.png", "target_mask": "content"}
        return sound.job(task=task, inputs=inputs)
    if task.startswith("style-t2i"):
        return sound.job(task=task, inputs={"style": "style.png", "prompt": "a house"})
    return sound.job(task=task)


def _put(content: dict[str, Any], place: str, value: Any) -> None:
    *parents, last = place.split(".")
    for parent in parents:
        inner = content.get(parent)
        if not isinstance(inner, dict):
            inner = (
                {}
                if inner is None
                else {"uri" if parent in ("content", "style") else "name": inner}
            )
        content[parent] = inner
        content = inner
    content[last] = value


def _yaml(content: Any) -> str:
    """The job as text; what YAML cannot write stands there as JSON."""
    try:
        return yaml.safe_dump(content, width=10_000, sort_keys=False)
    except (yaml.YAMLError, RecursionError, UnicodeError):
        return json.dumps(content)


def _argument(text: str) -> str:
    """What can be an argument of a program: bytes without NUL."""
    safe = text.replace("\0", "")
    return safe.encode("utf-8", "replace").decode()


def _case(draw: random.Random, folder: Path, text: str, told: str, *, safe: bool) -> Case:
    return _bytes_case(draw, folder, text.encode("utf-8", "surrogatepass"), told)


def _bytes_case(draw: random.Random, folder: Path, data: bytes, told: str) -> Case:
    """The job is checked, or planned into the folder that may be written; it is not rendered."""
    (folder / "job.yaml").write_bytes(data)
    if draw.random() < 0.15:
        command = ("plan", "job.yaml", "--output", "run")
        return Case(told=told, command=command, may_write=("run",))
    return Case(told=told, command=("run", "job.yaml", "--dry-run"))
