"""Launcher for Slurm: each run is one batch job, managed with Slurm's own commands.

Libraries were considered. submitit pickles a function and has its own job files, states and requeue protocol, which
would duplicate what the run keeps in its folder. simple-slurm formats `#SBATCH` lines, of which this module has six.

The script replaces itself with the driver (`exec`), so no shell has to forward signals. Slurm's warning before the time
limit (`B:`, only to the batch process), our own cancellation, and a user's `scancel` (to all processes) each reach the
driver once.
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

from domyn_swarm.errors import ConfigurationError, JobError, TimeUp, opt
from domyn_swarm.runs.launchers.base import FLUSH_SECONDS, Handle, Launch, LauncherStatus, handle_as
from domyn_swarm.runs.launchers.tail import follow_file, make_log

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from domyn_swarm.checkpoint.submission import Placement

name = "slurm"
near = False

COMMANDS = ("sbatch", "scontrol", "scancel")
LEAD_SECONDS = 120
"""How long before the time limit a run gets its signal. Calls in flight and the last part need some seconds; the rest
is for slow filesystems and for writing the output. Slurm itself may be up to a minute early."""
SUBMIT_SECONDS = 120.0
TALK_SECONDS = 30.0
ASK_SECONDS = 5.0
REST_SECONDS = 3.0
"""How long a response of the controller is cached, to limit its load."""
POLL_SECONDS = 0.5
FORCE_SECONDS = 300.0
"""Maximum time for Slurm to kill a cancelled job (KillWait and the cluster's epilog)."""

_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
_OURS = {
    "array": "a run is a single job; submit several runs with different outputs",
    "chdir": "a run uses the working directory of the command",
    "error": "the log is managed by the run (`domyn-swarm job logs`)",
    "open-mode": "the log is managed by the run (`domyn-swarm job logs`)",
    "output": "the log is managed by the run (`domyn-swarm job logs`)",
    "parsable": "it is always set",
    "test-only": f"use {opt('dry_run', True)} instead",
    "wait": "use `domyn-swarm job wait` instead",
    "wrap": "the run provides the script",
}
"""Long options of sbatch that are not allowed, and why."""
_NOT_STARTED = "53"
"""The signal that Slurm reports for a job that never started."""
_SHORT = {"a": "array", "D": "chdir", "e": "error", "o": "output", "W": "wait"}
_OVERRIDING = ("SBATCH_ARRAY_INX", "SBATCH_ERROR", "SBATCH_OPEN_MODE", "SBATCH_OUTPUT", "SBATCH_WAIT")
"""Environment variables of sbatch that would override fixed options of the script."""


class _Handle(msgspec.Struct, frozen=True):
    """The job's number, and its cluster when it differs from this machine's."""

    job: Annotated[int, msgspec.Meta(gt=0, lt=2**32)]
    cluster: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")] | None = None


_CACHE: dict[_Handle, tuple[LauncherStatus, float]] = {}
"""The latest responses, and when they were received."""


def check(placement: Placement) -> Placement:
    """Check what can be checked without submitting.

    Raises:
        ConfigurationError: Slurm's commands are missing, or --slurm-args contains an option that is not allowed.
    """
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        raise ConfigurationError(
            f"{missing[0]} is not on PATH.",
            "Run the command on a machine that submits jobs to Slurm (a login node).",
            code="launcher.missing",
            option="run_on",
        )
    _arguments(placement)
    return placement


def _arguments(placement: Placement) -> list[str]:
    try:
        words = shlex.split(placement.slurm_args)
    except ValueError as error:
        raise ConfigurationError(
            f"{placement.slurm_args!r} cannot be parsed: {error}.", code="slurm.arguments", option="slurm_args"
        ) from None
    for word in words:
        long = word.removeprefix("--").partition("=")[0] if word.startswith("--") else _SHORT.get(word[1:2], "")
        given = word.startswith("-") and long and next((option for option in _OURS if option.startswith(long)), None)
        if given and (long == given or len(long) > 2):  # sbatch accepts unambiguous prefixes
            raise ConfigurationError(
                f"{word} is not allowed: {_OURS[given]}.", "Remove it.", code="slurm.arguments", option="slurm_args"
            )
    if (found := re.search(r"--signal[= ]([^B\s]\S*)", " ".join(words))) and "B:" not in found[1]:
        raise ConfigurationError(
            f"{found[0]} does not signal the run, which is the batch script itself.",
            f"Use --signal=B:{found[1].removeprefix('R:')}",
            code="slurm.arguments",
            option="slurm_args",
        )
    return words


def shown(launch: Launch) -> str:
    """The command with its script, as it would be typed."""
    public = msgspec.structs.replace(launch, placement=launch.placement.public)
    return f"{shlex.join(_command(public))} <<'END'\n{_script(public)}END\n"


def _command(launch: Launch) -> list[str]:
    """User options go on the command line, where they override variables and the script."""
    return ["sbatch", "--parsable", *_arguments(launch.placement)]


def _script(launch: Launch) -> str:
    """The batch script.

    Raises:
        ConfigurationError: a path contains a line break.
    """
    for path in (launch.log, launch.folder, launch.spec):
        if not path.isprintable():
            raise ConfigurationError(
                f"{path!r} contains a line break or a control character, which a batch script cannot contain.",
                f"Rename the folder, or use another {opt('checkpoint_dir')}.",
                code="slurm.path",
                option="run_on",
                path=path,
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
        "trap '' USR1  # until the run handles it",
        f"exec {driver} ${{SLURM_RESTART_COUNT:+--resume}}{_REQUEUE if requeue else ''}",
        "",
    ])  # fmt: skip


_REQUEUE = r''' \
  --when-time-is-up "scontrol show job $SLURM_JOB_ID | grep -qE 'JobState=(RUNNING|SIGNALING)|Reason=TimeLimit' &&
    scontrol requeue $SLURM_JOB_ID"'''
"""The check prevents a requeue after a cancellation, which Slurm would accept."""


def _quoted(value: str) -> str:
    """Quoted for sbatch, which parses lines like a shell, except that backslashes also work within quotes."""
    return shlex.quote(value.replace("\\", "\\\\"))


def start(launch: Launch) -> Handle:
    """Submit the script.

    Raises:
        ConfigurationError: sbatch rejects it; the message has the reason.
    """
    script = _script(launch)
    make_log(launch.log)
    environment = {variable: value for variable, value in os.environ.items() if variable not in _OVERRIDING}
    environment.pop("SLURM_RESTART_COUNT", None)  # of a job that this command runs in
    result = _run(_command(launch), script, environment, SUBMIT_SECONDS)
    job, _, cluster = result.out.strip().rpartition("\n")[2].partition(";")
    if result.status != 0 or not job.isdigit():
        raise ConfigurationError(
            f"sbatch rejected the run: {result.reason}",
            f"Fix {opt('slurm_args')} or the reported problem, and submit the run again.",
            code="launcher.failed",
        )
    found: Handle = msgspec.to_builtins(_Handle(int(job), cluster or None))
    return found


def ask(handle: Mapping[str, Any]) -> LauncherStatus:
    """Query the controller, which keeps ended jobs for some minutes, and then the accounting, if it is enabled.

    Responses are cached for a moment, because `job wait` polls often.
    """
    job = handle_as(handle, _Handle)
    answer, since = _CACHE.get(job, (LauncherStatus("unknown"), 0.0))
    if answer.state not in ("pending", "running") or time.monotonic() - since > REST_SECONDS:
        answer = _asked(job)
    return answer


def _asked(job: _Handle, seconds: float = ASK_SECONDS) -> LauncherStatus:
    answer = _query(job, seconds)
    _CACHE[job] = (answer, time.monotonic())
    return answer


def _query(job: _Handle, seconds: float) -> LauncherStatus:
    result = _scontrol(job, "--oneliner", "show", "job", str(job.job), seconds=seconds)
    if result.status == 0:
        return _status(
            dict(reversed(re.findall(r"(\w+)=(\S*)", result.out)))
        )  # fields that contain user text come after Slurm's own
    if "Invalid job id" not in result.reason:
        return LauncherStatus("unknown", result.reason)
    fields = "State,ExitCode"
    accounting = _run(
        ["sacct", *_cluster_option(job), "-n", "-P", "-X", "-j", str(job.job), "-o", fields], seconds=seconds
    )
    state, _, status = accounting.out.strip().rpartition("\n")[2].partition("|")
    answer = _status({"JobState": state.partition(" ")[0], "ExitCode": status})
    # A running state in the accounting is stale when the controller does not know the job.
    return (
        answer
        if accounting.status == 0 and answer.state == "gone"
        else LauncherStatus("gone", "no longer known to Slurm")
    )


def _status(fields: Mapping[str, str]) -> LauncherStatus:
    state, reason, nodes = fields.get("JobState", ""), fields.get("Reason", ""), fields.get("NodeList", "")
    if state in _PENDING:
        return LauncherStatus("pending", f"{state} ({reason})" if reason not in ("", "None") else state)
    if state in _RUNNING:
        return LauncherStatus("running", f"{state} on {nodes}" if nodes not in ("", "(null)") else state)
    status, _, number = fields.get("ExitCode", "").partition(":")
    if not state or not status.isdigit():
        return LauncherStatus("unknown", "Slurm reports no state")
    if number == _NOT_STARTED:
        return LauncherStatus(
            "gone", f"{state}: {nodes} could not open the run's log or folder; check that the filesystem is shared"
        )
    if number not in ("", "0"):
        return LauncherStatus("gone", f"{state}, signal {number}")
    time_up = "time limit reached: " if int(status) == TimeUp.exit_status else ""
    return LauncherStatus("gone", f"{time_up}{state}, exit status {status}", int(status))


def cancel(handle: Mapping[str, Any], grace: float) -> None:
    """Remove the job from the queue; if it is running, let it flush, and have Slurm kill it when that takes too long.

    Raises:
        JobError: Slurm does not respond, or does not end the job.
    """
    job = handle_as(handle, _Handle)
    _scontrol(job, "update", f"JobId={job.job}", "Requeue=0")  # so that it is not requeued when it or its node fails
    _scancel(job, "--state=PENDING")
    for seconds in (grace, FLUSH_SECONDS):
        _scancel(job, "--batch", "--signal=TERM")
        if _ends_within(job, seconds):
            break
    else:
        _scancel(job)
        if not _ends_within(job, FORCE_SECONDS):
            raise JobError(
                f"Slurm does not end job {job.job}.",
                "Check its state with `scontrol show job`.",
                code="run.not_cancelled",
            )


def _scancel(job: _Handle, *options: str) -> None:
    """Jobs that have ended or are in another state are ignored."""
    result = _run(["scancel", *_cluster_option(job), *options, str(job.job)])
    expected = result.status == 0 or any(
        text in result.reason for text in ("Invalid job id", "already", "try again later")
    )
    if not expected:
        raise JobError(
            f"scancel failed: {result.reason}", f"Run it manually: scancel {job.job}", code="run.not_cancelled"
        )


def _ends_within(job: _Handle, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (answer := _asked(job, TALK_SECONDS)).state != "gone":
        if answer.state == "unknown":
            raise JobError(
                f"Slurm does not respond: {answer.detail}",
                "Run the command again when it does.",
                code="cluster.unreachable",
            )
        if answer.state == "pending":  # it was being requeued
            _scancel(job, "--state=PENDING")
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def log(handle: Mapping[str, Any], path: str, *, follow: bool) -> Iterator[str]:
    """The log, on a filesystem that this machine shares with the nodes."""
    return follow_file(path, lambda: not follow or ask(handle).state == "gone")


class _Output(msgspec.Struct, frozen=True):
    """The result of a Slurm command."""

    status: int
    out: str
    reason: str


def _cluster_option(job: _Handle) -> list[str]:
    return [f"--clusters={job.cluster}"] if job.cluster else []


def _scontrol(job: _Handle, *arguments: str, seconds: float = TALK_SECONDS) -> _Output:
    return _run(["scontrol", *_cluster_option(job), *arguments], seconds=seconds)


def _run(
    command: list[str],
    script: str = "",
    environment: Mapping[str, str] | None = None,
    seconds: float = TALK_SECONDS,
) -> _Output:
    try:
        done = subprocess.run(  # noqa: S603 - Slurm's own commands
            command, check=False, capture_output=True, text=True, errors="replace", input=script, timeout=seconds,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return _Output(1, "", f"{command[0]} did not respond within {seconds:.0f} s")
    except OSError as error:
        return _Output(1, "", f"{command[0]}: {error.strerror}")
    lines = [re.sub(r"^\w+: (error: )?", "", line) for line in done.stderr.strip().splitlines()]
    return _Output(
        done.returncode, done.stdout, "; ".join(lines) or f"{command[0]} exited with status {done.returncode}"
    )
