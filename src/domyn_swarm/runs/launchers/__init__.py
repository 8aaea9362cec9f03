"""Places where a run can go on: one module each, all satisfying `base.Launcher`."""
