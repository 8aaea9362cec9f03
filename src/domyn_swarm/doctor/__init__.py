"""Whether this machine can run jobs: small checks, each of which says what it found and what mends it."""
