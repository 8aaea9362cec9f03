"""The errors that domyn-swarm raises.

    SwarmError                  base class; `exit_status` is the exit status of the command line
    ├── ConfigurationError      a flag, option or job that cannot work; nothing was written
    │   └── MissingDependencyError   the chosen backend or feature needs a package that is not installed
    ├── DataError               an input that cannot be used; nothing was written
    ├── CheckpointError         a run's folder that is locked, or belongs to another job
    ├── EndpointError           a failed request to an endpoint; `retryable` says whether a retry can succeed
    ├── JobError                the run failed before its end; flushed rows are kept for a resume
    │   ├── DamagedPartError    a part cannot be read; defined, and usually handled, in `checkpoint.part`
    │   ├── LockLostError       another process has taken over the run's folder; defined in `checkpoint.lock`
    │   ├── ConditionError      every row would fail the same way: no credit, an endpoint that is down
    │   │   └── ExhaustedError      the process has run out of files, memory or disk; defined in `concurrency.resources`
    │   └── OutputConflictError the output path changed during the run; the new output is kept under another name
    └── Interrupted             the run was asked to stop; flushed rows are kept as for JobError
        └── TimeUp              by a batch system, because its time limit was reached

An error is data: a stable `code`, the option, column, path, row or step concerned, a message and a hint. The message
says what is wrong and which value was received; the hint says how to fix it. Both mention options with `opt`, and each
edge (`domyn_swarm.edges`) writes them for its users: `--id-column` on the command line, `id_column=` in Python. API
keys are masked in both. Errors can be pickled (worker processes).
"""

from __future__ import annotations

import json
import re
import traceback
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, TypedDict, Unpack

from domyn_swarm.masking import masked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

Condition: TypeAlias = Literal["", "busy", "spent"]
"""A cause outside the request: "busy" for a rate limit or an overload, "spent" when no credit is left."""

_OURS = ("domyn_swarm", "domyn_dags", "hamilton")
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
"""Around a mention in a text. Unicode reserves these noncharacters for use inside a program, so no text holds them."""
_MENTION = re.compile(f"{_OPEN}([^{_CLOSE}=]*)(?:=([^{_CLOSE}]*))?{_CLOSE}")


def opt(name: str, value: bool | float | str | None = None) -> str:
    """A mention of an option, or of an option set to `value`, for use in the message or hint of an error.

    `name` is its name in Python: `f"Leave {opt('id_column')} out, or use {opt('resume', False)}."`
    """
    return f"{_OPEN}{name}{_CLOSE}" if value is None else f"{_OPEN}{name}={json.dumps(value)}{_CLOSE}"


AGAIN = opt("")
"""A mention of running the same thing once more, at the beginning of a sentence: `f"{AGAIN} to resume."`"""


class Edge:
    """How users write options. This one is for Python: `id_column=`, `resume=False`."""

    again = "Run it again"

    def option(self, name: str, value: object = None) -> str:
        """An option in running text; with a `value`, as one sets it."""
        return name if name.isupper() else f"{name}={'' if value is None else repr(value)}"

    def subject(self, name: str) -> str:
        """The option that a message is about, in front of the message and a colon."""
        return name


PYTHON = Edge()


def render(text: str, edge: Edge) -> str:
    """`text` with its mentions as `edge` writes them."""

    def written(found: re.Match[str]) -> str:
        if not found[1]:
            return edge.again
        return edge.option(found[1], None if found[2] is None else json.loads(found[2]))

    return _MENTION.sub(written, text) if _OPEN in text else text


class About(TypedDict, total=False):
    """What an error is about, as far as it applies."""

    code: str
    option: str
    column: str
    choices: tuple[str, ...]
    path: str
    row: int | str
    step: str


class SwarmError(Exception):
    """Base class. `str()` gives the message and then the hint, with options as in Python.

    Attributes:
        code: What is wrong, as a stable name: `id.duplicate`. See the reference for all of them.
        option: The option that is wrong, by its name in Python; it precedes the message.
        column: The column concerned.
        choices: The values that are possible instead.
        path: The file or folder concerned.
        row: The row concerned: its number, counted from 0, or its id.
        step: The node or method concerned.
        given_in: For options from option files, the file that each was read from.
        text: The message before its mentions of options are rendered. To be used in another error's message.
        advice: The hint, likewise.
    """

    exit_status: ClassVar[int] = 1
    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, hint: str = "", **about: Unpack[About]) -> None:
        message, hint = masked(message), masked(hint)
        super().__init__(message, hint)
        self.text, self.advice = message, hint
        self.code = about.get("code", self.default_code)
        self.option = about.get("option", "")
        self.column = masked(about.get("column", ""))
        self.choices = tuple(map(masked, about.get("choices", ())))
        self.path = masked(about.get("path", ""))
        row = about.get("row")
        self.row = masked(row) if isinstance(row, str) else row
        self.step = about.get("step", "")
        self.given_in: Mapping[str, str] = {}

    @property
    def message(self) -> str:
        """What is wrong, with options as in Python."""
        return self.rendered(PYTHON)[0]

    @property
    def hint(self) -> str:
        """How to fix it, with options as in Python; empty when there is nothing to say."""
        return self.rendered(PYTHON)[1]

    def rendered(self, edge: Edge) -> tuple[str, str]:
        """Message and hint for the users of `edge`. The option precedes a message that does not mention it."""
        message, hint = render(self.text, edge), render(self.advice, edge)
        mentioned = not self.option or any(found[1] == self.option for found in _MENTION.finditer(self.text))
        return message if mentioned else f"{edge.subject(self.option)}: {message}", hint

    def shown(self, edge: Edge) -> str:
        """Message and hint as one text for the users of `edge`."""
        return "\n".join(filter(None, self.rendered(edge)))

    def advise(self, advice: str) -> None:
        """Add `advice` to the hint: what whoever passes the error on knows, for example what is kept."""
        self.advice = "\n".join(filter(None, [self.advice, masked(advice)]))

    @property
    def about(self) -> About:
        """What the error is about, as far as it applies: for another error, or as JSON."""
        values = {name: getattr(self, name) for name in About.__annotations__}
        return {name: value for name, value in values.items() if value not in ("", (), None)}  # type: ignore[return-value]

    def __str__(self) -> str:
        return self.shown(PYTHON)

    def _render_traceback_(self) -> list[str]:
        """Called by IPython: shows message and hint, with a traceback only for errors in user code."""
        cause = self.__cause__
        theirs = beyond_ours(cause) if isinstance(cause, Exception) and not isinstance(cause, SwarmError) else None
        return [f"{type(self).__name__}: {self}", *(line.rstrip("\n") for line in traceback.format_tb(theirs))]


def beyond_ours(error: BaseException) -> TracebackType | None:
    """The part of the traceback after the last frame of this package; None when this package raised the error."""
    frames = left = error.__traceback__
    while left is not None:
        if left.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
            frames = left.tb_next
        left = left.tb_next
    return frames


class ConfigurationError(SwarmError):
    """A flag, an option or a job class is invalid."""

    exit_status = 2
    default_code = "configuration"


class MissingDependencyError(ConfigurationError):
    """A package that the selected backend or feature needs is not installed. `command` installs it; it can be empty."""

    default_code = "dependency"

    def __init__(self, message: str, hint: str = "", command: str = "", **about: Unpack[About]) -> None:
        super().__init__(message, hint or (f"Install it: {command}" if command else ""), **about)
        self.args = (self.text, self.advice, command)
        self.command = command


class DataError(SwarmError):
    """The input is invalid: unreadable, columns missing, ids not unique."""

    exit_status = 2
    default_code = "input"


class CheckpointError(SwarmError):
    """The run's folder cannot be used: another process is writing to it, or it belongs to a different job."""

    exit_status = 2
    default_code = "checkpoint"


class EndpointError(SwarmError):
    """A request failed.

    Attributes:
        status: The HTTP status; 0 when no response was received.
        retryable: Whether a retry can succeed.
        attempts: How often the request was sent.
        retry_after: Seconds that the endpoint asked to wait; None when it did not say.
        overload: Whether the endpoint rejected the request because of its load.
        condition: "busy" for a rate limit or an overload, "spent" when no credit is left. In both cases the cause is
            not the request itself.
    """

    attempts = 1
    default_code = "endpoint"

    def __init__(
        self,
        message: str,
        hint: str = "",
        status: int = 0,
        retryable: bool = True,
        retry_after: float | None = None,
        overload: bool = False,
        condition: Condition = "",
        **about: Unpack[About],
    ) -> None:
        super().__init__(message, hint, **about)
        self.args = (self.text, self.advice, status, retryable, retry_after, overload, condition)
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after
        self.overload = overload
        self.condition = condition


class JobError(SwarmError):
    """The run failed before its end. Flushed rows are kept."""

    default_code = "run"


class ConditionError(JobError):
    """The run ended because every row would fail the same way, for example on a spent quota or a full disk.

    It is never recorded as a row's failure and never counts as an attempt. Flushed rows are kept; once the cause is
    fixed, the same command resumes the run.
    """

    default_code = "condition"


class OutputConflictError(JobError):
    """The output cannot be moved to `path`, because something changed there since it was checked before the run.

    `run` names the run. `beside` is the path where its output is kept instead; empty until it has been written.
    """

    default_code = "output.conflict"

    def __init__(
        self, message: str, hint: str = "", path: str = "", run: str = "", beside: str = "", option: str = ""
    ) -> None:
        super().__init__(message, hint, option=option, path=path)
        self.args = (self.text, self.advice, path, run, beside, option)
        self.run, self.beside = run, beside

    def keeping(self, beside: str) -> OutputConflictError:
        """This error, with the path `beside` where the output is kept."""
        text = f"{self.text} This run's output was written to {beside}."
        return OutputConflictError(text, self.advice, self.path, self.run, beside, self.option)


class Interrupted(SwarmError):  # noqa: N818 - named for what happened, like KeyboardInterrupt
    """The run was asked to stop and did. Flushed rows are kept."""

    exit_status = 130
    default_code = "interrupted"


class TimeUp(Interrupted):
    """The run stopped because a batch system announced its time limit. Flushed rows are kept and it can be resumed."""

    exit_status = 124
    default_code = "time_up"
