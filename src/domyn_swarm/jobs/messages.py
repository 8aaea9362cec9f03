"""From what a row holds to the messages of a chat, in the shapes that parquet files have them in."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from domyn_swarm.endpoint.json_reader import NOT_JSON, read_json
from domyn_swarm.jobs.endpoint import ItemError, kind_of
from domyn_swarm.jobs.shapes import BYTES, entries_of, holds_bytes, not_finite, shown_number, without_unset

Shape: TypeAlias = Literal["openai", "sharegpt", "text"]
"""How a row is read: as messages with `role` and `content`, with `from` and `value`, or as a text whatever it holds."""

_CONTENTS = ("content", "tool_calls", "function_call", "audio", "refusal")
"""One of these makes a message."""
_PLAIN = {"role", "content"}
_SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "assistant": "assistant", "bot": "assistant", "model": "assistant", "function_call": "assistant",
    "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip


def messages_of(item: Any, shape: Shape = "openai") -> list[dict[str, Any]]:
    """The messages that `item` means, with what was never set left out.

    A text is the user's one message, unless it is a JSON list of messages. Else `item` is a list of messages, each a
    struct or a map, or one message, or a struct that has such a list as `messages` (`conversations` in ShareGPT's).

    Raises:
        ItemError: it is none of these, or holds a number that JSON does not have.
    """
    if isinstance(item, str):
        found = None if shape == "text" else _messages_in(item, shape)
        if found is None:
            return [{"role": "user", "content": item}]
        item = found
    item = _listed(entries_of(item), shape)
    if shape == "text" or not isinstance(item, list) or not item:
        if isinstance(item, bytes):
            raise ItemError(f"the row holds {BYTES}")
        needed = "a text" if shape == "text" else "a text or a list of messages"
        raise ItemError(f"{needed} is needed, the row has {kind_of(item)}")
    return [_message(message, number, shape) for number, message in enumerate(item)]


def shown_in_prompt(name: str, value: Any) -> str:
    """The value of a column as it stands in a prompt: texts, dates and decimals as such, anything else as JSON.

    Raises:
        ItemError: it is null, or holds a number that JSON does not have.
    """
    if value is None:
        raise ItemError(f"the prompt needs {name!r}, which is null")
    if isinstance(value, str):
        return value
    if holds_bytes(value):
        raise ItemError(f"the prompt needs {name!r}, which holds {BYTES}")
    if (odd := not_finite(value)) is not None:
        raise ItemError(f"the prompt needs {name!r}, which {'is' if odd is value else 'holds'} {shown_number(odd)}")
    shown = msgspec.json.encode(value, enc_hook=str)
    return msgspec.json.decode(shown) if shown.startswith(b'"') else shown.decode()


def _messages_in(text: str, shape: Shape) -> Any:
    """The messages that a text holds as JSON; None when it is a text like any other."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        found = _listed(read_json(text), shape)
    except NOT_JSON:
        return None
    role, contents = ("from", {"value"}) if shape == "sharegpt" else ("role", {*_CONTENTS})
    are_messages = (
        isinstance(found, list)
        and found
        and all(isinstance(one, dict) and role in one and one.keys() & contents for one in found)
    )
    return found if are_messages else None


def _listed(item: Any, shape: Shape) -> Any:
    """The list of messages in a struct that has one; a message as a list of one."""
    if not isinstance(item, dict):
        return item
    for name in ("messages", "conversations" if shape == "sharegpt" else "messages"):
        if isinstance(item.get(name), list):
            return item[name]
    return [item] if item.keys() & {"role", "from"} else item


def _message(message: Any, number: int, shape: Shape) -> dict[str, Any]:
    if isinstance(message, dict) and message.keys() == _PLAIN and all(type(text) is str for text in message.values()):
        return message  # as most are
    message = entries_of(message)
    if not isinstance(message, dict):
        raise ItemError(f"message {number} is {kind_of(message)}, not a role and a content")
    message = without_unset(message, "the messages hold") or {}
    if shape == "sharegpt":
        message = _from_sharegpt(message, number)
    given = {name: value for name, value in message.items() if value is not None and (value != [] or name == "content")}
    if not isinstance(given.get("role"), str):
        hint = ", but `from` and `value`: set messages_as to sharegpt" if {"from", "value"} <= message.keys() else ""
        raise ItemError(f"message {number} has no role{hint}")
    if not given.keys() & set(_CONTENTS) or given.get("content") == []:
        raise ItemError(f"message {number} has no content")
    return given


def _from_sharegpt(message: dict[str, Any], number: int) -> dict[str, Any]:
    who = message.get("from")
    role = _SHAREGPT_ROLES.get(str(who).lower())
    if role is None:
        raise ItemError(f"message {number} is from {who!r:.40}, which is none of {', '.join(_SHAREGPT_ROLES)}")
    rest = {name: value for name, value in message.items() if name in ("name", "tool_calls", "tool_call_id")}
    return {"role": role, "content": message.get("value"), **rest}
