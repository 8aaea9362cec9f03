"""One run of a job: planned, executed, and finished. Private."""
