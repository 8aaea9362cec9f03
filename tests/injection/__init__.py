"""Runs that are killed, or get an error, at each write, rename, link, unlink and fsync that they make.

    python -m tests.injection [--every N] [--how kill,after,5,28] [--output out.parquet]

Each is followed by the same command without a fault, which has to end with the right output, whatever was left behind.
"""
