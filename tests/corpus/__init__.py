"""Any folder of parquet files through every engine: `python -m tests.corpus DIR`."""
