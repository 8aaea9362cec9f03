"""What was asked of a run, where it was sent and how it is reached there: `submission.json` in the run's folder."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.folder import RunFolder

FILE = "submission.json"
LOG = "log.txt"


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run goes on, and how: what a resume repeats. It holds no secrets."""

    run_on: str = "local"
    slurm_args: str = ""
    requeue: bool = False
    ray_address: str | None = None


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was sent somewhere.

    `handle` is what its launcher needs to find it again (a process, a job's id), as plain data; None while it is being
    sent. `number` is the lowest number that the run can have in `run.json`. `cancelled` is when somebody asked for its
    end.
    """

    name: str
    placement: Placement
    number: int
    submitted: str
    host: str
    folder: str
    log: str
    handle: dict[str, Any] | None = None
    cancelled: str | None = None

    def save(self, folder: RunFolder) -> None:
        """Write it into the run's folder."""
        folder.save(FILE, self)

    @classmethod
    def load(cls, folder: RunFolder) -> Submission | None:
        """The newest submission of the run in `folder`; None when it was never sent anywhere."""
        with contextlib.suppress(msgspec.ValidationError):
            found = folder.load(FILE)
            return None if found is None else msgspec.convert(found, cls)
        return None
