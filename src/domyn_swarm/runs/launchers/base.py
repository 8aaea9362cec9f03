"""What a launcher has to have: a module of these functions, registered under `domyn_swarm.launchers`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import msgspec

from domyn_swarm.checkpoint import records
from domyn_swarm.checkpoint.submission import Placement  # noqa: TC001 - msgspec evaluates the annotations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FLUSH_SECONDS = 30.0
"""What a run has to write down what finished, once no call is waited for any more, before it is killed."""

Handle = dict[str, Any]
"""What a launcher needs to find a run again, as plain data."""


T = TypeVar("T")


def handle_as(handle: Mapping[str, Any], kind: type[T]) -> T:
    """A handle as what its launcher has made it: it comes from a file, which may have been changed.

    Raises:
        UnreadableRecordError: it is not.
    """
    return records.converted(dict(handle), kind, "The handle in submission.json")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A run to be sent: `python -m domyn_swarm.jobs.run <spec>`, from `folder`, with what it prints added to `log`.

    `spec` is the path of its `spec.json`, whose paths are absolute and which holds no secrets; `job` is that spec's
    job. `name` is the run's. Once it is asked to end, its calls in flight have `grace` seconds.
    """

    name: str
    job: str
    spec: str
    log: str
    folder: str
    placement: Placement
    grace: float = 5.0


class Answer(msgspec.Struct, frozen=True):
    """What a place says of a run: `gone` when it ended there, in whatever way; `unknown` when the place is silent.

    `detail` is what the place calls it, or why it says nothing (`PENDING (Resources)`, `exit status 2`), to be shown.
    `exit_status` is that of the driver, where it is gone and the place knows it: it tells a run that refused to begin
    from one that was lost.
    """

    state: Literal["pending", "running", "gone", "unknown"]
    detail: str = ""
    exit_status: int | None = None


class Launcher(Protocol):
    """A place where runs go on."""

    name: str
    """What `--run-on` calls it."""

    near: bool
    """Whether it reaches the endpoint just as this machine does, so that a dead one is refused before a run is sent."""

    def check(self, placement: Placement) -> Placement:
        """Make sure, before anything is written, that runs can be sent there; the placement to remember for a resume.

        What only the environment of this moment says (a cluster's address) is settled in it.

        Raises:
            ConfigurationError: a program is missing, an option cannot work, the place is silent.
        """

    def shown(self, launch: Launch) -> str:
        """What would be sent, for `--dry-run`: a command line, or a script."""

    def start(self, launch: Launch) -> Handle:
        """Send it; return as soon as the place has taken it.

        Raises:
            JobError: the place did not take it.
        """

    def ask(self, handle: Mapping[str, Any]) -> Answer:
        """Ask the place what has become of the run. Silence is an answer, too.

        Raises:
            UnreadableRecordError: the handle is none of this launcher's (`handle_as`).
        """

    def cancel(self, handle: Mapping[str, Any], grace: float) -> None:
        """Ask the run to flush and end (SIGTERM), and see to it that it does.

        After `grace` seconds it is told to drop its calls in flight (SIGTERM again). It is ended by force if it has
        not written what finished in FLUSH_SECONDS more.

        Returns when it is gone; a run that is gone already is none of its business.

        Raises:
            JobError: the place does not do it.
        """

    def log(self, handle: Mapping[str, Any], path: str, *, follow: bool) -> Iterator[str]:
        """What the run has printed, in pieces; with `follow`, more as it comes, until the run is gone.

        `path` is where the run's log was asked to be.
        """
