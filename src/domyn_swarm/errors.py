"""Every error that domyn-swarm raises on purpose.

    SwarmError                  anything below; `exit_status` is what the command line ends with
    ├── ConfigurationError      a flag, option or job that cannot work; nothing was written
    │   └── MissingDependencyError   the chosen backend or feature needs a package that is not installed
    ├── DataError               an input that cannot be used; nothing was written
    ├── CheckpointError         a run's folder that is locked, or belongs to another job
    ├── EndpointError           an endpoint's answer to one request; `retryable` tells whether asking again can help
    ├── JobError                the run broke in mid-way; what was flushed stays and a resume goes on from there
    │   ├── DamagedPartError    a part cannot be read; defined, and mostly mended, in `checkpoint.part`
    │   ├── LockLostError       another process has taken over the run's folder; defined in `checkpoint.lock`
    │   ├── ConditionError      what every row would meet: no credit, an endpoint gone
    │   │   └── ExhaustedError      the process has run out of files, memory or disk; defined in `helpers.resources`
    │   └── OutputConflictError what was checked before the run is not true any more; the output is kept beside
    └── Interrupted             the run was asked to stop; same promise as JobError
        └── TimeUp              by a batch system, because its time is up

A message says what was wrong and what it got; the hint says what to do. Neither shows a key, whatever they were made
from. Errors survive pickling (worker processes).
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from domyn_swarm.masking import masked

if TYPE_CHECKING:
    from types import TracebackType

Condition: TypeAlias = Literal["", "busy", "spent"]
"""What of a failure is not the request's: a rate limit or an overload, or that there is no credit."""

_OURS = ("domyn_swarm", "domyn_dags", "hamilton")


class SwarmError(Exception):
    """Base of all errors here. `str()` is the message, then the hint."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        message, hint = masked(message), masked(hint)
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: it says what to do, so there is nothing to trace, unless somebody's own code broke."""
        cause = self.__cause__
        theirs = beyond_ours(cause) if isinstance(cause, Exception) and not isinstance(cause, SwarmError) else None
        name, text = type(self).__name__, str(self)
        said = text if text.startswith(name) else f"{name}: {text}"
        return [said, *(line.rstrip("\n") for line in traceback.format_tb(theirs))]


def beyond_ours(error: BaseException) -> TracebackType | None:
    """The traceback of an error behind the last frame of this package; None when the error is of its own making."""
    frames = left = error.__traceback__
    while left is not None:
        if left.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
            frames = left.tb_next
        left = left.tb_next
    return frames


class ConfigurationError(SwarmError):
    """A flag, an option or a job class that cannot work as given."""

    exit_status = 2


class MissingDependencyError(ConfigurationError):
    """A package that the selected backend or feature needs is not installed."""


class DataError(SwarmError):
    """The input cannot be used as it is: unreadable, columns missing, ids not unique."""

    exit_status = 2


class CheckpointError(SwarmError):
    """The run's folder cannot be used: somebody else writes it, or it belongs to a different job."""

    exit_status = 2


class EndpointError(SwarmError):
    """A request failed. `status` is the HTTP status, 0 when no answer came; `attempts` is how often it was sent.

    `retry_after` is how many seconds the endpoint asked to be left alone, None when it did not say. `overload` tells
    that it was asked for too much. `condition` is "busy" for a rate limit or an overload, and "spent" where there is no
    credit: then the failure is not the request's.
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
    """The run broke in mid-way. Whatever was flushed is kept."""


class ConditionError(JobError):
    """The run ended because of a condition that every row would meet, such as a spent quota or a full disk.

    It is never a row's failure and never counts as one of its tries. Whatever was flushed is kept; once the condition
    is over, the same command resumes the run.
    """


class OutputConflictError(JobError):
    """The output cannot take its place: what was checked before the run is not true any more, at `path`.

    `run` names the run, and `beside` is where its output is kept; nothing until it is.
    """

    def __init__(self, message: str, hint: str = "", path: str = "", run: str = "", beside: str = "") -> None:
        super().__init__(message, hint)
        self.args = (self.message, self.hint, path, run, beside)
        self.path, self.run, self.beside = path, run, beside

    def keeping(self, beside: str) -> OutputConflictError:
        """The same, now that the output is kept at `beside`."""
        message = f"{self.message} What this run made is in {beside}."
        return OutputConflictError(message, self.hint, self.path, self.run, beside)


class Interrupted(SwarmError):  # noqa: N818 - named for what happened, like KeyboardInterrupt
    """The run was asked to stop, and did. Whatever was flushed is kept."""

    exit_status = 130


class TimeUp(Interrupted):
    """The run's time is up, as a batch system said shortly before. To go on is worth while: rows were finished."""

    exit_status = 124
