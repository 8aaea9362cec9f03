"""My job: a function applied to each row of a parquet input.

Try it:

    domyn-swarm job submit my_job.py:MyJob --input my_job.parquet --output out/my_job.parquet

Run the same command again to resume after a crash or to retry failed rows. When every row is done, it does nothing.
While you change the job, add --no-resume to compute every row again, and --limit 3 to process only the first rows.
"""

from domyn_swarm import SwarmJob


class MyJob(SwarmJob):
    """Counts the words of a text and converts it to upper case."""

    # One column: `transform_item` gets its value. Several: it gets a dict by column name.
    input_columns = ("text",)
    # One column: return its value. Several: return a tuple in this order, or a dict by name.
    output_columns = ("words", "loud")

    # Fields are the job's parameters. Set them for a run with --job-kwargs '{"mark": "?"}'
    mark: str = "!"

    # `async def` for I/O (requests, databases): 32 rows at once, or --max-concurrency.
    # Plain `def` for computation: it runs in threads, one per core.
    async def transform_item(self, text: str) -> tuple[int, str]:
        """Return one row's outputs. An exception raised here fails only this row; see the errors file."""
        words = len(text.split())
        return words, text.upper() + self.mark
