"""Options of a job elsewhere than on the command line: defaults, option files, and what a run wrote down. Private."""
