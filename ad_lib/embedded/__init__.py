"""A latent diffusion model of our own with Stable Diffusion 1.5's classes, small enough to ship.

The folder is a diffusers checkpoint: `StableDiffusionPipeline.from_pretrained(FOLDER)` loads it.
`python -m ad_lib.embedded.evaluate` measures it. README.md is the model card. The recipe that made
the weights is in `training/` of a checkout.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
"""The checkpoint, in the layout that diffusers reads."""
