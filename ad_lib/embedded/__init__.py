"""A latent diffusion model of our own with Stable Diffusion 1.5's classes, small enough to ship.

The folder is a diffusers checkpoint: `StableDiffusionPipeline.from_pretrained(FOLDER)` loads it.
The code beside the weights is the whole recipe: `python -m ad_lib.embedded.train` makes them,
`python -m ad_lib.embedded.evaluate` measures them. README.md is the model card.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
"""The checkpoint, in the layout that diffusers reads."""
