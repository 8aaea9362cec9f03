"""Texts without the keys that must not be shown.

Whatever is written or shown of an error goes through here: a server may repeat a key, whole or in part, as JSON, in a
URL or in base64, and so may a library's error, or a user who gives it in the wrong place.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import traceback
from functools import cache
from itertools import groupby
from typing import Any
from urllib.parse import quote, unquote

PIECE = 8
MASK = "***"
SHORT = 6
_known: set[str] = set()
_words: set[str] = set()
_USER_INFO = re.compile(r"\b((?:https?|ftps?|webdav|davs?)://)[^/\s@'\"<>]+@")


_PLACEHOLDER = re.compile(
    r"(?:none|null|empty|not?|keys?|api|token|secret|needed|required|necessary|used|unused|dummy|fake|test(?:ing)?|local"
    r"(?:host)?|lm|studio|ollama|vllm|sglang|llama|cpp|openai|sk|placeholder|example|your|my|here|any(?:thing)?|ignored?"
    r"|change|me|demo|default|public|anonymous|guest|todo|abc|123|x|[\W_])+",
    re.IGNORECASE,
)
"""What people write where a server wants a key and takes any: `lm-studio`, `not-needed`, `sk-no-key-required`."""
PLACEHOLDER_CHARS = 40


def hide(secret: str) -> None:
    """Mask `secret` in this process from now on, unless it is too short for a key or made of common words.

    Servers without keys get words (`EMPTY`, `lm-studio`), which stand in paths and messages for good reasons.
    """
    if len(secret) >= PIECE and not _is_placeholder(secret):
        _known.add(secret)


def _is_placeholder(secret: str) -> bool:
    return len(secret) <= PLACEHOLDER_CHARS and _PLACEHOLDER.fullmatch(secret) is not None


def hide_word(secret: str) -> None:
    """Mask a password that is shorter than a key from now on, where it stands as a word of its own."""
    if SHORT <= len(secret) < PIECE and not _is_placeholder(secret):
        _words.add(secret)


def hide_value(text: str) -> None:
    """Mask a value of an option from now on.

    Paths are no credentials, and masking them would leave messages without what they are about.
    """
    for form in {text, unquote(text)} - {MASK}:
        if not form.startswith(("/", ".", "~")):
            hide(form)
            hide_word(form)


def masked(text: str) -> str:
    """`text` with `***` for each stretch that is made of pieces of a secret, and for user info in URLs."""
    if "://" in text and "@" in text:
        text = _USER_INFO.sub(rf"\1{MASK}@", text)
    for word in _words:
        if word in text:
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", MASK, text)
    for secret in _known:
        pieces = _pieces(secret)
        hidden = bytearray(len(text))
        for at in range(len(text) - PIECE + 1):
            if text[at : at + PIECE] in pieces:
                hidden[at : at + PIECE] = b"\1" * PIECE
        if any(hidden):
            stretches = groupby(zip(hidden, text, strict=True), key=lambda pair: pair[0])
            text = "".join(MASK if hide else "".join(char for _, char in chars) for hide, chars in stretches)
    return text


def holds(text: str, secret: str) -> bool:
    """Whether `text` holds a piece of `secret`."""
    if len(secret) < PIECE or _is_placeholder(secret):
        return False
    pieces = _pieces(secret)
    return any(text[at : at + PIECE] in pieces for at in range(len(text) - PIECE + 1))


def masked_json(text: str) -> str:
    """`masked` for texts that are long and many: it looks closer only where one of a secret's pieces in turn is found.

    So a stretch of a secret that is shorter than two pieces can stay.
    """
    if not any(piece in text for secret in _known for piece in _spaced(secret)):
        return text
    return json.dumps(_masked_value(json.loads(text)), ensure_ascii=False)


def _masked_value(value: Any) -> Any:
    """Plain data with its texts masked, and numbers that are secrets."""
    if isinstance(value, dict):
        return {masked(name): _masked_value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_masked_value(inner) for inner in value]
    if isinstance(value, str):
        return masked(value)
    shown = str(value)
    return value if masked(shown) == shown else MASK


@cache
def _spaced(secret: str) -> frozenset[str]:
    """Pieces of the forms of `secret` of which each stretch of two pieces' length holds one."""
    return frozenset(form[at : at + PIECE] for form in _forms(secret) for at in range(0, len(form) - PIECE + 1, PIECE))


@cache
def _pieces(secret: str) -> frozenset[str]:
    """Each PIECE characters of its forms."""
    return frozenset(form[at : at + PIECE] for form in _forms(secret) for at in range(len(form) - PIECE + 1))


def _forms(secret: str) -> tuple[str, ...]:
    """How `secret` may be spelled, base64 at any offset among them."""
    encoded = (base64.b64encode(b" " * pad + secret.encode()).decode()[pad + (pad > 0) : -4] for pad in range(3))
    return (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode(), *encoded)


class _Masking(logging.Filter):
    """Log lines and their tracebacks without secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = masked(record.getMessage()), ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = masked("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return True


logging.getLogger("domyn_swarm").addFilter(_Masking())
