"""What an answer has beside its content: columns that go by fixed names, such as `finish_reason` or `tool_calls`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa

from domyn_swarm.endpoint.answer_counts import usage_of
from domyn_swarm.endpoint.load_balancer import Answer
from domyn_swarm.jobs.contents import reasoning_of, refusal_of, tool_calls_of

Choices: TypeAlias = list[dict[str, Any]]
Fact: TypeAlias = Callable[[Sequence[Answer], Choices], Any]
"""From the answers that a row took, and the choices of the last, to a value: a list of one for each choice, or one."""

_CACHED = (
    ("prompt_tokens_details", "cached_tokens"),
    ("prompt_cache_hit_tokens",),  # DeepSeek
    ("cache_read_input_tokens",),  # Anthropic
    ("cached_tokens",),
)
_REASONING = (("completion_tokens_details", "reasoning_tokens"), ("reasoning_tokens",))  # the second: SGLang


def json_of(value: Any) -> str | None:
    """`value` as JSON text; None for nothing."""
    return None if value in (None, [], {}) else msgspec.json.encode(value).decode()


def _total(answers: Sequence[Answer], read: Callable[[dict[str, Any]], int | None]) -> int | None:
    used = [read(answer.body) for answer in answers]
    return None if None in used else sum(filter(None, used))


def _detail(*paths: tuple[str, ...]) -> Callable[[dict[str, Any]], int | None]:
    """What reads the first of `paths` that an answer's `usage` has."""

    def read(body: dict[str, Any]) -> int | None:
        for path in paths:
            found: Any = body.get("usage")
            for name in path:
                found = found.get(name) if isinstance(found, dict) else None
            if isinstance(found, int):
                return found
        return None

    return read


_cached, _reasoning = _detail(*_CACHED), _detail(*_REASONING)


def _model(answers: Sequence[Answer], _choices: Choices) -> str | None:
    named = answers[-1].body.get("model")
    return named if isinstance(named, str) else None


FACTS: dict[str, Fact] = {
    "finish_reason": lambda _answers, choices: [choice.get("finish_reason") for choice in choices],
    "reasoning": lambda _answers, choices: [reasoning_of(choice) for choice in choices],
    "logprobs": lambda _answers, choices: [json_of(choice.get("logprobs")) for choice in choices],
    "prompt_tokens": lambda answers, _choices: _total(answers, lambda body: usage_of(body, "prompt_tokens")),
    "completion_tokens": lambda answers, _choices: _total(answers, lambda body: usage_of(body, "completion_tokens")),
    "cached_tokens": lambda answers, _choices: _total(answers, _cached),
    "reasoning_tokens": lambda answers, _choices: _total(answers, _reasoning),
    "model": _model,
    "response": lambda answers, _choices: json_of(answers[-1].body),
    "latency": lambda answers, _choices: sum(answer.seconds for answer in answers),
    "attempts": lambda answers, _choices: sum(answer.attempts for answer in answers),
}
"""Of every answer with choices."""
MESSAGE_FACTS: dict[str, Fact] = {
    "message": lambda _answers, choices: [json_of(choice.get("message")) for choice in choices],
    "tool_calls": lambda _answers, choices: [json_of(tool_calls_of(choice)) for choice in choices],
    "refusal": lambda _answers, choices: [refusal_of(choice) or None for choice in choices],
}
"""Of answers whose choices are messages."""
TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(("message", "tool_calls", "refusal", "logprobs", "response", "model"), pa.string()),
    **dict.fromkeys(("cached_tokens", "reasoning_tokens"), pa.int64()),
}
"""Of the facts whose type does not depend on what servers say."""
OF_THE_ANSWER = frozenset({"response", "model", "cached_tokens", "reasoning_tokens"})
"""Facts that there is one of, however many choices an answer has; of those in TYPES."""
ORDINARY_WORDS = frozenset({"message", "refusal", "response", "model"})
"""Names of facts that are so common that one like them (`messages`) may well be meant for the content."""
HOLDS_CALLS = frozenset({"tool_calls", "message", "response"})
HOLDS_REFUSALS = frozenset({"refusal", "message", "response"})
"""Facts that hold what a model may say in place of a text."""
