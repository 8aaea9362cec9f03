"""Runs that outlive the terminal: where they go on, how they are found again, and looked after."""
