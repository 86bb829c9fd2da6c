"""The method on plain tensors, as the paper states it: without a model and without pictures."""
