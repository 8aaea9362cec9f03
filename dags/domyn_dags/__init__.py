"""The graphs that domyn-swarm runs, as modules of pure functions for Hamilton."""
