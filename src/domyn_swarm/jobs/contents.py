"""What one choice of an answer holds: its text, its reasoning, data in its text, and why it has no text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from domyn_swarm.concurrency.retry import status_is_retryable
from domyn_swarm.endpoint.json_reader import NOT_JSON, read_json
from domyn_swarm.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS_CHARS = 300

_NO_REASON = frozenset({"", "none", "null"})
_NATURAL_ENDS = _NO_REASON | {"stop", "stop_sequence", "end_turn", "eos", "eos_token", "complete", "completed"}
"""Finish reasons of a model that has said all it wanted, even if that is nothing. So is none at all."""
_BROKEN_OFF = frozenset(
    {"error", "abort", "aborted", "cancelled", "canceled", "timeout", "network_error", "insufficient_system_resource"}
)
"""Finish reasons of the server's own making: the same request may be answered later. After others it will not be."""

_REASONING_KEYS = (
    "reasoning_content", "reasoning", "thinking", "reasoning_text", "reasoning_details", "thinking_blocks",
)  # fmt: skip
_REASONING_FIELDS = ("thinking", "reasoning", "text", "summary", "content")
_TEXT_TYPES = frozenset({"text", "output_text"})

_OPENED = re.compile(r"\s*(?:<(?:think|thinking|thought|reasoning)>|\[THINK\]|◁think▷)", re.IGNORECASE)
_CLOSED = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷", re.IGNORECASE)
_FENCE = re.compile(r"(```|~~~)[ \t]*[\w+-]*[ \t]*\r?\n?(.*?)(?:\1|\Z)", re.DOTALL)
_LAST_FENCE = re.compile(r"(```|~~~)[ \t]*[\w+-]*[ \t]*\r?\n?(.*)\1", re.DOTALL)


def text_of(choice: dict[str, Any]) -> str:
    """The text of a choice. Of content in parts it is the text parts, and not the thinking.

    Raises:
        EndpointError: there is none, or the server says that it broke off. An empty text is one if the model ended
            with it by itself. `retryable` tells whether the same request may be answered another time.
    """
    text, reason = _said(choice), choice.get("finish_reason")
    if choice.get("error") or _lower(reason) == "error":
        raise _broken_off(choice)
    ended = _lower(reason) in _NATURAL_ENDS
    if text is None or (not text.strip() and not ended) or (not text and refusal_of(choice)):
        raise _no_text(choice)
    return text


def reasoning_of(choice: dict[str, Any]) -> str | None:
    """The reasoning of a choice, wherever the server puts it: beside the text, in a part, or in front of the text."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return None
    for key in _REASONING_KEYS:
        if thoughts := _thoughts_in(message.get(key)):
            return thoughts
    content = message.get("content")
    if isinstance(content, list):
        parts = (part for part in content if isinstance(part, dict))
        thinking = (part for part in parts if part.get("type", "text") not in (*_TEXT_TYPES, "refusal"))
        return "".join(map(_thoughts_in, thinking)) or None
    return _split(content)[0].strip() or None if isinstance(content, str) else None


def tool_calls_of(choice: dict[str, Any]) -> list[Any]:
    """The calls of tools in a choice, as the server has them; a call of the older kind (`function_call`) is one."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return []
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        return calls
    call = message.get("function_call")
    return [{"type": "function", "function": call}] if isinstance(call, dict) and call else []


def refusal_of(choice: dict[str, Any]) -> str:
    """The words with which the model refuses; empty where it does not."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return ""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    refusals = [message.get("refusal"), *(part.get("refusal") for part in parts if isinstance(part, dict))]
    return next((words for words in refusals if isinstance(words, str) and words), "")


def data_in(text: str) -> Any:
    """The JSON value in `text`, which may have thoughts in front of it and a Markdown fence around it.

    Raises:
        ValueError: there is none; the error is that of the whole text.
        RecursionError: it is nested too deeply.
    """
    try:
        return read_json(text)
    except NOT_JSON as error:
        for candidate in _candidates(text):
            try:
                return read_json(candidate)
            except NOT_JSON:
                continue
        raise error from None


def _candidates(text: str) -> Iterator[str]:
    while (split := _split(text))[0]:
        text = split[1]
        yield text
    whole, closed = _LAST_FENCE.search(text), _CLOSED.search(text)
    if whole and not (closed and closed.start() > whole.end()):  # the JSON may hold fences itself
        yield whole[2]
    if closed:  # some chat templates open the thoughts in the prompt
        text = text[closed.end() :]
        yield text
    yield from (fence[2] for fence in _FENCE.finditer(text))
    yield text.strip().strip("`")


def _split(text: str) -> tuple[str, str]:
    """The thoughts in front of `text`, and the rest; no thoughts where there are none."""
    opened = _OPENED.match(text)
    closed = _CLOSED.search(text, opened.end()) if opened else None
    if opened is None or closed is None:
        return "", text
    return text[opened.end() : closed.start()] or " ", text[closed.end() :]


def _said(choice: dict[str, Any]) -> str | None:
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else choice.get("text")
    if isinstance(content, list):
        texts = [text for part in content if (text := _text_in(part)) is not None]
        return "".join(texts) if texts else None
    return content if isinstance(content, str) else _text_in(content)


def _text_in(part: Any) -> str | None:
    match part:
        case str():
            return part
        case {"text": str() as text} if part.get("type", "text") in _TEXT_TYPES:
            return text
    return None


def _thoughts_in(value: Any) -> str:
    """The text of reasoning, which may be a text, an object with a text, or a list of them."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_thoughts_in, value))
    if isinstance(value, dict):
        return next(filter(None, (_thoughts_in(value.get(field)) for field in _REASONING_FIELDS)), "")
    return ""


def _no_text(choice: dict[str, Any]) -> EndpointError:
    reason, words = choice.get("finish_reason"), refusal_of(choice)
    said = f" (finish_reason {reason!r:.40})" if reason else ""
    if words:
        said = f"{said}, it refuses: {words[:WORDS_CHARS]}"
    elif calls := tool_calls_of(choice):
        said = f"{said}, it calls {_names_of(calls)}; an output column `tool_calls` holds calls"
    elif thoughts := reasoning_of(choice):
        said = f"{said}, only {len(thoughts):,} characters of reasoning"
    # A model that has ended without a text, by its own account, will do so again, at full price.
    again = not words and (_lower(reason) in _BROKEN_OFF or _lower(reason) in _NO_REASON)
    return EndpointError(f"The answer has no text{said}.", status=200, retryable=again, code="reply.no_text")


def _names_of(calls: list[Any]) -> str:
    inner = [call.get(str(call.get("type", "function"))) for call in calls if isinstance(call, dict)]
    return (
        ", ".join(str(one["name"]) for one in inner if isinstance(one, dict) and "name" in one)[:WORDS_CHARS] or "tools"
    )


def _broken_off(choice: dict[str, Any]) -> EndpointError:
    """The error that a choice reports; its code, where it is a status, tells whether another try can help."""
    error = choice.get("error")
    words = error.get("message", error) if isinstance(error, dict) else error
    code = error.get("code") if isinstance(error, dict) else None
    reason = choice.get("finish_reason")
    said = f" (finish_reason {reason!r:.40})" if reason else ""
    words = f": {words!s:.{WORDS_CHARS}}" if words else "."
    again = status_is_retryable(code) if isinstance(code, int) else True
    return EndpointError(f"The answer broke off{said}{words}", status=200, retryable=again, code="reply.cut_off")


def _lower(reason: Any) -> str:
    return str(reason).lower()
