"""Checks that this machine can run jobs. Each reports what it found and how to fix a problem."""
