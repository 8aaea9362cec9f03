"""Where a run can execute: one module for each launcher, all satisfying `base.Launcher`."""
