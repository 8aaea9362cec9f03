"""My job: several steps for each row of a parquet input. Each public function makes the column that it is named for.

Try it on the demo endpoint, which returns made-up answers:

    domyn-swarm job submit my_job.py --input my_job.parquet --output out/my_job.parquet --endpoint demo

For real servers: --endpoint http://host:8000/v1 --model NAME for all models, and --endpoint judge=URL
--model judge=NAME for the one named `judge` below. The key is read from DOMYN_SWARM_API_KEY or OPENAI_API_KEY.
Draw the steps with: domyn-swarm job graph my_job.py
"""

from domyn_swarm import Chat


def prompt(text: str) -> str:
    """A parameter is a column of the input or another step."""
    return f"Answer in one sentence: {text}"


async def answer(prompt: str, chat: Chat) -> str:
    """A parameter annotated `Chat` is a model."""
    return await chat(prompt, temperature=0)


async def verdict(text: str, answer: str, judge: Chat) -> str:
    """Another model, which may have an endpoint of its own."""
    return await judge(f"Is this a good answer? Question: {text} Answer: {answer}")
