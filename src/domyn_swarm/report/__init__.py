"""Reports, the live view, row histories, failures and progress. Private."""
