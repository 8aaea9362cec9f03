"""What people use in notebooks and scripts: plans that show themselves, that one can look into, change and run."""
