"""One step of a job each: preflight, planning, rendering, committing, reporting."""
