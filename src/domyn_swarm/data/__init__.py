"""Data in and out: the engines that read, filter, join and write."""
