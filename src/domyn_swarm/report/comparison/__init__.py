"""Compare two runs row by row. Private."""
