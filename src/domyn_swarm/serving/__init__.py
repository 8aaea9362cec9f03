"""Model servers that live as long as a run: their commands, processes, health and restarts. All of it is private."""
