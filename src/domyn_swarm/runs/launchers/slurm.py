"""Runs on a Slurm cluster: one batch job each, which every cluster's own commands submit, ask and end.

Libraries for it were considered. submitit pickles a function, and keeps job files, states and a protocol for requeueing
of its own; a run has all of this in its folder, and there would be two truths. simple-slurm words `#SBATCH` lines, of
which there are six here.

The script becomes the driver (`exec`), so there is no shell to pass signals on: Slurm's warning that time is up (`B:`,
to the batch process alone), a cancel of ours, and somebody's `scancel`, to all processes, reach it once each.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from domyn_swarm.errors import ConfigurationError, JobError, TimeUp
from domyn_swarm.runs.launchers.base import FLUSH_SECONDS, Answer, Handle, Launch, handle_as
from domyn_swarm.runs.launchers.tail import followed, make_log

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from domyn_swarm.checkpoint.submission import Placement

name = "slurm"
near = False

COMMANDS = ("sbatch", "scontrol", "scancel")
LEAD_SECONDS = 120
"""How long before its time limit a run is told. It needs some seconds for the calls in flight and the last part; the
rest is for slow filesystems, and for an output that is being written. Slurm itself is up to a minute early."""
SUBMIT_SECONDS = 120.0
TALK_SECONDS = 30.0
ASK_SECONDS = 5.0
REST_SECONDS = 3.0
"""For which what the controller has said is taken for true: it has others to serve."""
POLL_SECONDS = 0.5
FORCE_SECONDS = 300.0
"""Most time for Slurm to end by force what was cancelled (KillWait, and what a cluster does after a job)."""

_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
_OURS = {
    "array": "a run is one job; give several runs names and outputs of their own",
    "chdir": "a run goes on from the folder of the command",
    "error": "the log is the run's (`domyn-swarm job logs`)",
    "open-mode": "the log is the run's (`domyn-swarm job logs`)",
    "output": "the log is the run's (`domyn-swarm job logs`)",
    "parsable": "it is there already",
    "test-only": "--dry-run shows what would be sent",
    "wait": "`domyn-swarm job wait` does it",
    "wrap": "the script is the run's",
}
"""Long options of sbatch that cannot be given, and why."""
_NOT_STARTED = "53"
"""What Slurm calls the signal that ended a job which never began."""
_SHORT = {"a": "array", "D": "chdir", "e": "error", "o": "output", "W": "wait"}
_OVERRIDING = ("SBATCH_ARRAY_INX", "SBATCH_ERROR", "SBATCH_OPEN_MODE", "SBATCH_OUTPUT", "SBATCH_WAIT")
"""Variables with which sbatch would overrule the script in what is not the user's to choose."""


class _Handle(msgspec.Struct, frozen=True):
    """The job's number, and its cluster where that is another than this machine's."""

    job: Annotated[int, msgspec.Meta(gt=0, lt=2**32)]
    cluster: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")] | None = None


_ANSWERS: dict[_Handle, tuple[Answer, float]] = {}
"""What was said last, and when."""


def check(placement: Placement) -> Placement:
    """Look at what can be known without a submission.

    Raises:
        ConfigurationError: Slurm's commands are not here, or --slurm-args holds what cannot be given.
    """
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        raise ConfigurationError(
            f"--run-on slurm: {missing[0]} is not on the PATH.",
            "Give the command on a machine from which jobs are submitted to Slurm (a login node).",
        )
    _arguments(placement)
    return placement


def _arguments(placement: Placement) -> list[str]:
    try:
        words = shlex.split(placement.slurm_args)
    except ValueError as error:
        raise ConfigurationError(f"--slurm-args: {placement.slurm_args!r} cannot be split: {error}.") from None
    for word in words:
        long = word.removeprefix("--").partition("=")[0] if word.startswith("--") else _SHORT.get(word[1:2], "")
        given = word.startswith("-") and long and next((option for option in _OURS if option.startswith(long)), None)
        if given and (long == given or len(long) > 2):  # sbatch takes what is long enough to mean one option alone
            raise ConfigurationError(f"--slurm-args: {word} cannot be given: {_OURS[given]}.", "Leave it out.")
    if (found := re.search(r"--signal[= ]([^B\s]\S*)", " ".join(words))) and "B:" not in found[1]:
        raise ConfigurationError(
            f"--slurm-args: {found[0]} would not reach the run, which is the batch script itself.",
            f"Write --signal=B:{found[1].removeprefix('R:')}",
        )
    return words


def shown(launch: Launch) -> str:
    """The command with its script, as one could type it."""
    public = msgspec.structs.replace(launch, placement=launch.placement.public)
    return f"{shlex.join(_command(public))} <<'END'\n{_script(public)}END\n"


def _command(launch: Launch) -> list[str]:
    """What users give wins on the command line over variables and the script."""
    return ["sbatch", "--parsable", *_arguments(launch.placement)]


def _script(launch: Launch) -> str:
    """The batch script.

    Raises:
        ConfigurationError: a path would not stay within its line.
    """
    for path in (launch.log, launch.folder, launch.spec):
        if not path.isprintable():
            raise ConfigurationError(
                f"--run-on slurm: {path!r} holds a line break or a control character, which no line of a batch script "
                "can hold.",
                "Rename the folder, or give another --checkpoint-dir.",
            )
    requeue = launch.placement.requeue
    options = {
        "job-name": launch.name, "output": launch.log.replace("%", "%%"), "open-mode": "append",
        "chdir": launch.folder, "signal": f"B:USR1@{LEAD_SECONDS}",
    }  # fmt: skip
    driver = shlex.join([sys.executable, "-P", "-u", "-m", "domyn_swarm.jobs.run", launch.spec])
    return "\n".join([
        "#!/bin/bash",
        *(f"#SBATCH --{option}={_quoted(value)}" for option, value in options.items()),
        f"#SBATCH --{'' if requeue else 'no-'}requeue",
        "",
        "trap '' USR1  # until the run listens",
        f"exec {driver} ${{SLURM_RESTART_COUNT:+--resume}}{_REQUEUE if requeue else ''}",
        "",
    ])  # fmt: skip


_REQUEUE = r''' \
  --when-time-is-up "scontrol show job $SLURM_JOB_ID | grep -qE 'JobState=(RUNNING|SIGNALING)|Reason=TimeLimit' &&
    scontrol requeue $SLURM_JOB_ID"'''
"""Slurm would take a job back that was cancelled, too, if it were only asked to."""


def _quoted(value: str) -> str:
    """As sbatch reads its lines: like a shell, but that a backslash counts between quotes, too."""
    return shlex.quote(value.replace("\\", "\\\\"))


def start(launch: Launch) -> Handle:
    """Submit the script.

    Raises:
        ConfigurationError: sbatch refuses it, and says why.
    """
    script = _script(launch)
    make_log(launch.log)
    environment = {variable: value for variable, value in os.environ.items() if variable not in _OVERRIDING}
    environment.pop("SLURM_RESTART_COUNT", None)  # of a job that this is submitted from
    said = _run(_command(launch), script, environment, SUBMIT_SECONDS)
    job, _, cluster = said.out.strip().rpartition("\n")[2].partition(";")
    if said.status != 0 or not job.isdigit():
        raise ConfigurationError(
            f"sbatch refuses the run: {said.reason}", "Mend --slurm-args, or what it says, and submit the run again."
        )
    found: Handle = msgspec.to_builtins(_Handle(int(job), cluster or None))
    return found


def ask(handle: Mapping[str, Any]) -> Answer:
    """Ask the controller, which knows jobs for some minutes after their end; then the accounting, if there is any.

    Whoever waits asks often; the controller is asked only now and then.
    """
    job = handle_as(handle, _Handle)
    answer, since = _ANSWERS.get(job, (Answer("unknown"), 0.0))
    if answer.state not in ("pending", "running") or time.monotonic() - since > REST_SECONDS:
        answer = _asked(job)
    return answer


def _asked(job: _Handle, seconds: float = ASK_SECONDS) -> Answer:
    answer = _told(job, seconds)
    _ANSWERS[job] = (answer, time.monotonic())
    return answer


def _told(job: _Handle, seconds: float) -> Answer:
    said = _scontrol(job, "--oneliner", "show", "job", str(job.job), seconds=seconds)
    if said.status == 0:
        return _answer(dict(reversed(re.findall(r"(\w+)=(\S*)", said.out))))  # what users word comes after Slurm's own
    if "Invalid job id" not in said.reason:
        return Answer("unknown", said.reason)
    fields = "State,ExitCode"
    told = _run(["sacct", *_where(job), "-n", "-P", "-X", "-j", str(job.job), "-o", fields], seconds=seconds)
    state, _, status = told.out.strip().rpartition("\n")[2].partition("|")
    answer = _answer({"JobState": state.partition(" ")[0], "ExitCode": status})
    # What the accounting says of a job that goes on counts for nothing, if the controller knows of none.
    return answer if told.status == 0 and answer.state == "gone" else Answer("gone", "Slurm has forgotten it")


def _answer(told: Mapping[str, str]) -> Answer:
    state, reason, nodes = told.get("JobState", ""), told.get("Reason", ""), told.get("NodeList", "")
    if state in _PENDING:
        return Answer("pending", f"{state} ({reason})" if reason not in ("", "None") else state)
    if state in _RUNNING:
        return Answer("running", f"{state} on {nodes}" if nodes not in ("", "(null)") else state)
    status, _, number = told.get("ExitCode", "").partition(":")
    if not state or not status.isdigit():
        return Answer("unknown", "Slurm tells no state")
    if number == _NOT_STARTED:
        return Answer("gone", f"{state}: {nodes} could not open the run's log, or its folder: are they shared?")
    if number not in ("", "0"):
        return Answer("gone", f"{state}, signal {number}")
    time_up = "time was up: " if int(status) == TimeUp.exit_status else ""
    return Answer("gone", f"{time_up}{state}, exit status {status}", int(status))


def cancel(handle: Mapping[str, Any], grace: float) -> None:
    """Take it out of the queue; if it runs, let it flush, and have Slurm end it when that takes too long.

    Raises:
        JobError: Slurm does not answer, or does not do it.
    """
    job = handle_as(handle, _Handle)
    _scontrol(job, "update", f"JobId={job.job}", "Requeue=0")  # neither its own end nor a node's takes it back
    _scancel(job, "--state=PENDING")
    for seconds in (grace, FLUSH_SECONDS):
        _scancel(job, "--batch", "--signal=TERM")
        if _gone_within(job, seconds):
            break
    else:
        _scancel(job)
        if not _gone_within(job, FORCE_SECONDS):
            raise JobError(f"Slurm does not end job {job.job}.", "`scontrol show job` tells its state.")


def _scancel(job: _Handle, *options: str) -> None:
    """What is gone, or in another state than is meant, is left alone."""
    said = _run(["scancel", *_where(job), *options, str(job.job)])
    meant = said.status == 0 or any(text in said.reason for text in ("Invalid job id", "already", "try again later"))
    if not meant:
        raise JobError(f"scancel fails: {said.reason}", f"Give it by hand: scancel {job.job}")


def _gone_within(job: _Handle, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (answer := _asked(job, TALK_SECONDS)).state != "gone":
        if answer.state == "unknown":
            raise JobError(f"Slurm does not answer: {answer.detail}", "Cancel again when it does.")
        if answer.state == "pending":  # it was on its way back into the queue
            _scancel(job, "--state=PENDING")
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def log(handle: Mapping[str, Any], path: str, *, follow: bool) -> Iterator[str]:
    """The log, which is on a filesystem that this machine shares with the nodes."""
    return followed(path, lambda: not follow or ask(handle).state == "gone")


class _Said(msgspec.Struct, frozen=True):
    """How a command of Slurm's ended."""

    status: int
    out: str
    reason: str


def _where(job: _Handle) -> list[str]:
    return [f"--clusters={job.cluster}"] if job.cluster else []


def _scontrol(job: _Handle, *arguments: str, seconds: float = TALK_SECONDS) -> _Said:
    return _run(["scontrol", *_where(job), *arguments], seconds=seconds)


def _run(
    command: list[str],
    script: str = "",
    environment: Mapping[str, str] | None = None,
    seconds: float = TALK_SECONDS,
) -> _Said:
    try:
        done = subprocess.run(  # noqa: S603 - Slurm's own commands
            command, check=False, capture_output=True, text=True, errors="replace", input=script, timeout=seconds,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return _Said(1, "", f"{command[0]} has not answered for {seconds:.0f} s")
    except OSError as error:
        return _Said(1, "", f"{command[0]}: {error.strerror}")
    lines = [re.sub(r"^\w+: (error: )?", "", line) for line in done.stderr.strip().splitlines()]
    return _Said(done.returncode, done.stdout, "; ".join(lines) or f"{command[0]} ended with {done.returncode}")
