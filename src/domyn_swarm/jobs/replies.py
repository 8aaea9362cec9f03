"""From a server's answer to a row's output: its choices, facts about it, and which output column is what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.endpoint.replicas import Answer, usage_of
from domyn_swarm.errors import ConfigurationError, EndpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from domyn_swarm.jobs.requests import EndpointJob
    from domyn_swarm.jobs.spec import JobSpec

SHOWN_CHARS = 300


def choices_of(answer: Answer) -> list[dict[str, Any]]:
    """The choices of an answer, at least one.

    Raises:
        EndpointError: there is none; some servers put their errors into such an answer.
    """
    choices = answer.body.get("choices")
    if isinstance(choices, list) and choices and all(isinstance(choice, dict) for choice in choices):
        return choices
    raise EndpointError(f"The answer has no choices: {answer.body!r:.{SHOWN_CHARS}}", status=200)


_FACTS: dict[str, Callable[[Answer, list[dict[str, Any]]], Any]] = {
    "finish_reason": lambda _answer, choices: [choice.get("finish_reason") for choice in choices],
    "reasoning": lambda _answer, choices: [_reasoning(choice) for choice in choices],
    "prompt_tokens": lambda answer, _choices: usage_of(answer.body, "prompt_tokens"),
    "completion_tokens": lambda answer, _choices: usage_of(answer.body, "completion_tokens"),
    "latency": lambda answer, _choices: answer.seconds,
    "attempts": lambda answer, _choices: answer.attempts,
}
"""Columns that an answer has beside its content."""


class ReplyColumns:
    """What a row's output is, by the names of the output columns: facts about the answer, parts of it, or its content.

    `parts` are names that the content, a dict, is known to have; they win over facts. When the job asks for several
    choices, what each of them has is a list.

    Raises:
        ConfigurationError: two output columns would be the content.
    """

    def __init__(self, job: EndpointJob, spec: JobSpec, parts: Sequence[str] = ()) -> None:
        names = self._names = list(spec.output_columns or job.output_columns)
        self._parts = frozenset(parts)
        self._several = job.parameters().get("n", 1) != 1
        whole = [name for name in names if name not in _FACTS and name not in self._parts]
        if len(whole) > 1:
            known = ", ".join([*_FACTS, *sorted(self._parts - _FACTS.keys())])
            twice = " and ".join(map(repr, whole))
            raise ConfigurationError(
                f"--output-column: {type(job).__name__} has one content, and {twice} would be it.",
                f"Name it once, and beside it any of: {known}.",
            )
        self._plain = whole == self._names
        self.has_content = any(name in self._parts or name not in _FACTS for name in names)
        """Whether any column needs more than facts."""

    def __call__(self, contents: list[Any], answer: Answer, choices: list[dict[str, Any]]) -> Any:
        """The output, of one content for each choice: a tuple by position, or the content where it is all there is."""
        if self._plain and not isinstance(contents[0], dict):
            return self._one_or_all(contents)
        return tuple(self._value(name, contents, answer, choices) for name in self._names)

    def _value(self, name: str, contents: list[Any], answer: Answer, choices: list[dict[str, Any]]) -> Any:
        if name in self._parts:
            return self._one_or_all([content.get(name) for content in contents])
        if name not in _FACTS:
            return self._one_or_all(contents)
        fact = _FACTS[name](answer, choices)
        return self._one_or_all(fact) if isinstance(fact, list) else fact

    def _one_or_all(self, values: list[Any]) -> Any:
        return values if self._several else values[0]


def _reasoning(choice: dict[str, Any]) -> Any:
    message = choice.get("message") or {}
    return message.get("reasoning_content") or message.get("reasoning")


def together(answers: Sequence[Answer]) -> Answer:
    """Several answers as one: the last, with the tokens, seconds and attempts of all."""
    usage = {}
    for name in ("prompt_tokens", "completion_tokens"):
        used = [usage_of(answer.body, name) for answer in answers]
        usage[name] = None if None in used else sum(filter(None, used))
    seconds, attempts = sum(one.seconds for one in answers), sum(one.attempts for one in answers)
    return Answer({**answers[-1].body, "usage": usage}, seconds, attempts)


def no_text(choice: dict[str, Any]) -> EndpointError:
    """The error that a choice without text is."""
    reason = choice.get("finish_reason")
    said = f" (finish_reason {reason!r:.40})" if reason else ""
    # A model that has ended without a text, by its own account, will do so again, at full price.
    return EndpointError(f"The answer has no text{said}.", status=200, retryable=reason is None)
