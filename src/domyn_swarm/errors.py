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

A message says what is wrong and which value was received; the hint says how to fix it. API keys are masked in both.
Errors can be pickled (worker processes).
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from domyn_swarm.masking import masked

if TYPE_CHECKING:
    from types import TracebackType

Condition: TypeAlias = Literal["", "busy", "spent"]
"""A cause outside the request: "busy" for a rate limit or an overload, "spent" when no credit is left."""

_OURS = ("domyn_swarm", "domyn_dags", "hamilton")


class SwarmError(Exception):
    """Base class. `str()` gives the message and then the hint."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        message, hint = masked(message), masked(hint)
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def _render_traceback_(self) -> list[str]:
        """Called by IPython: shows message and hint, with a traceback only for errors in user code."""
        cause = self.__cause__
        theirs = beyond_ours(cause) if isinstance(cause, Exception) and not isinstance(cause, SwarmError) else None
        name, text = type(self).__name__, str(self)
        headline = text if text.startswith(name) else f"{name}: {text}"
        return [headline, *(line.rstrip("\n") for line in traceback.format_tb(theirs))]


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


class MissingDependencyError(ConfigurationError):
    """A package that the selected backend or feature needs is not installed."""


class DataError(SwarmError):
    """The input is invalid: unreadable, columns missing, ids not unique."""

    exit_status = 2


class CheckpointError(SwarmError):
    """The run's folder cannot be used: another process is writing to it, or it belongs to a different job."""

    exit_status = 2


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

    def __init__(
        self,
        message: str,
        hint: str = "",
        status: int = 0,
        retryable: bool = True,
        retry_after: float | None = None,
        overload: bool = False,
        condition: Condition = "",
    ) -> None:
        super().__init__(message, hint)
        self.args = (self.message, self.hint, status, retryable, retry_after, overload, condition)
        self.status = status
        self.retryable = retryable
        self.retry_after = retry_after
        self.overload = overload
        self.condition = condition


class JobError(SwarmError):
    """The run failed before its end. Flushed rows are kept."""


class ConditionError(JobError):
    """The run ended because every row would fail the same way, for example on a spent quota or a full disk.

    It is never recorded as a row's failure and never counts as an attempt. Flushed rows are kept; once the cause is
    fixed, the same command resumes the run.
    """


class OutputConflictError(JobError):
    """The output cannot be moved to `path`, because something changed there since it was checked before the run.

    `run` names the run. `beside` is the path where its output is kept instead; empty until it has been written.
    """

    def __init__(self, message: str, hint: str = "", path: str = "", run: str = "", beside: str = "") -> None:
        super().__init__(message, hint)
        self.args = (self.message, self.hint, path, run, beside)
        self.path, self.run, self.beside = path, run, beside

    def keeping(self, beside: str) -> OutputConflictError:
        """This error, with the path `beside` where the output is kept."""
        message = f"{self.message} This run's output was written to {beside}."
        return OutputConflictError(message, self.hint, self.path, self.run, beside)


class Interrupted(SwarmError):  # noqa: N818 - named for what happened, like KeyboardInterrupt
    """The run was asked to stop and did. Flushed rows are kept."""

    exit_status = 130


class TimeUp(Interrupted):
    """The run stopped because a batch system announced its time limit. Flushed rows are kept and it can be resumed."""

    exit_status = 124
