"""Which networks is the embedded model made of? Real diffusers and transformers classes.

Invariant: everything that attention distillation can see keeps Stable Diffusion 1.5's shape, so
"the last six self-attention layers" and every scheduler setting mean the same thing here as there.
Only widths differ.
"""

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel

LATENT_CHANNELS = 16
TEXT_WIDTH = 128
PROMPT_TOKENS = 77
VAE_WIDTHS = (32, 64, 96, 192)
NARROW_VAE_WIDTHS = (16, 32, 96, 192)
"""Of the first stage of training; see `widening`."""


def build_vae(widths: tuple[int, ...] = VAE_WIDTHS) -> AutoencoderKL:
    """Autoencoder with 8x downsampling; narrow where the pixels are, wide where the latents are."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        block_out_channels=widths,  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=256,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def build_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's U-Net, block for block: 16 narrow self-attention layers."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        block_out_channels=(64, 96, 128, 128),
        layers_per_block=2,
        attention_head_dim=2,
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
    )


def build_text_encoder(vocab_size: int) -> CLIPTextModel:
    """Two-layer CLIP text model; the last of its tokens ends and pads, the one before it begins."""
    end_token = vocab_size - 1
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_TOKENS,
        bos_token_id=end_token - 1,
        eos_token_id=end_token,
        pad_token_id=end_token,
    )
    return CLIPTextModel(config)


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule, setting for setting."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )
