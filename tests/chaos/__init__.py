"""Kill tests as a command: real runs that are killed, stopped, damaged and raced, held against their endpoint's log.

    python -m tests.chaos [SCENARIO ...] [--backend NAME ...] [--kills 30] [--terms 10] [--rows N] [--seed N]

`laws` says what has to hold, `runs` has jobs as processes, `damages` ruins parts, `scenarios` is what happens to jobs.
"""
