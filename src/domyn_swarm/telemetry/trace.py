"""What happened to one row on its way: each request that was sent for it, each try, each error.

Whoever makes calls starts a log in its own context and takes it after each row; whoever sends requests for the row adds
to the log of the context that it runs in. Where nobody has started one, nothing is kept.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
import traceback
from contextvars import ContextVar
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import msgspec

from domyn_swarm.masking import masked_json
from domyn_swarm.storage.texts import storable

BODY_BYTES = 32_768
"""Most of a request's or an answer's JSON that is kept: a row with pictures in it would be kept twice."""
FRAMES = 4
TRACEBACK_CHARS = 2000
SHAPE_CHARS = 160
OTHERS = "other messages"
"""What rows of a run's many kinds have in common from some number of kinds on."""
_STEPS = str(Path(__file__).parents[1] / "jobs" / "steps")
"""What runs the steps of a row stands between a user's frames and ours."""
_PLACE = re.compile(r'File "([^"]+)", (line \d+, in \S+)')
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|(?<!\w)(?<!\w-)\d+(\.\d+)?")
"""A number, but not the digits of a name (`gpt-4`, `utf8`)."""
_STATUS = re.compile(r"\b((?:HTTP|HTTP/[\d.]+|status|code|error)(?: code)?:? )([1-5]\d\d)\b", re.IGNORECASE)
"""An HTTP status, as libraries write it."""


class Attempt(msgspec.Struct, omit_defaults=True, gc=False):
    """One try: when it began (seconds since 1970), how long it took, where it went, how it failed if it did."""

    at: float
    seconds: float | None = None
    url: str = ""
    status: int | None = None
    error: str = ""
    traceback: str = ""


MEDIA_CHARS = 256
"""Text in base64 from this length on is described in a trace rather than kept."""
_IN_BASE64 = rb"(?:[A-Za-z0-9+/]{4}){%d,}(?:[A-Za-z0-9+/=]{4})?" % (MEDIA_CHARS // 4)
_MEDIA = re.compile(rb'("data":"|"data:[\w/+.;=-]{1,100};base64,)(' + _IN_BASE64 + rb')"')


class Exchange(msgspec.Struct, omit_defaults=True, gc=False):
    """A request, its tries, and the answer: `request` as it was sent, `response` as it was read, `step` who asked.

    Both are JSON in bytes while they are gathered: one object each, and not the many of an answer. With `shared`
    another row had asked the same, and its answer was taken.
    """

    path: str
    request: Any = None
    attempts: list[Attempt] = []
    response: Any = None
    shared: bool = False
    step: str = ""


Log: TypeAlias = list[Attempt | Exchange]
_log: ContextVar[Log | None] = ContextVar("domyn_swarm_trace", default=None)
_step: ContextVar[str] = ContextVar("domyn_swarm_step", default="")


def enter_step(name: str) -> None:
    """Let requests that this context sends from here on be those of the step `name`."""
    _step.set(name)


def start() -> Log:
    """A new log for this context, to be emptied after each row."""
    log: Log = []
    _log.set(log)
    return log


def exchange(path: str, request: bytes) -> Exchange:
    """A request that is sent for the row; `request` is JSON."""
    log = _log.get()
    sent = Exchange(path, request if log is None else _without_media(request), [], step=_step.get())
    if log is not None:
        log.append(sent)
    return sent


def shared(path: str, request: bytes, response: Any) -> None:
    """A request that another row had sent already."""
    if (log := _log.get()) is not None:
        log.append(Exchange(path, _without_media(request), [], response, shared=True, step=_step.get()))


def _without_media(request: bytes) -> bytes:
    """A request with the size and the digest of each picture and sound in the place of its bytes."""
    if len(request) < MEDIA_CHARS or (b";base64," not in request and b'"input_audio"' not in request):
        return request

    def described(found: re.Match[bytes]) -> bytes:
        content = base64.b64decode(found[2])
        return b'%s(%d bytes, sha256 %s)"' % (found[1], len(content), hashlib.sha256(content).hexdigest().encode())

    return _MEDIA.sub(described, request)


def failed(log: Log, error: BaseException) -> None:
    """A call of the job that raised `error`. What its requests ran into is in the log already."""
    last = log[-1] if log else None
    if isinstance(last, Exchange) and last.attempts and last.attempts[-1].error == (_text_of(error) or None):
        return
    log.append(Attempt(time.time(), error=f"{type(error).__name__}: {_text_of(error)}", traceback=_frames_of(error)))


def _text_of(error: BaseException) -> str:
    try:
        return storable(str(getattr(error, "message", None) or error))
    except Exception:  # noqa: BLE001 - the job's own code, which may break as any other of it
        return "(an error that cannot be shown)"


def _frames_of(error: BaseException) -> str:
    """The last frames, which are the user's; those above are the program's own."""
    inner = traceback.extract_tb(error.__traceback__)[1:]
    frames = [frame for frame in inner if not frame.filename.startswith(_STEPS)][-FRAMES:]
    return storable("".join(traceback.format_list(frames))[-TRACEBACK_CHARS:])


def encoded(log: Log, *, bodies: bool = True) -> str:
    """`log` as JSON, without the keys that must not be shown; requests and answers without `bodies` if so wished."""
    try:
        kept = [_cut(entry, bodies) for entry in log]
        return masked_json(msgspec.json.encode(kept, enc_hook=str).decode())
    except Exception:
        if not bodies:
            raise
        return encoded(log, bodies=False)  # what was sent or received nests too deep, or cannot be encoded


def decoded(text: str | None) -> Log:
    """The log of a row whose outputs came with `text`."""
    entries = msgspec.json.decode(text) if text else []
    kinds: list[type[Attempt | Exchange]] = [Exchange if "path" in entry else Attempt for entry in entries]
    return [msgspec.convert(entry, kind) for entry, kind in zip(entries, kinds, strict=True)]


def place_in(frames: str) -> str:
    """`my_job.py, line 8, in transform_item`: the last place of a traceback; empty when there is none."""
    places = _PLACE.findall(frames)
    return f"{PurePath(places[-1][0]).name}, {places[-1][1]}" if places else ""


def kind_of(message: str, frames: str) -> str:
    """What rows that failed alike have in common: the place in the code where there is one, else the message.

    Different HTTP statuses are different kinds.
    """
    place, status = place_in(frames), _STATUS.search(message)
    return f"{place}, status {status[2]}" if place and status else place or shape_of(message)


def shape_of(message: str) -> str:
    """The first line of an error's message without its numbers, except HTTP statuses: what rows have in common."""
    pieces, line, end = [], message.partition("\n")[0], 0
    for status in _STATUS.finditer(line):
        pieces += [_NUMBER.sub("#", line[end : status.start(2)]), status[2]]
        end = status.end(2)
    return "".join([*pieces, _NUMBER.sub("#", line[end:])])[:SHAPE_CHARS]


def traceback_in(encoded_trace: str | None) -> str:
    """The last traceback in a row's trace; empty when there is none."""
    tracebacks = [one.traceback for one in decoded(encoded_trace) if isinstance(one, Attempt)]
    return next(filter(None, reversed(tracebacks)), "")


def _cut(entry: Attempt | Exchange, bodies: bool) -> Attempt | Exchange:
    if not isinstance(entry, Exchange):
        return entry
    if not bodies:
        return msgspec.structs.replace(entry, request=None, response=None)
    answer = None if entry.response is None else _json(entry.response)
    return msgspec.structs.replace(entry, request=_json(entry.request), response=answer)


def _json(body: Any) -> Any:
    """`body`, JSON or what it is made of, as it is, or the beginning of it as a text."""
    if not isinstance(body, bytes):
        body = msgspec.json.encode(body, enc_hook=str)
    if len(body) <= BODY_BYTES:
        return msgspec.Raw(body)
    return f"{body[:BODY_BYTES].decode(errors='replace')}… ({len(body):,} bytes)"
