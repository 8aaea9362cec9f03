"""Jobs of steps: a module whose functions are the columns that a job makes. All but `models` is private."""
