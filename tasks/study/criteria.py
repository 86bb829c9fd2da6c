"""What are people asked about a task, and what stands above its reference pictures?

The words are those of the paper's user study (section D) for its three tasks; it has none about
textures, for which these are ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

CRITERIA: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "style": (
            "structural similarity to the content image",
            "stylistic similarity to the style image",
        ),
        "appearance": (
            "structural similarity to the structure image",
            "appearance similarity to the appearance image",
        ),
        "text": ("semantic alignment with the prompt", "stylistic similarity to the reference"),
        "texture": (
            "similarity to the texture image",
            "freedom from seams, blur and visible repetition",
        ),
        "controlled texture": (
            "similarity to the texture image",
            "agreement with the layout",
        ),
    }
)
"""By the kind of a task, in the order in which they are asked."""

CAPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "style": {"content": "Content", "style": "Style"},
        "appearance": {"content": "Structure", "style": "Appearance"},
        "text": {"content": "Content", "style": "Reference"},
        "texture": {"texture": "Texture"},
        "controlled texture": {
            "texture": "Texture",
            "layout": "Layout",
            "source_mask": "Labels of the texture",
            "target_mask": "Layout",
        },
    }
)
"""By the kind of a task and the role of a picture; another role is its own caption."""

PAPER = (
    "In the paper's study (section D) a person saw one randomly drawn case at a time, our result "
    "and one competitor's side by side, and picked the better one over the criteria of the task; "
    "three tasks, two competitors each."
)
"""The protocol that a share of ours may be held against."""


def kind_of(task: str, roles: Collection[str], prompt: str | None) -> str:
    """What sort of task people judge, by its name and by what goes into it."""
    if prompt:
        return "text"
    if task.startswith("appearance"):
        return "appearance"
    if "content" in roles:
        return "style"
    return "texture" if set(roles) <= {"texture", "style", "control"} else "controlled texture"


def caption(kind: str, role: str) -> str:
    """What stands above a reference picture."""
    return CAPTIONS[kind].get(role, role.replace("_", " ").capitalize())
