"""My job: sends one request to a model for each row of a parquet input.

Try it on the demo endpoint, which returns made-up answers:

    domyn-swarm job submit my_job.py:MyJob --input my_job.parquet --output out/my_job.parquet --endpoint demo

For a real server: --endpoint http://host:8000/v1 --model NAME, with the key in DOMYN_SWARM_API_KEY or OPENAI_API_KEY.
Run the same command again to resume after a crash or to retry failed rows. When every row is done, it does nothing.
While you change the job, add --no-resume to compute every row again, and --limit 3 to process only the first rows.
"""

from domyn_swarm.jobs import EndpointJob


class MyJob(EndpointJob):
    """Asks a model to answer a text, and records how long that took."""

    # One column: `transform_item` gets its value. Several: it gets a dict by column name.
    input_columns = ("text",)
    # One column: return its value. Several: return a tuple in this order, or a dict by name.
    output_columns = ("answer", "seconds")

    # Fields are the job's parameters. Set them for a run with --job-kwargs '{"instruction": "Answer in French."}'
    # The base class has a field for options of every request: --job-kwargs '{"request": {"temperature": 0}}'
    instruction: str = "Answer in one sentence."

    async def transform_item(self, text: str) -> tuple[str, float]:
        """Return one row's outputs. `ask` retries failed requests; an exception raised here fails only this row."""
        messages = [
            {"role": "system", "content": self.instruction},
            {"role": "user", "content": text},
        ]
        answer = await self.ask("chat/completions", {"messages": messages})
        reply = answer.body["choices"][0]["message"]["content"]
        return reply.strip(), answer.seconds
