"""The diffusers-style front gives what `render` gives, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import ad_lib
from ad_lib import AttentionDistillationPipeline, Request, RequestError, render
from tests.ad_lib.model.original_layout import write_single_file
from tests.bad_images import picture
from tests.conftest import GOLDEN, TINY_BACKBONE

TINY_SDXL = GOLDEN / "models" / "tiny-sdxl"
CONTENT, STYLE, OTHER = (Image.fromarray(picture(seed=seed)) for seed in (1, 2, 3))
QUICK = {"num_inference_steps": 2, "height": 64, "width": 72}


@pytest.fixture(scope="module")
def pipe() -> AttentionDistillationPipeline:
    return AttentionDistillationPipeline.from_pretrained(str(TINY_BACKBONE))


def expected(pipe, task: str, **arguments) -> Image.Image:
    return render(pipe.backbone, [Request.preset(task, **QUICK | arguments)])[0].image


def assert_same(one: Image.Image, other: Image.Image) -> None:
    assert one.size == other.size
    assert one.tobytes() == other.tobytes()


def test_a_content_and_a_style_image_are_a_style_transfer(pipe):
    out = pipe(style_image=STYLE, content_image=CONTENT, seed=3, **QUICK)
    want = expected(pipe, "style-transfer", styles=[STYLE], content=CONTENT, seed=3)
    assert_same(out.images[0], want)


def test_a_prompt_is_drawn_in_the_style_by_the_familys_task(pipe):
    arguments = {"prompt": "a fox", "negative_prompt": "blur", "guidance_scale": 3.0}
    out = pipe(style_image=[STYLE, OTHER], **arguments, **QUICK)
    want = expected(pipe, "style-t2i-sd15", styles=[STYLE, OTHER], **arguments)
    assert_same(out.images[0], want)


def test_sdxl_draws_with_the_numbers_for_sdxl():
    pipe = AttentionDistillationPipeline.from_pretrained(str(TINY_SDXL))
    out = pipe("a fox", style_image=STYLE, **QUICK)
    assert_same(out.images[0], expected(pipe, "style-t2i", styles=[STYLE], prompt="a fox"))


def test_masks_are_a_masked_texture(pipe):
    pixels = np.zeros((96, 128, 3), dtype=np.uint8)
    pixels[:, 64:] = 255
    masks = {
        "source_mask": Image.fromarray(pixels).resize(STYLE.size, Image.Resampling.NEAREST),
        "target_mask": Image.fromarray(pixels[:, ::-1].copy()),
    }
    out = pipe(style_image=STYLE, **masks, **QUICK)
    assert_same(out.images[0], expected(pipe, "texture-masked", styles=[STYLE], **masks))


def test_a_task_can_be_named(pipe):
    out = pipe(style_image=STYLE, task="texture-sample", **QUICK)
    assert_same(out.images[0], expected(pipe, "texture-sample", styles=[STYLE]))
    out = pipe(style_image=STYLE, content_image=CONTENT, task="texture-layout", **QUICK)
    want = expected(pipe, "texture-layout", styles=[STYLE], content=CONTENT)
    assert_same(out.images[0], want)


def test_a_style_alone_is_refused_with_the_tasks_that_it_could_be(pipe):
    with pytest.raises(RequestError, match="task= one of texture-optimize, texture-sample"):
        pipe(style_image=STYLE, **QUICK)


def test_a_control_image_reaches_the_controlnet(tmp_path, pipe):
    ad_lib.random_controlnet(pipe.backbone).save_pretrained(tmp_path / "control")
    controlled = AttentionDistillationPipeline.from_pretrained(
        str(TINY_BACKBONE), controlnet=str(tmp_path / "control")
    )
    arguments = {"prompt": "a fox", "control_image": CONTENT, "controlnet_conditioning_scale": 0.5}
    out = controlled(style_image=STYLE, **arguments, **QUICK)
    want = expected(controlled, "style-t2i-sd15", styles=[STYLE], **arguments)
    assert_same(out.images[0], want)


def test_pictures_come_prompt_by_prompt_with_seeds_counted_up(pipe):
    out = pipe(["a fox", "a hen"], style_image=STYLE, num_images_per_prompt=2, seed=5, **QUICK)
    assert [result.seed for result in out.results] == [5, 6, 7, 8]
    wanted = [
        Request.preset("style-t2i-sd15", styles=[STYLE], prompt=prompt, seed=seed, **QUICK)
        for prompt, seed in [("a fox", 5), ("a fox", 6), ("a hen", 7), ("a hen", 8)]
    ]
    for image, want in zip(out.images, render(pipe.backbone, wanted), strict=True):
        assert_same(image, want.image)


def test_a_generator_gives_its_seed_and_is_not_used_up(pipe):
    generator = torch.Generator().manual_seed(11)
    torch.randn(3, generator=generator)
    state = generator.get_state()
    arguments = {"style_image": STYLE, "content_image": CONTENT, **QUICK}
    first = pipe(**arguments, generator=generator)
    again = pipe(**arguments, generator=generator)
    assert torch.equal(generator.get_state(), state)
    assert_same(first.images[0], again.images[0])
    assert_same(first.images[0], pipe(**arguments, seed=11).images[0])


def test_several_generators_give_one_seed_each(pipe):
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 2)]
    arguments = {"style_image": STYLE, "content_image": CONTENT, **QUICK}
    out = pipe(**arguments, generator=generators, num_images_per_prompt=2)
    assert [result.seed for result in out.results] == [4, 2]
    with pytest.raises(RequestError, match="2 generators for 3 pictures"):
        pipe(**arguments, generator=generators, num_images_per_prompt=3)


def test_a_generator_and_a_seed_are_refused(pipe):
    with pytest.raises(RequestError, match="both name the noise"):
        pipe("a", style_image=STYLE, generator=torch.Generator(), seed=1)


def test_numpy_and_torch_hold_the_same_pixels(pipe):
    arguments = {"style_image": STYLE, "content_image": CONTENT, **QUICK}
    pixels = np.asarray(pipe(**arguments).images[0]) / np.float32(255)
    as_numpy = pipe(**arguments, output_type="np").images
    as_torch = pipe(**arguments, output_type="pt").images
    assert (as_numpy.shape, tuple(as_torch.shape)) == ((1, 64, 72, 3), (1, 3, 64, 72))
    assert np.array_equal(as_numpy[0], pixels)
    assert np.array_equal(as_torch[0].permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("style_imge", "did you mean 'style_image'?"),
        ("num_inference_step", "did you mean 'num_inference_steps'?"),
        ("negative_promt", "did you mean 'negative_prompt'?"),
        ("image", "say content_image= or control_image="),
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest_name(pipe, name, hint):
    with pytest.raises(RequestError) as refused:
        pipe("a fox", style_image=STYLE, **{name: 1})
    assert hint in str(refused.value)


def test_an_unknown_output_type_and_what_is_no_picture_are_refused(pipe):
    with pytest.raises(RequestError, match="'pil', 'np' or 'pt'; got 'latent'"):
        pipe("a fox", style_image=STYLE, output_type="latent")
    with pytest.raises(RequestError, match="a PIL image or a list of them; got Tensor"):
        pipe("a fox", style_image=torch.zeros(1, 3, 64, 64))


def test_a_single_file_is_a_pipeline_too(pipe, tmp_path):
    write_single_file(TINY_BACKBONE, tmp_path / "model.safetensors")
    single = AttentionDistillationPipeline.from_single_file(
        str(tmp_path / "model.safetensors"), config=str(TINY_BACKBONE)
    )
    arguments = {"style_image": STYLE, "content_image": CONTENT, **QUICK}
    assert_same(single(**arguments).images[0], pipe(**arguments).images[0])


def test_the_dtype_is_that_which_was_asked_for():
    pipe = AttentionDistillationPipeline.from_pretrained(
        str(TINY_BACKBONE), torch_dtype=torch.bfloat16
    )
    assert pipe.dtype == torch.bfloat16
    assert pipe.device.type == "cpu"


def test_moving_takes_every_network_and_forgets_the_encoded_empty_prompt():
    pipe = AttentionDistillationPipeline.from_pretrained(str(TINY_SDXL))
    backbone = pipe.backbone
    backbone.controlnet = ad_lib.random_controlnet(backbone)
    assert backbone.null_prompt.prompt_embeds.device.type == "cpu"
    assert pipe.to("meta") is pipe
    assert pipe.device.type == "meta"
    networks = (backbone.unet, backbone.vae, *backbone.text_encoders, backbone.controlnet)
    assert {p.device.type for net in networks for p in net.parameters()} == {"meta"}
    assert backbone.null_prompt.prompt_embeds.device.type == "meta"
