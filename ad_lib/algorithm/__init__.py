"""The method on plain tensors: what the paper says, without a model, a picture or a setting."""
