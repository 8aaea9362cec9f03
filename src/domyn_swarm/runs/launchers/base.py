"""The launcher protocol: a module with these functions, registered under the group `domyn_swarm.launchers`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import msgspec

from domyn_swarm.checkpoint import records
from domyn_swarm.checkpoint.submission import Placement  # noqa: TC001 - msgspec evaluates the annotations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FLUSH_SECONDS = 30.0
"""Seconds that a run has to write finished rows after its grace period, before it is killed."""

Handle = dict[str, Any]
"""What a launcher needs to identify a run, as plain data."""


T = TypeVar("T")


def handle_as(handle: Mapping[str, Any], kind: type[T]) -> T:
    """Validate a handle, which was read from a file that may have been changed.

    Raises:
        UnreadableRecordError: it is invalid.
    """
    return records.converted(dict(handle), kind, "The handle in submission.json")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A run to start: `python -m domyn_swarm.jobs.run <spec>` in `folder`, with its output appended to `log`.

    `spec` is the path of its `spec.json`, which has absolute paths and no secrets; `job` is that spec's job. `name` is
    the run's name. When it is asked to stop, its calls in flight have `grace` seconds.
    """

    name: str
    job: str
    spec: str
    log: str
    folder: str
    placement: Placement
    grace: float = 5.0


class LauncherStatus(msgspec.Struct, frozen=True):
    """A run's status according to its launcher: `gone` when it has ended; `unknown` when the launcher does not respond.

    `detail` is text to show: the launcher's own name for the state, or why it is unknown (`PENDING (Resources)`, `exit
    status 2`). `exit_status` is that of the driver when it has ended and the launcher knows it: it distinguishes a run
    that failed at its start from one that was lost.
    """

    state: Literal["pending", "running", "gone", "unknown"]
    detail: str = ""
    exit_status: int | None = None


class Launcher(Protocol):
    """Starts, queries and cancels runs on one kind of target."""

    name: str
    """The value of `--run-on` that selects it."""

    near: bool
    """Whether runs reach the endpoint exactly as this machine does, so that it can be checked before submission."""

    def check(self, placement: Placement) -> Placement:
        """Check, before anything is written, that runs can be started; return the placement to store for a resume.

        Values from the current environment (a cluster's address) are resolved in it.

        Raises:
            ConfigurationError: a program is missing, an option is invalid, or the target does not respond.
        """

    def shown(self, launch: Launch) -> str:
        """The command line or script that would be submitted, for `--dry-run`."""

    def start(self, launch: Launch) -> Handle:
        """Start the run; return as soon as the target has accepted it.

        Raises:
            JobError: the target rejected it.
        """

    def ask(self, handle: Mapping[str, Any]) -> LauncherStatus:
        """Query the run's status. Never raises when the target does not respond: then it is `unknown`.

        Raises:
            UnreadableRecordError: the handle is invalid (`handle_as`).
        """

    def cancel(self, handle: Mapping[str, Any], grace: float) -> None:
        """Ask the run to flush and exit (SIGTERM), and kill it if it does not.

        After `grace` seconds it is asked to drop its calls in flight (SIGTERM again). It is killed if it has not
        written its finished rows in FLUSH_SECONDS more.

        Returns when the run has ended, at once if it had already.

        Raises:
            JobError: the run cannot be cancelled.
        """

    def log(self, handle: Mapping[str, Any], path: str, *, follow: bool) -> Iterator[str]:
        """The run's log, in pieces; with `follow`, until the run has ended.

        `path` is the `log` of the run's Launch.
        """
