"""Weights from strangers: nothing else is read, nothing is executed, nothing grows without bound.

Every refusal here comes from `find_weights`, `find_controlnet` or `check_backbone`, which read no
weight; so a job with such weights is refused before anything is written.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ad_lib import BackboneError, find_weights, load_backbone, random_controlnet
from ad_lib.model.devices import check_device_name, find_device
from ad_lib.model.loading import check_backbone
from ad_lib.model.weights import find_controlnet
from tests.ad_lib.model.original_layout import write_single_file
from tests.conftest import GOLDEN, TINY_BACKBONE

TINY_SDXL = GOLDEN / "models" / "tiny-sdxl"
NETWORKS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny backbone that a test may spoil."""
    return Path(shutil.copytree(TINY_BACKBONE, tmp_path / "model"))


@pytest.fixture(scope="module")
def controlnet_source(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("control") / "net"
    random_controlnet(load_backbone(str(TINY_BACKBONE), device="cpu")).save_pretrained(source)
    return source


@pytest.fixture
def controlnet(controlnet_source: Path, tmp_path: Path) -> Path:
    """A copy of a ControlNet of the tiny backbone."""
    return Path(shutil.copytree(controlnet_source, tmp_path / "control"))


def check(name: Path, config: Path | None = None) -> None:
    """What a job does with the backbone that it names."""
    check_backbone(find_weights(str(name), None, config and str(config)))


def check_control(controlnet: Path) -> None:
    """What a job does with the ControlNet that it names."""
    check_backbone(find_weights(str(TINY_BACKBONE)), find_controlnet(str(controlnet)))


def refusal(call: Callable[..., None], *arguments: Any) -> str:
    """The one sentence of a refusal."""
    with pytest.raises(BackboneError) as refused:
        call(*arguments)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 1500
    return message


def write_index(folder: Path, stem: str, file_name: object) -> None:
    (folder / f"{stem}.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"conv_in.bias": file_name}}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def write_shards(folder: Path, stem: str) -> None:
    """The same weights as two files and an index."""
    tensors = load_file(folder / f"{stem}.safetensors")
    names = sorted(tensors)
    halves = (names[::2], names[1::2])
    weight_map: dict[str, str] = {}
    for number, half in enumerate(halves, 1):
        file_name = f"{stem}-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in half}, folder / file_name)
        weight_map |= dict.fromkeys(half, file_name)
    (folder / f"{stem}.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


# What is read


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize(
    "outside",
    ["../../x.bin", "../../outside.safetensors", "{absolute}", "../{part}/{stem}.safetensors", 5],
)
def test_an_index_that_names_a_file_outside_its_folder_is_refused(folder, part, outside):
    stem = NETWORKS[part]
    source = folder / part / f"{stem}.safetensors"
    for sound in (folder.parent / "x.bin", folder.parent / "outside.safetensors"):
        shutil.copy(source, sound)
    if isinstance(outside, str):
        absolute = folder.parent / "outside.safetensors"
        outside = outside.format(absolute=absolute, part=part, stem=stem)
    write_index(folder / part, stem, outside)
    message = refusal(check, folder)
    assert f"the {part} of" in message
    assert "index.json names" in message


def test_an_index_of_a_controlnet_names_no_file_outside(controlnet):
    write_index(controlnet, "diffusion_pytorch_model", "../outside.safetensors")
    (controlnet / "diffusion_pytorch_model-00001-of-00001.safetensors").write_bytes(b"")
    assert "index.json names '../outside.safetensors'" in refusal(check_control, controlnet)


@pytest.mark.parametrize("part", NETWORKS)
def test_weights_in_several_files_are_those_of_one_file(folder, part):
    write_shards(folder / part, NETWORKS[part])
    ours, theirs = (load_backbone(str(name), device="cpu") for name in (folder, TINY_BACKBONE))
    for network, expected in (
        (ours.unet, theirs.unet),
        (ours.vae, theirs.vae),
        (ours.text_encoders[0], theirs.text_encoders[0]),
    ):
        tensors = network.state_dict()
        assert all(torch.equal(tensors[name], t) for name, t in expected.state_dict().items())


def test_an_index_that_promises_more_than_its_files_hold_is_refused(folder):
    write_shards(folder / "unet", NETWORKS["unet"])
    (second,) = (folder / "unet").glob("*-00002-of-00002.safetensors")
    tensors = load_file(second)
    dropped = tensors.popitem()[0]
    save_file(tensors, second)
    message = refusal(check, folder)
    assert "lacks 1 of its weights" in message
    assert dropped in message


def test_the_links_of_the_hubs_cache_are_followed(folder):
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, file in enumerate(path for path in folder.rglob("*") if path.is_file()):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    check(folder)
    assert find_weights(str(folder)).revision == find_weights(str(TINY_BACKBONE)).revision


_opened: list[str] | None = None


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(arguments[0]))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every path that Python opens during a test."""
    global _opened
    _add_hook()
    _opened = []
    yield _opened
    _opened = None


@cache
def _add_hook() -> None:
    """Once, because a hook stays until the process ends."""
    sys.addaudithook(_note_opened)


def add_decoys(folder: Path) -> None:
    """Files that loaders of other programs open, in every part and beside them."""
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        for name in (
            "adapter_config.json",
            "adapter_model.safetensors",
            "generation_config.json",
            "chat_template.jinja",
            "quantization_config.json",
            "pytorch_model.bin",
            "diffusion_pytorch_model.fp16.safetensors",
        ):
            (place / name).write_text('{"base_model_name_or_path": "../../x"}')


@pytest.mark.parametrize("source", [TINY_BACKBONE, TINY_SDXL], ids=["sd15", "sdxl"])
def test_every_file_that_is_read_is_in_the_revision(tmp_path, opened, source):
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    add_decoys(folder)
    opened.clear()
    load_backbone(str(folder), device="cpu")
    read = {Path(path) for path in opened if str(folder) in path}
    assert {path.name for path in read} >= {"config.json", "scheduler_config.json"}
    before = find_weights(str(folder)).revision
    for path in sorted(read):
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        if path.suffix != ".safetensors":
            assert find_weights(str(folder)).revision != before, path
        path.write_bytes(content)


def test_every_file_of_a_controlnet_that_is_read_is_in_its_revision(controlnet, opened):
    (controlnet / "adapter_config.json").write_text("{}")
    (controlnet / "diffusion_pytorch_model.bin").write_bytes(b"")
    opened.clear()
    load_backbone(str(TINY_BACKBONE), controlnet=str(controlnet), device="cpu")
    read = {Path(path).name for path in opened if str(controlnet) in path}
    assert read == {"config.json", "diffusion_pytorch_model.safetensors"}


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_variant_alone_is_refused_with_the_name_that_is_read(folder, part):
    stem = NETWORKS[part]
    file = folder / part / f"{stem}.safetensors"
    file.rename(folder / part / f"{stem}.fp16.safetensors")
    assert f"it lacks {stem}.safetensors" in refusal(check, folder)


def test_a_configuration_names_neither_adapters_nor_code_nor_other_weights(folder):
    config = folder / "text_encoder" / "config.json"
    values = json.loads(config.read_text()) | {
        "transformers_weights": "../../x.bin",
        "auto_map": {"AutoModel": "evil.Model"},
        "_attn_implementation": "owner/kernel",
        "_name_or_path": "/etc",
        "initializer_range": -1.0,  # how weights are drawn that are not in the file: all are
        "initializer_factor": "x",
    }
    config.write_text(json.dumps(values))
    index = folder / "model_index.json"
    classes = {"unet": ["evil", "Model"], "_class_name": ["evil", "Pipeline"]}
    index.write_text(json.dumps(json.loads(index.read_text()) | classes))
    ours, theirs = (load_backbone(str(name), device="cpu") for name in (folder, TINY_BACKBONE))
    a, b = (backbone.encode_prompt("a fox").prompt_embeds for backbone in (ours, theirs))
    assert torch.equal(a, b)


@pytest.mark.parametrize("key", ["fast_tokenizer_files", "gguf_file", "init_inputs"])
def test_a_tokenizer_that_names_other_files_is_refused(folder, key):
    config = folder / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: ["../../x.json"]}))
    assert repr(key) in refusal(check, folder)


# Pickles


class _LeavesMark:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


PICKLES = [
    "{part}/pytorch_model.bin",
    "{part}/diffusion_pytorch_model.bin",
    "{part}/model.pt",
    "{part}/.metadata",
    "{part}/dist/.metadata",
    "{part}/__0_0.distcp",
    "{part}/training_args.bin",
    "{part}/adapter_model.bin",
    "tokenizer/tokenizer.pkl",
    "scheduler/scheduler.pkl",
    "learned_embeds.bin",
]


def test_no_pickle_is_opened_whatever_it_is_called(folder, tmp_path):
    mark = tmp_path / "executed"
    data = pickle.dumps(_LeavesMark(mark))
    pickle.loads(data)
    assert mark.exists(), "the pickle works"
    mark.unlink()
    for name in PICKLES:
        for part in NETWORKS:
            path = folder / name.format(part=part)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
    load_backbone(str(folder), device="cpu")
    for part, stem in NETWORKS.items():
        file = folder / part / f"{stem}.safetensors"
        content = file.read_bytes()
        for torch_file in (False, True):
            if torch_file:
                torch.save(_LeavesMark(mark), file)
            else:
                file.write_bytes(data)
            assert f"the {part} of" in refusal(check, folder)
        file.write_bytes(content)
    for suffix in ("bin", "ckpt", "pt", "safetensors", "pkl"):
        file = tmp_path / f"model.{suffix}"
        file.write_bytes(data)
        refusal(check, file)
    assert not mark.exists()


# Files that lie


def rewritten(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """A change of the header that leaves the tensors as they are."""

    def apply(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return apply


def _names(header: dict[str, Any]) -> list[str]:
    return [name for name in sorted(header) if name.endswith(".weight")]


def _beyond_the_end(header: dict[str, Any]) -> None:
    header[_names(header)[0]]["data_offsets"][1] = 10**15


def _on_top_of_each_other(header: dict[str, Any]) -> None:
    first, second = _names(header)[:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]


def _without_a_tensor(header: dict[str, Any]) -> None:
    del header[_names(header)[0]]


def _another_shape(header: dict[str, Any]) -> None:
    tensor = header[_names(header)[0]]
    tensor["shape"] = [*tensor["shape"], 1]


def _whole_numbers(header: dict[str, Any]) -> None:
    floats = [name for name in _names(header) if header[name]["dtype"] == "F32"]
    header[floats[0]]["dtype"] = "I32"


def _another_name(header: dict[str, Any]) -> None:
    header["another"] = header.pop(_names(header)[0])


LIES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut in the header": lambda data: data[:100],
    "cut in the tensors": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "header of 8 EB": lambda data: struct.pack("<Q", 2**63) + data[8:],
    "header of 99 MB": lambda data: struct.pack("<Q", 99 * 10**6) + data[8:],
    "header of nothing": lambda data: struct.pack("<Q", 0) + data[8:],
    "not JSON": lambda data: data[:8] + b"x" + data[9:],
    "beyond the end": rewritten(_beyond_the_end),
    "on top of each other": rewritten(_on_top_of_each_other),
    "without a tensor": rewritten(_without_a_tensor),
    "another shape": rewritten(_another_shape),
    "whole numbers": rewritten(_whole_numbers),
    "another name": rewritten(_another_name),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_file_that_lies_is_refused(folder, part, lie):
    (file,) = (folder / part).glob("*.safetensors")
    file.write_bytes(LIES[lie](file.read_bytes()))
    assert f"the {part} of" in refusal(check, folder)


@pytest.mark.parametrize("lie", LIES)
def test_a_controlnet_that_lies_is_refused(controlnet, lie):
    (file,) = controlnet.glob("*.safetensors")
    file.write_bytes(LIES[lie](file.read_bytes()))
    assert "the ControlNet of" in refusal(check_control, controlnet)


@pytest.mark.parametrize("lie", LIES)
def test_a_single_file_that_lies_is_refused(tmp_path, lie):
    file = tmp_path / "model.safetensors"
    write_single_file(TINY_BACKBONE, file)
    file.write_bytes(LIES[lie](file.read_bytes()))
    assert "model.safetensors" in refusal(check, file, TINY_BACKBONE)


def test_a_file_of_more_tensors_than_any_network_has_is_refused(folder):
    header = {f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(20_001)}
    text = json.dumps(header).encode()
    (file,) = (folder / "unet").glob("*.safetensors")
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    assert "more than 20,000 tensors" in refusal(check, folder)


# Configurations that lie


def replace_values(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("unet", {"layers_per_block": 10**9}),
        ("unet", {"layers_per_block": 10**6}),
        ("unet", {"layers_per_block": 500}),
        ("unet", {"layers_per_block": 1.5}),
        ("unet", {"transformer_layers_per_block": 10**5}),
        ("unet", {"block_out_channels": [24, 32, 48, -48]}),
        ("unet", {"block_out_channels": [10**6] * 4}),
        ("unet", {"block_out_channels": "24"}),
        ("unet", {"norm_num_groups": 0}),
        ("unet", {"cross_attention_dim": 48}),
        ("unet", {"in_channels": 0}),
        ("unet", {"down_block_types": ["x"] * 4}),
        ("unet", {"downsample_padding": 1000}),
        ("unet", {"attention_head_dim": None}),
        ("unet", {"addition_embed_type": "text_time"}),
        ("unet", {"quantization_config": {"quant_method": "bitsandbytes"}}),
        ("vae", {"layers_per_block": 10**9}),
        ("vae", {"latent_channels": 10**5}),
        ("vae", {"scaling_factor": 0}),
        ("vae", {"scaling_factor": "x"}),
        ("vae", {"block_out_channels": [16, 16, 24]}),
        ("text_encoder", {"num_hidden_layers": 10**9}),
        ("text_encoder", {"num_hidden_layers": 10**6}),
        ("text_encoder", {"num_attention_heads": 0}),
        ("text_encoder", {"max_position_embeddings": 10**12}),
        ("text_encoder", {"hidden_size": "32"}),
        ("text_encoder", {"hidden_act": "x"}),
        ("text_encoder", {"vocab_size": 10}),
    ],
)
def test_sizes_that_the_files_do_not_have_are_refused_before_they_are_built(folder, part, values):
    replace_values(folder / part / "config.json", **values)
    refusal(check, folder)


@pytest.mark.parametrize(
    "values", [{"layers_per_block": 10**9}, {"conditioning_embedding_out_channels": [0, 1]}]
)
def test_sizes_that_a_controlnet_does_not_have_are_refused(controlnet, values):
    replace_values(controlnet / "config.json", **values)
    refusal(check_control, controlnet)


@pytest.mark.parametrize(
    "values",
    [
        {"num_train_timesteps": 10**9},
        {"num_train_timesteps": 0},
        {"num_train_timesteps": "1000"},
        {"beta_schedule": "x"},
        {"beta_start": -1},
        {"beta_end": 2},
        {"beta_end": 1e308},
        {"trained_betas": [0.1]},
        {"prediction_type": "x"},
        {"steps_offset": -500},
        {"steps_offset": 10**9},
        {"timestep_spacing": "x"},
    ],
)
def test_a_schedule_that_no_model_was_trained_with_is_refused(folder, values):
    replace_values(folder / "scheduler" / "scheduler_config.json", **values)
    assert "the scheduler of" in refusal(check, folder)


@pytest.mark.parametrize(
    "values",
    [{"model_max_length": 10**9}, {"model_max_length": 0}, {"unk_token": 5}, {"eos_token": None}],
)
def test_a_tokenizer_that_does_not_suit_its_encoder_is_refused(folder, values):
    replace_values(folder / "tokenizer" / "tokenizer_config.json", **values)
    assert "the tokenizer of" in refusal(check, folder)


def test_a_tokenizer_whose_tokens_the_encoder_lacks_is_refused(folder):
    file = folder / "tokenizer" / "tokenizer.json"
    vocabulary = json.loads(file.read_text())
    tokens = vocabulary["model"]["vocab"]
    vocabulary["model"]["vocab"] = {token: number + 10**6 for token, number in tokens.items()}
    file.write_text(json.dumps(vocabulary))
    assert "the tokenizer of" in refusal(check, folder)


CONFIGURATIONS = [
    "unet/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "model_index.json",
]


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize(
    "content",
    ["", "5", "[]", "null", '"x"', "{", "[" * 200_000, '{"a":' * 5_000, '{"a": NaN}', "\ufeff{}"],
    ids=["empty", "number", "list", "null", "text", "cut", "deep", "deep2", "nan", "bom"],
)
def test_a_configuration_that_is_no_object_is_refused(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    assert Path(name).name in refusal(check, folder)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_of_gigabytes_is_refused(folder, name):
    with (folder / name).open("wb") as file:
        file.truncate(10**10)
    assert "larger than 16 MB" in refusal(check, folder)


@pytest.mark.parametrize("name", ["unet/config.json", "vae/diffusion_pytorch_model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop"])
def test_what_is_no_regular_file_is_never_opened(folder, name, kind):
    path = folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    assert str(folder) in refusal(check, folder)


def test_a_controlnet_configuration_that_is_a_number_is_refused(controlnet):
    (controlnet / "config.json").write_text("5")
    assert "must hold a JSON object, not a number" in refusal(check_control, controlnet)


# Names and devices


@pytest.mark.parametrize(
    "name",
    ["a/../b", "owner/na me", "owner/n\0", "own\udcffer/name", "o/" + "n" * 200, "o/..", "~x/y"],
)
def test_a_name_that_is_no_hub_id_is_not_looked_up(monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    for find in (find_weights, find_controlnet):
        with pytest.raises(BackboneError):
            find(name)


def test_looking_up_weights_imports_no_torch():
    code = (
        "import sys, tasks.inputs.weights as w; w.find_model('embedded', controlnet=None); "
        "import ad_lib.model.devices as d; d.check_device_name('cuda'); "
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


@pytest.mark.parametrize(
    "name",
    ["foo", "", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda: 0", "meta", "cpu\0", "gpu", "0"],
)
def test_an_unknown_device_is_refused_with_those_that_are_known(name):
    for refused in (lambda: check_device_name(name), lambda: find_device(name)):
        assert "give auto, cpu, cuda, cuda:N" in refusal(refused)


def test_a_device_that_is_not_there_is_refused():
    is_there = torch.cuda.is_available()
    name = "cuda:999" if is_there else "cuda"
    assert f"there is no device {name!r}" in refusal(find_device, name)
    assert find_device("auto").type == ("cuda" if is_there else "cpu")
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(BackboneError, match="there is no device"):
        load_backbone(str(TINY_BACKBONE), device="cuda:999")
