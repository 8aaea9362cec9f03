"""What was asked of a run, where it was sent and how it is reached there: `submission.json` in the run's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from domyn_swarm.checkpoint import records
from domyn_swarm.checkpoint.records import PlainName, Text, check_moment
from domyn_swarm.declared import PLACEMENT
from domyn_swarm.redaction import public_text, public_words

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.folder import RunFolder

FILE = "submission.json"
LOG = "log.txt"


class LaunchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that say where a run executes, rather than what it does. Declared like those of the JobSpec."""

    detach: Annotated[
        bool,
        PLACEMENT.option(
            "--detach/--no-detach", help="Run in the background and return; the log is in the run's folder"
        ),
    ] = False
    run_on: Annotated[
        str,
        PLACEMENT.option(
            "--run-on", help="Where to run: local, slurm or ray; slurm and ray imply --detach", metavar="LAUNCHER"
        ),
    ] = "local"
    job_name: Annotated[
        str | None, PLACEMENT.option("--job-name", help="Name of the run (default: the output's name)", metavar="NAME")
    ] = None
    slurm_args: Annotated[
        str,
        PLACEMENT.option(
            "--slurm-args", help="Options for sbatch, as one string: '--time=2:00:00 --partition=cpu'", metavar="ARGS"
        ),
    ] = ""
    requeue: Annotated[
        bool,
        PLACEMENT.option("--requeue/--no-requeue", help="On Slurm, requeue the run at its time limit until it is done"),
    ] = False


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run executes, and how: what a resume repeats. It holds no secrets."""

    run_on: PlainName = "local"
    slurm_args: Text = ""
    requeue: bool = False
    ray_address: Annotated[str, msgspec.Meta(pattern=r"\A[\x21-\x7e]{1,2000}\Z")] | None = None

    @property
    def public(self) -> Placement:
        """The same, as it is written down."""
        return msgspec.structs.replace(
            self, slurm_args=public_words(self.slurm_args), ray_address=public_text(self.ray_address)
        )


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was sent somewhere.

    `handle` is what its launcher needs to find it again (a process, a job's id), as plain data; None while it is being
    sent. `number` is the lowest number that the run can have in `run.json`. `cancelled` is when somebody asked for its
    end.
    """

    name: PlainName
    placement: Placement
    number: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    submitted: Text
    host: Text
    folder: Text
    log: Text
    handle: dict[str, Any] | None = None
    cancelled: Text | None = None

    def __post_init__(self) -> None:
        for moment in (self.submitted, self.cancelled):
            if moment is not None:
                check_moment(moment)

    def save(self, folder: RunFolder) -> None:
        """Write it into the run's folder."""
        folder.save(FILE, self)

    @classmethod
    def read(cls, folder: RunFolder) -> Submission | None:
        """The newest submission of the run in `folder`; None when it was never sent anywhere.

        Raises:
            UnreadableRecordError: it is there, and cannot be read.
        """
        return records.read(folder, FILE, cls)

    @classmethod
    def load(cls, folder: RunFolder) -> Submission | None:
        """As `read`; None, too, when it cannot be read."""
        return records.load(folder, FILE, cls)
