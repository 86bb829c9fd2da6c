"""Weights: folders and files that are damaged, lie, point elsewhere, or would run code."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import struct
from pathlib import Path
from typing import Any

from tests.faults.fuzz import sound, words
from tests.faults.fuzz.cases import Case, run_command
from tests.faults.fuzz.damage import damaged
from tests.faults.fuzz.makers.pictures import Planted


def damaged_files(draw: random.Random, folder: Path) -> Case:
    """A folder of a sound model in which one file is damaged, cut, empty, gone or no file."""
    model = _model(folder)
    file = draw.choice([one for one in sorted(model.rglob("*")) if one.is_file()])
    kind = draw.choice(("damaged", "damaged", "empty", "gone", "folder", "nowhere", "zero"))
    data = file.read_bytes()
    file.unlink()
    if kind in ("damaged", "empty"):
        file.write_bytes(damaged(draw, data) if kind == "damaged" else b"")
    elif kind == "folder":
        file.mkdir()
    elif kind != "gone":
        file.symlink_to({"nowhere": "nowhere", "zero": "/dev/zero"}[kind])
    return _case(draw, folder, f"{file.relative_to(model)} is {kind}")


def configurations(draw: random.Random, folder: Path) -> Case:
    """A value of one of the model's JSON files is another one."""
    model = _model(folder)
    file = draw.choice(
        [one for one in sorted(model.rglob("*.json")) if one.stat().st_size < 20_000]
    )
    content = json.loads(file.read_bytes())
    for _ in range(draw.choice((1, 1, 2))):
        content = words.replaced_somewhere(draw, content)
    file.write_text(json.dumps(content))
    return _case(draw, folder, f"{file.relative_to(model)} has another value")


def tensor_files(draw: random.Random, folder: Path) -> Case:
    """A safetensors file whose header says something else."""
    model = _model(folder)
    file = draw.choice(sorted(model.rglob("*.safetensors")))
    file.write_bytes(hostile_safetensors(draw, file.read_bytes()))
    return _case(draw, folder, f"{file.relative_to(model)} lies")


def indexes(draw: random.Random, folder: Path) -> Case:
    """An index of several weight files that names files elsewhere, pickles, or nothing."""
    model = _model(folder)
    part = model / draw.choice(("unet", "vae", "text_encoder"))
    (weights,) = part.glob("*.safetensors")
    target = draw.choice(
        (
            *(
                "../../../secret.bin",
                "../../x.bin",
                "/etc/passwd",
                "weights.bin",
                weights.name,
                "",
                ".",
            ),
            *(
                "gone.safetensors",
                "..",
                "x\0y",
                "http://example.org/x.safetensors",
                "../vae/config.json",
            ),
        )
    )
    names = ["conv_in.weight", "x", words.text(draw)]
    index: Any = {
        "metadata": {"total_size": draw.choice((0, -1, 10**30))},
        "weight_map": dict.fromkeys(names, target),
    }
    if draw.random() < 0.2:
        index = words.replaced_somewhere(draw, index)
    (part / "weights.bin").write_bytes(pickle.dumps(Planted()))
    (part / f"{weights.name}.index.json").write_text(json.dumps(index))
    if draw.random() < 0.5:
        weights.unlink()
    return _case(draw, folder, f"an index that names {target!r}")


def pickles(draw: random.Random, folder: Path) -> Case:
    """Pickles under any name that weights can have."""
    model = _model(folder)
    data = pickle.dumps(Planted())
    if draw.random() < 0.6:
        weights = draw.choice(sorted(model.rglob("*.safetensors")))
        names = (
            "diffusion_pytorch_model.bin",
            "pytorch_model.bin",
            "model.safetensors",
            "model.ckpt",
            weights.name,
        )
        if draw.random() < 0.7:
            weights.unlink()
        (weights.parent / draw.choice(names)).write_bytes(data)
        return _case(draw, folder, "a pickle among the weights")
    name = draw.choice(
        ("m.safetensors", "m.ckpt", "m.pt", "m.bin", "m.pth", "m.pkl", "m.SAFETENSORS")
    )
    (folder / name).write_bytes(data)
    return _case(draw, folder, f"a pickle called {name}", f"./{name}")


def single_files(draw: random.Random, folder: Path) -> Case:
    """One safetensors file that is no checkpoint, or a hostile one."""
    source = Path(sound.BACKBONE) / "unet" / "diffusion_pytorch_model.safetensors"
    keys = (
        "cond_stage_model.transformer.text_model.x",
        "conditioner.embedders.0.transformer.x",
        "x",
    )
    small = _safetensors(
        {key: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for key in keys}, bytes(4)
    )
    data = draw.choice((source.read_bytes(), small, small, b""))
    (folder / "m.safetensors").write_bytes(hostile_safetensors(draw, data))
    return _case(draw, folder, "a hostile single file", "./m.safetensors")


def controlnets(draw: random.Random, folder: Path) -> Case:
    """A ControlNet's folder that is none."""
    place = folder / "control"
    place.mkdir()
    config: Any = draw.choice(
        (5, [], "x", {}, None, {"_class_name": draw.choice(("ControlNetModel", "X", 5, "os"))})
    )
    if isinstance(config, dict):
        config |= {"in_channels": words.value(draw), "block_out_channels": words.value(draw)}
    (place / "config.json").write_text(json.dumps(config))
    unet = (Path(sound.BACKBONE) / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    (place / "diffusion_pytorch_model.safetensors").write_bytes(
        hostile_safetensors(draw, unet) if draw.random() < 0.5 else unet
    )
    sound.write_images(folder / "content", "a")
    (folder / "style.png").write_bytes(sound.image_bytes("png", "RGB", 9))
    backbone = {"name": sound.BACKBONE, "controlnet": "./control"}
    inputs = {"texture": "style.png", "control": "content"}
    sound.write_job(folder, sound.job(task="texture-sample", inputs=inputs, backbone=backbone))
    return Case(told="a ControlNet that is none", **run_command(draw, renders=0.5))


MAKERS = (
    damaged_files,
    damaged_files,
    configurations,
    configurations,
    tensor_files,
    indexes,
    pickles,
    single_files,
    controlnets,
)


def hostile_safetensors(draw: random.Random, data: bytes) -> bytes:
    """The file with damage, or with a header that says something else about the same tensors."""
    if len(data) < 8 or draw.random() < 0.3:
        return damaged(draw, data)
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    kind = draw.choice(("header", "header", "length", "cut", "nan", "names"))
    if kind == "header":
        return _safetensors(words.replaced_somewhere(draw, header), body)
    if kind == "length":
        told = draw.choice((0, 1, 2, length - 1, length + 1, 10**8 + 1, 2**31, 2**63, 2**64 - 1))
        return struct.pack("<Q", told) + data[8:]
    if kind == "cut":
        return data[: 8 + length + draw.randrange(len(body) + 1)]
    if kind == "nan":
        return (
            data[: 8 + length] + b"\xff\xff\xff\x7f" * (len(body) // 4) + body[len(body) // 4 * 4 :]
        )
    name = draw.choice(sorted(header))
    header[draw.choice((words.text(draw), "__metadata__", name + ".x"))] = header.pop(name)
    return _safetensors(header, body)


def _safetensors(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _model(folder: Path) -> Path:
    return Path(shutil.copytree(sound.BACKBONE, folder / "model"))


def _case(draw: random.Random, folder: Path, told: str, backbone: str = "./model") -> Case:
    sound.write_style_transfer(folder, "a", backbone=backbone)
    return Case(told=told, **run_command(draw, renders=0.5))
