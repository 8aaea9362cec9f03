"""From a server's answer to a row's output: its choices, facts about it, and which output column is what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.endpoint.replicas import Answer, tokens_of
from domyn_swarm.errors import ConfigurationError, EndpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHOWN_CHARS = 300


def choices_of(answer: Answer) -> list[dict[str, Any]]:
    """The choices of an answer, at least one.

    Raises:
        EndpointError: there is none; some servers put their errors into such an answer.
    """
    match answer.body:
        case {"choices": [dict(), *_] as choices}:
            found: list[dict[str, Any]] = choices
            return found
    raise EndpointError(f"The answer has no choices: {answer.body!r:.{SHOWN_CHARS}}", status=200)


_FACTS: dict[str, Callable[[Answer, list[dict[str, Any]]], Any]] = {
    "finish_reason": lambda _answer, choices: _one_or_all([choice.get("finish_reason") for choice in choices]),
    "reasoning": lambda _answer, choices: _one_or_all([_reasoning(choice) for choice in choices]),
    "prompt_tokens": lambda answer, _choices: tokens_of(answer.body)[0],
    "completion_tokens": lambda answer, _choices: tokens_of(answer.body)[1],
    "latency": lambda answer, _choices: answer.seconds,
    "attempts": lambda answer, _choices: answer.attempts,
}
"""Columns that an answer has beside its content."""


class ReplyColumns:
    """What a row's output is, by the names of the output columns: facts about the answer, parts of it, or its content.

    `parts` are names that the content, a dict, is known to have.

    Raises:
        ConfigurationError: two of `names` would be the content.
    """

    def __init__(self, job: str, names: Sequence[str], parts: Sequence[str] = ()) -> None:
        self._names = list(names)
        self._parts = frozenset(parts) - _FACTS.keys()
        whole = [name for name in names if name not in _FACTS and name not in self._parts]
        if len(whole) > 1:
            known = ", ".join([*_FACTS, *sorted(self._parts)])
            raise ConfigurationError(
                f"--output-column: {job} has one content, and {' and '.join(map(repr, whole))} would be it.",
                f"Name it once, and beside it any of: {known}.",
            )
        self._plain = whole == self._names

    def __call__(self, content: Any, answer: Answer, choices: list[dict[str, Any]]) -> Any:
        """The output: a tuple by position, or the content itself where it is all there is."""
        if self._plain and not isinstance(content, dict):
            return content
        return tuple(self._value(name, content, answer, choices) for name in self._names)

    def _value(self, name: str, content: Any, answer: Answer, choices: list[dict[str, Any]]) -> Any:
        if name in _FACTS:
            return _FACTS[name](answer, choices)
        if name not in self._parts:
            return content
        return _one_or_all([one.get(name) for one in (content if isinstance(content, list) else [content])])


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _reasoning(choice: dict[str, Any]) -> Any:
    message = choice.get("message") or {}
    return message.get("reasoning_content") or message.get("reasoning")


def together(answers: Sequence[Answer]) -> Answer:
    """Several answers as one: the last, with the tokens, seconds and attempts of all."""
    used = [tokens_of(answer.body) for answer in answers]
    usage = {"prompt_tokens": sum(one for one, _ in used), "completion_tokens": sum(one for _, one in used)}
    seconds, attempts = sum(one.seconds for one in answers), sum(one.attempts for one in answers)
    return Answer({**answers[-1].body, "usage": usage}, seconds, attempts)


def no_text(choice: dict[str, Any]) -> EndpointError:
    """The error that a choice without text is."""
    reason = choice.get("finish_reason")
    return EndpointError(f"The answer has no text{f' (finish_reason {reason!r:.40})' if reason else ''}.", status=200)
