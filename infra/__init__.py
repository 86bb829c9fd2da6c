"""Where a job runs: the store that its bytes live in, and the Prefect API that shows its work."""
