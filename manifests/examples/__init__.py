"""Job files that run as they are, with the pictures that they use."""
