"""Launcher for Ray clusters, through the job server."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import os
import re
import shlex
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import msgspec

from domyn_swarm.errors import ConfigurationError, JobError, MissingDependencyError, opt
from domyn_swarm.jobs.working_folder import SENT_ALONG
from domyn_swarm.runs import index
from domyn_swarm.runs.launchers import ray_files
from domyn_swarm.runs.launchers.base import FLUSH_SECONDS, LauncherStatus, handle_as

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from domyn_swarm.checkpoint.submission import Placement
    from domyn_swarm.runs.launchers.base import Handle, Launch
    from domyn_swarm.runs.launchers.ray_client import Client

name = "ray"
near = False
ENTRYPOINT = f"python -m domyn_swarm.jobs.run {ray_files.SPEC}"
ASK_SECONDS = 5.0
SEND_SECONDS = 60.0
POLL_SECONDS = 0.3
ADDRESS = (
    f"Use the URL of the cluster's dashboard: {opt('ray_address', 'http://head:8265')}, or RAY_API_SERVER_ADDRESS."
)
UP = "Check that the cluster is up, that this is its dashboard's URL, and that its head has 'ray[default]' installed."


class _Handle(msgspec.Struct, frozen=True):
    """The URL of the job server, and the job's id there."""

    address: Annotated[str, msgspec.Meta(pattern=r"\Ahttps?://[\x21-\x7e]{1,2000}\Z")]
    submission: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,199}\Z")]

    def __post_init__(self) -> None:
        if not urlsplit(self.address).hostname or urlsplit(self.address).username is not None:
            raise ValueError("the address is not the URL of a job server")


def check(placement: Placement) -> Placement:
    """Connect to the job server; the returned placement has its URL.

    Raises:
        ConfigurationError: Ray is not installed, the URL is invalid, or the server does not respond.
    """
    url = _url(placement)
    try:
        _client(url, asked_for=True).reach()
    except _failures() as error:
        raise ConfigurationError(
            f"{url} cannot be used: {_cause(error)}.", UP, code="cluster.unreachable", option="ray_address"
        ) from None
    return msgspec.structs.replace(placement, ray_address=url)


def shown(launch: Launch) -> str:
    """The equivalent command of Ray's, and the files that are uploaded."""
    url = _url(launch.placement)
    variables = "".join(f"\n    {name}={value}" for name, value in _variables(launch).items())
    files = "".join(f"\n    {name}" for name in (ray_files.SPEC, *ray_files.python_files(launch)))
    return f"ray job submit --address {shlex.quote(url)} --no-wait -- {ENTRYPOINT}\nvariables{variables}\nfiles{files}"


def start(launch: Launch) -> Handle:
    """Upload the files, and submit the run.

    Raises:
        JobError: the server rejects it.
    """
    url = _url(launch.placement)
    # Runs with the same name, and each resume of a run, are separate jobs on the cluster.
    submission = f"{re.sub(r'[^A-Za-z0-9._-]', '-', launch.name)}-{uuid.uuid4().hex[:8]}"
    handle = {"address": url, "submission": submission}
    with tempfile.TemporaryDirectory(prefix="domyn-swarm-") as folder:
        ray_files.gather(launch, Path(folder))
        try:
            _client(url, SEND_SECONDS, asked_for=True).submit_job(
                entrypoint=ENTRYPOINT,
                submission_id=submission,
                runtime_env={"working_dir": folder, "env_vars": _variables(launch)},
                entrypoint_num_cpus=0,
            )
        except _failures() as error:
            status = _status(url, submission, asked_for=True)
            if status.state not in ("pending", "running"):  # only the response was lost
                raise JobError(
                    f"The Ray cluster at {url} did not accept the run: {_cause(error)}.", UP, code="launcher.failed"
                ) from None
    return handle


def ask(handle: Mapping[str, Any]) -> LauncherStatus:
    """The job server's status of the run."""
    job = handle_as(handle, _Handle)
    return _status(job.address, job.submission)


def _status(address: str, submission: str, *, asked_for: bool = False) -> LauncherStatus:
    try:
        info = _client(address, asked_for=asked_for).info(submission)
    except MissingDependencyError as error:
        return LauncherStatus("unknown", f"{error.text} {error.advice}")
    except _failures() as error:
        return LauncherStatus("unknown", f"the Ray cluster at {address} does not respond: {_cause(error)}")
    if info is None:
        return LauncherStatus("gone", f"unknown to the Ray cluster at {address} (was it restarted?)")
    if info["status"] in ("PENDING", "RUNNING"):
        return LauncherStatus(info["status"].lower(), f"{submission} at {address}")
    return LauncherStatus("gone", _ending(info), _exit_status(info))


def cancel(handle: Mapping[str, Any], grace: float) -> None:
    """Have the server stop the run. The time until it kills the run was set at submission and cannot be changed.

    Raises:
        JobError: the server does not respond, or the run does not end.
    """
    job = handle_as(handle, _Handle)
    address, submission = job.address, job.submission
    deadline = time.monotonic() + grace + FLUSH_SECONDS + SEND_SECONDS
    client, stopped = _client(address), False
    try:
        while (info := client.info(submission)) is not None and info["status"] in ("PENDING", "RUNNING"):
            if time.monotonic() > deadline:
                raise JobError(
                    f"{submission} is still running at {address}.",
                    "Check the cluster's dashboard.",
                    code="run.not_cancelled",
                )
            stopped = stopped or client.stop_job(submission)  # fails for a job that has not started yet
            time.sleep(POLL_SECONDS)
    except _failures() as error:
        raise JobError(
            f"The Ray cluster at {address} does not respond: {_cause(error)}.", "Try again.", code="cluster.unreachable"
        ) from None


def log(handle: Mapping[str, Any], path: str, *, follow: bool) -> Iterator[str]:
    """The log that the cluster keeps.

    Raises:
        JobError: the cluster does not respond, or has forgotten the run.
    """
    del path  # the cluster keeps it
    job = handle_as(handle, _Handle)
    address, submission = job.address, job.submission
    try:
        client = _client(address)
        if client.info(submission) is None:
            raise JobError(
                f"The Ray cluster at {address} no longer has {submission} and its log.",
                "The run's report is in its folder.",
                code="log.missing",
            )
        yield from _followed(client, submission) if follow else [client.get_job_logs(submission)]
    except _failures() as error:
        raise JobError(
            f"The log is on the Ray cluster at {address}, which does not respond: {_cause(error)}.",
            "The run's report is in its folder.",
            code="log.missing",
        ) from None


def _followed(client: Client, submission: str) -> Iterator[str]:
    lines = client.tail_job_logs(submission)
    with asyncio.Runner() as runner:
        while (piece := runner.run(_next(lines))) is not None:
            yield piece


async def _next(lines: AsyncIterator[str]) -> str | None:
    return await anext(lines, None)


def _url(placement: Placement) -> str:
    """The URL of the job server.

    Raises:
        ConfigurationError: none is given, or it is another kind of address.
    """
    address = placement.ray_address or _from_environment()
    if not address:
        raise ConfigurationError("no cluster address.", ADDRESS, code="cluster.no_address", option="run_on")
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigurationError(
            f"{address} is not the URL of a job server.",
            _instead(address),
            code="cluster.address",
            option="ray_address",
        )
    if url.password:
        raise ConfigurationError(
            f"the URL of {url.hostname} contains a password, which would be stored.",
            "Remove it and set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH instead.",
            code="option.secret",
            option="ray_address",
        )
    return address.rstrip("/")


def _from_environment() -> str | None:
    return os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")


def _instead(address: str) -> str:
    """The hint for other kinds of Ray addresses, which do not contain the dashboard's URL."""
    host = "127.0.0.1" if address in ("auto", "local") else address.rpartition("://")[2].rpartition(":")[0] or address
    return ADDRESS.replace("//head:", f"//{host}:") if re.fullmatch(r"[\w.-]+", host) else ADDRESS


def _variables(launch: Launch) -> dict[str, str]:
    """Extra environment variables of the run. Every user of the cluster can read them, so they contain no secrets."""
    job = ray_files.sent_job(launch)
    seconds = math.ceil(launch.grace + FLUSH_SECONDS)  # Ray's default is 3; it can only be set at submission
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(seconds), **({SENT_ALONG: job} if job else {})}


def _exit_status(info: Mapping[str, Any]) -> int | None:
    """The run's own exit status; None when a signal ended it (the shell reports 128 plus the signal)."""
    code = info.get("driver_exit_code")
    return code if code in range(131) else None


def _ending(info: Mapping[str, Any]) -> str:
    """The cluster's status and its cause. The message is about the cluster when the run never started."""
    status, code = info["status"], info.get("driver_exit_code")
    if code is not None and _exit_status(info) is None:
        return f"{status}, ended by signal {abs(code) % 128}"
    if code:
        return f"{status}, exit status {code}"
    why = (info.get("message") or "").strip().partition("\n")[0] if status == "FAILED" else ""
    return f"{status}: {why}" if why else str(status)


def _ray() -> Any:
    """The module that needs Ray.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise MissingDependencyError(
            "the package 'ray' is not installed.", command="pip install 'domyn-swarm[ray]'", option="run_on"
        ) from None
    return importlib.import_module("domyn_swarm.runs.launchers.ray_client")


def _client(url: str, seconds: float = ASK_SECONDS, *, asked_for: bool = False) -> Client:
    """`asked_for`: the URL comes from this command or the environment, so it may receive the token."""
    client: Client = _ray().Client(url, seconds, with_token=asked_for or _is_known(url))
    return client


def _is_known(url: str) -> bool:
    """Whether this user has submitted to the server, or the environment names it; others never get the token."""
    with contextlib.suppress(index.IndexUnavailableError):
        if any(handle.get("address") == url for handle in index.handles(name)):
            return True
    return url == (_from_environment() or "").rstrip("/")


def _failures() -> tuple[type[Exception], ...]:
    failures: tuple[type[Exception], ...] = _ray().FAILURES
    return failures


def _cause(error: Exception) -> str:
    text: str = _ray().render_text(error)
    return text
