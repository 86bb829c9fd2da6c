"""Where a job runs: the store that its bytes live in, and the runners that carry its work."""
