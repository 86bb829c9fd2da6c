"""The whole: flows, and the command line."""
