"""The run's Hamilton graph: how it is built, and how its nodes are overridden. Private."""
