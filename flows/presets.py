"""What the command line says about tasks: which there are, and what the embedded model lacks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ad_lib.model.weights import EMBEDDED
from ad_lib.presets import PRESETS, Preset
from flows.terminal import Terminal


def show_presets(terminal: Terminal, *, as_json: bool = False) -> None:
    """Prints every task with what it takes and its published numbers."""
    if as_json:
        terminal.print_json({"presets": map(_document, PRESETS.values())})
        return
    rows = [
        (preset.name, f"{preset.summary}\ntakes {_inputs(preset)}\n{_numbers(preset)}\n")
        for preset in PRESETS.values()
    ]
    terminal.say_table((), rows)
    terminal.say(
        "Steps are num_inference_steps x num_optimization_steps. Every number is a setting of that "
        "name: under 'settings' in a job, --set KEY=VALUE in 'stylefarm render --preset TASK'."
    )


def warn_of_prompts(terminal: Terminal, preset: Preset, backbone: str) -> None:
    """Says that a prompt is lost on the embedded model, where the task draws a prompt with it."""
    if preset.takes_prompt and backbone == EMBEDDED:
        terminal.say(
            "The embedded model knows next to nothing of words, so the prompt hardly shows in the "
            "picture; for pictures of a prompt name another backbone, such as sd15 or sdxl.",
            "yellow",
        )


def _document(preset: Preset) -> dict[str, Any]:
    """A task with the settings that it reads."""
    settings = asdict(preset.settings)
    return {
        "name": preset.name,
        "summary": preset.summary,
        "takes": list(preset.roles),
        "optional": list(preset.optional_roles),
        "takes_prompt": preset.takes_prompt,
        "size": preset.size,
        "settings": {name: value for name, value in settings.items() if preset.uses(name)},
    }


def _inputs(preset: Preset) -> str:
    parts = [*preset.roles, *(["prompt"] if preset.takes_prompt else [])]
    return ", ".join([*parts, *(f"[{role}]" for role in preset.optional_roles)])


def _numbers(preset: Preset) -> str:
    settings = preset.settings
    if preset.is_baseline:
        changed = {name: value for name, value in asdict(settings).items() if preset.uses(name)}
        return ", ".join([f"{preset.size} px", *(f"{name} {changed[name]}" for name in changed)])
    parts = [
        f"{preset.size} px",
        f"{settings.num_inference_steps} x {settings.num_optimization_steps} steps",
        f"learning_rate {settings.learning_rate}",
    ]
    if settings.content_weight:
        parts.append(f"content_weight {settings.content_weight}")
    if settings.timesteps != "descending":
        parts.append(f"timesteps {settings.timesteps}")
    if settings.guidance_scale != 1:
        parts.append(f"guidance_scale {settings.guidance_scale}")
    return ", ".join([*parts, *(["adain"] if settings.adain else [])])
