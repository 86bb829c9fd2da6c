"""The frozen diffusion model: how it is loaded, conditioned, tapped, encodes and decodes."""
