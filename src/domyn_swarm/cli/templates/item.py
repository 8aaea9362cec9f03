"""My job: what is done to each row of a parquet input.

Try it:

    domyn-swarm job submit my_job.py:MyJob --input my_job.parquet --output out/my_job.parquet

The same command goes on after a crash, tries again what failed, and does nothing when all is done. While you change
the job, add --no-resume to compute every row again, and --limit 3 for the first rows alone.
"""

from domyn_swarm import SwarmJob


class MyJob(SwarmJob):
    """Counts the words of a text, and says it loud."""

    # One column: `transform_item` gets its value. Several: a dict of them by name.
    input_columns = ("text",)
    # One column: return its value. Several: return a tuple in this order, or a dict by name.
    output_columns = ("words", "loud")

    # Fields are the job's parameters. To set one for a run: --job-kwargs '{"mark": "?"}'
    mark: str = "!"

    # `async def` for what waits (requests, databases): 32 rows at once, or --max-concurrency.
    # Plain `def` for what computes: it runs in threads, one for each core.
    async def transform_item(self, text: str) -> tuple[int, str]:
        """One row's outputs. What is raised here is the failure of this row alone; see the errors file."""
        words = len(text.split())
        return words, text.upper() + self.mark
