"""Answers that must be data: one that does not fit is sent back once, with what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from domyn_swarm.jobs.contents import text_of
from domyn_swarm.jobs.json_schema import StructureError
from domyn_swarm.jobs.replies import counting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from domyn_swarm.endpoint.load_balancer import Answer

Data = TypeVar("Data")


async def fitting(
    parsed: Callable[[dict[str, Any]], Data],
    ask: Callable[[list[dict[str, Any]]], Awaitable[tuple[Answer, list[dict[str, Any]]]]],
    messages: Sequence[dict[str, Any]],
    answer: Answer,
    choices: list[dict[str, Any]],
) -> tuple[list[Data], list[Answer], list[dict[str, Any]]]:
    """The choices of the `answer` to `messages` as data; when they do not fit, those of a second answer.

    Between both stand the answers that it took.

    Raises:
        StructureError: the second answer does not fit either, or the first was cut off.
        EndpointError: the second request failed.
    """
    found: list[Data] = []
    try:
        found.extend(map(parsed, choices))  # up to the one that does not fit
        return found, [answer], choices
    except StructureError as error:
        if any(choice.get("finish_reason") == "length" for choice in choices):  # another would be cut off, too
            raise StructureError(f"{error} (it was cut off: finish_reason 'length')", answer.attempts) from None
        back = f"That cannot be used: {error}. Answer again, with JSON that fits the schema and nothing else."
    said = {"role": "assistant", "content": text_of(choices[len(found)])}
    with counting([answer]):
        second, choices = await ask([*messages, said, {"role": "user", "content": back}])
        try:
            contents = list(map(parsed, choices))
        except StructureError as error:
            error.attempts = second.attempts
            raise
    return contents, [answer, second], choices
