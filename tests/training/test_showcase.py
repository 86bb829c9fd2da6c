"""The showcase measures what it shows; run on the tiny backbone, whose pictures are mush."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ad_lib.batch import Result, render
from ad_lib.pictures.patches import swd_patch
from ad_lib.pictures.structure import ssim_luma
from ad_lib.pictures.tensors import image_to_tensor
from tests.bad_images import picture
from tests.conftest import TINY_BACKBONE
from training.showcase import (
    Texture,
    Transfer,
    contact_sheet,
    main,
    pair_pictures,
    textures,
    transfers,
)


@pytest.fixture
def folder(tmp_path):
    for role, seeds in (("content", (1, 2)), ("style", (3,)), ("texture", (4,))):
        (tmp_path / role).mkdir()
        for seed in seeds:
            Image.fromarray(picture(seed=seed)).save(tmp_path / role / f"{role}{seed}.png")
    return tmp_path


def test_the_shorter_list_of_a_pairing_comes_round():
    assert pair_pictures("abc", "xy") == [("a", "x"), ("b", "y"), ("c", "x")]
    assert pair_pictures("a", "xy") == [("a", "x"), ("a", "y")]


def test_a_transfer_is_measured_on_its_own_pictures(tiny_backbone, folder, monkeypatch):
    """Results are handed back in order; here each is its style, darkened."""

    def darkened(backbone, requests):
        return [
            Result(
                image=request.styles[0].point(lambda value, shade=2 + row: value // shade),
                style_losses=(1.0, 0.2),
                content_losses=(0.0, 0.4),
                seconds=0.0,
                synthesis_seconds=0.0,
                seed=0,
            )
            for row, request in enumerate(requests)
        ]

    monkeypatch.setattr("training.showcase.render", darkened)
    contents, styles = sorted((folder / "content").iterdir()), [folder / "style" / "style3.png"]
    made = transfers(tiny_backbone, contents, styles, 64)
    assert [one.name for one in made] == ["content1 + style3", "content2 + style3"]
    for one in made:
        content, style, result = map(image_to_tensor, (one.content, one.style, one.result))
        assert one.before == pytest.approx(swd_patch(content, style).item())
        assert one.after == pytest.approx(swd_patch(result, style).item())
        assert one.ssim == pytest.approx(ssim_luma(result, content).item())
        assert one.style_losses == (1.0, 0.2)
        assert one.losses == pytest.approx((1.0, 0.2 + 0.25 * 0.4))
    assert made[0].after < made[1].after


def test_a_folder_without_textures_is_refused_in_a_sentence(folder, monkeypatch, capsys):
    (folder / "texture" / "texture4.png").unlink()
    monkeypatch.setattr("sys.argv", ["showcase", str(folder)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"at {folder / 'texture'}" in capsys.readouterr().err


def briefly(backbone, requests):
    """Renders with hardly a step."""
    settings = [replace(request.settings, num_inference_steps=2) for request in requests]
    return render(
        backbone,
        [replace(request, settings=few) for request, few in zip(requests, settings, strict=True)],
    )


def test_the_command_prints_its_tables_and_saves_its_sheets(folder, monkeypatch, capsys):
    monkeypatch.setattr("training.showcase.render", briefly)
    save = folder / "sheets"
    arguments = [str(folder), "--model", str(TINY_BACKBONE), "--side", "64", "--save", str(save)]
    arguments += ["--limit", "1"]
    monkeypatch.setattr("sys.argv", ["showcase", *arguments])
    main()
    printed = capsys.readouterr().out
    assert "style transfer" in printed
    assert "texture4" in printed
    assert sorted(path.name for path in save.iterdir()) == ["texture.jpg", "transfer.jpg"]


def test_halves_of_a_texture_are_compared_both_ways(tiny_backbone, folder, monkeypatch):
    monkeypatch.setattr(
        "training.showcase.render",
        lambda backbone, requests: [type("R", (), {"image": requests[0].styles[0]})()],
    )
    (one,) = textures(tiny_backbone, [folder / "texture" / "texture4.png"], 64)
    example = image_to_tensor(one.example)
    sides = swd_patch(example[..., :32], example[..., 32:]).item()
    rows = swd_patch(example[..., :32, :], example[..., 32:, :]).item()
    assert one.halves == pytest.approx((sides, rows))
    assert one.distance == 0
    assert one.ok


@pytest.mark.parametrize(
    ("after", "ssim", "ok"), [(0.05, 0.36, True), (0.051, 0.9, False), (0.01, 0.35, False)]
)
def test_a_transfer_is_good_half_of_the_way_to_the_style_with_its_content_kept(after, ssim, ok):
    black = Image.new("RGB", (1, 1))
    one = Transfer("x", black, black, black, 0.1, after, ssim, (1.0, 0.1), (1.0, 0.1))
    assert one.ok is ok


def test_a_texture_is_good_within_twice_the_distance_of_its_halves():
    black = Image.new("RGB", (1, 1))
    assert Texture("x", black, black, black, (0.01, 0.02), 0.04).ok
    assert not Texture("x", black, black, black, (0.01, 0.02), 0.041).ok


def test_a_contact_sheet_holds_every_picture_in_its_place():
    red, blue = Image.new("RGB", (4, 3), "red"), Image.new("RGB", (4, 3), "blue")
    sheet = np.asarray(contact_sheet([[red, blue], [blue]], gap=1))
    assert sheet.shape == (7, 9, 3)
    assert (sheet[:3, :4] == (255, 0, 0)).all()
    assert (sheet[:3, 5:] == (0, 0, 255)).all()
    assert (sheet[4:, 5:] == 255).all()
