"""Hostile inputs, made from a seed, and what stylefarm does with each.

    python -m tests.faults.fuzz --count 1000 --seed 1
    python -m tests.faults.fuzz --seed 1 --only 17 --keep /tmp/kept

`makers` write an input into an empty folder: a job file, a table, pictures, a tar, weights, a run
folder, and the command that is called on them. Each input runs in a process of its own, forked from
one that has imported everything (`runner`, `child`). What that process writes, starts and connects
to is watched (`watch`), and `verdict` says whether it ended as it should: as a row or a sentence.

The same seed and number always give the same input, whatever else runs.
"""
