"""What to do and what was done: job files, items, identity, the plan, and the records of a run."""
