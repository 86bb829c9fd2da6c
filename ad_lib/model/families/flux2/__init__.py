"""FLUX.2 [klein]: a flow-matching transformer with joint attention; facts without torch."""

from ad_lib.model.families.family import Family

FLUX2 = Family(
    name="flux2",
    title="FLUX.2 [klein]",
    hub_id="black-forest-labs/FLUX.2-klein-base-4B",
    networks={
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    },
    others=("tokenizer", "scheduler"),
    denoiser="transformer",
    denoiser_kind="transformer",
    owns=lambda config: config.get("_class_name") == "Flux2Transformer2DModel",
    home=__name__,
    pixels_per_cell=16,
    pixels_per_token=(16,),
    prompt_task="style-t2i",
    has_rotary_positions=True,
    has_joint_attention=True,
)
