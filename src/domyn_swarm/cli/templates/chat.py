"""My job: a model is asked about each row of a parquet input.

Try it on the demo endpoint, which makes its answers up:

    domyn-swarm job submit my_job.py:MyJob --input my_job.parquet --output out/my_job.parquet --endpoint demo

For a real server: --endpoint http://host:8000/v1 --model NAME, with the key in DOMYN_SWARM_API_KEY or OPENAI_API_KEY.
The same command goes on after a crash, tries again what failed, and does nothing when all is done. While you change
the job, add --no-resume to compute every row again, and --limit 3 for the first rows alone.
"""

from domyn_swarm.jobs import EndpointJob


class MyJob(EndpointJob):
    """Asks for an answer to a text, and keeps how long that took."""

    # One column: `transform_item` gets its value. Several: a dict of them by name.
    input_columns = ("text",)
    # One column: return its value. Several: return a tuple in this order, or a dict by name.
    output_columns = ("answer", "seconds")

    # Fields are the job's parameters. To set one for a run: --job-kwargs '{"instruction": "Answer in French."}'
    # There is one already for what every request carries: --job-kwargs '{"request": {"temperature": 0}}'
    instruction: str = "Answer in one sentence."

    async def transform_item(self, text: str) -> tuple[str, float]:
        """One row's outputs. `ask` tries again by itself; what is raised here is the failure of this row alone."""
        messages = [
            {"role": "system", "content": self.instruction},
            {"role": "user", "content": text},
        ]
        answer = await self.ask("chat/completions", {"messages": messages})
        reply = answer.body["choices"][0]["message"]["content"]
        return reply.strip(), answer.seconds
