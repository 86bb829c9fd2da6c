"""The frozen diffusion model: how it is found, loaded, given prompts, encodes and decodes."""
