"""A run's folder: finished rows as parquet parts, on any fsspec filesystem."""
