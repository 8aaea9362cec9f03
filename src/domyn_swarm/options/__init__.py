"""Option precedence, and reading and writing option files. Private."""
