"""The command that renders one picture without a job: render."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.completing import complete_presets
from flows.verbs.options import Call, pairs_of


class Precision(StrEnum):
    """The data type of the networks."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def render(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")],
    style: Annotated[
        list[Path], typer.Option(help="The image whose style is taken. May be repeated.")
    ] = [],  # noqa: B006 - typer copies it
    texture: Annotated[
        list[Path], typer.Option(help="The image whose texture is taken. May be repeated.")
    ] = [],  # noqa: B006
    content: Annotated[Path | None, typer.Option(help="The image whose structure is kept.")] = None,
    layout: Annotated[
        Path | None, typer.Option(help="A rough painting of where a texture's colours lie.")
    ] = None,
    source_mask: Annotated[
        Path | None, typer.Option(help="Which label each pixel of the texture has.")
    ] = None,
    target_mask: Annotated[
        Path | None, typer.Option(help="Which label each pixel of the result has.")
    ] = None,
    control: Annotated[Path | None, typer.Option(help="What the ControlNet sees.")] = None,
    prompt: Annotated[str, typer.Option(help="What is drawn.")] = "",
    negative_prompt: Annotated[
        str | None, typer.Option(help="What guidance leads away from.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            autocompletion=complete_presets, help="The task; 'stylefarm presets' lists them."
        ),
    ] = "style-transfer",
    backbone: Annotated[
        str,
        typer.Option(
            help="embedded, sd15, sdxl, a hub id, a diffusers folder, or a .safetensors file."
        ),
    ] = "embedded",
    revision: Annotated[str | None, typer.Option(help="Commit or tag of a hub id.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Of a .safetensors file: where its configuration is.")
    ] = None,
    controlnet: Annotated[
        str | None, typer.Option(help="A ControlNet: a hub id or a diffusers folder.")
    ] = None,
    dtype: Annotated[
        Precision, typer.Option(help="Of the networks; auto is bfloat16 on CUDA, else float32.")
    ] = Precision.AUTO,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|WxH",
            help="Pixels of the shorter side, or WIDTHxHEIGHT. The preset's shorter side unless "
            "given.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Seed of the noise.")] = 0,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting of the preset."),
    ] = [],  # noqa: B006 - typer copies it
) -> None:
    """Render one picture from files, without a job, and print its figures.

    Beside them are the figures of the unchanged content (identity) and of the style itself (style
    copy), because a good figure alone says little.
    """
    from flows import single

    call = context.ensure_object(Call)
    files = {
        "content": [content],
        "style": style,
        "texture": texture,
        "layout": [layout],
        "source_mask": [source_mask],
        "target_mask": [target_mask],
        "control": [control],
    }
    given = {role: [path for path in paths if path] for role, paths in files.items()}
    asked = single.OnePicture(
        output=output,
        files={role: paths for role, paths in given.items() if paths},
        preset=preset,
        prompt=prompt,
        negative_prompt=negative_prompt,
        backbone={
            "name": backbone,
            "revision": revision,
            "config": config,
            "controlnet": controlnet,
            "dtype": dtype.value,
        },
        size=size,
        seed=seed,
        settings=pairs_of(settings),
    )
    single.render_one(call.terminal, call.stopping, asked)
