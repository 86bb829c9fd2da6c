"""How large may what a user hands over be? The limits that are checked before work begins."""

MAX_JOB_BYTES = 1 << 20
"""Bytes of a job file."""

MAX_TABLE_BYTES = 256 << 20
"""Bytes of a table, both as it is stored and as it unpacks."""

MAX_ROW_BYTES = 1 << 20
"""Bytes of one row's own columns (those that come along in `user`) as JSON."""

MAX_PROMPT_FILE_BYTES = 64 << 20
"""Bytes of a text file with a prompt on each line."""

MAX_TEXT_LETTERS = 10_000
"""Letters of a prompt, a URI, or any other text of a job or of a table's own columns."""

MAX_ITEMS = 2_000_000
"""Items of one run, and rows of one table."""

MAX_EXPANDED_URIS = 100_000
"""URIs that one source may name, and names that the braces of one URI may stand for."""

MAX_COMPARISONS = 100_000_000
"""Pairs of images that pairing `random` ranks to draw styles."""

MAX_VARIANTS = 10_000
"""Pictures per combination of inputs."""

MAX_SWEEP_ENTRIES = 1000
"""Entries of one sweep: columns of its contact sheet."""

MAX_INPUTS_OF_ROLE = 256
"""Images of one role in one row of a table."""

MIN_WHOLE, MAX_WHOLE = -(2**63), 2**64 - 1
"""Whole numbers that fit 64 bits; every file format that a run writes can hold them."""
