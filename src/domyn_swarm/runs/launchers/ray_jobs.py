"""Runs on a Ray cluster, sent through its job server."""

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

from domyn_swarm.errors import ConfigurationError, JobError, MissingDependencyError
from domyn_swarm.jobs.loading import SENT_ALONG
from domyn_swarm.runs import index
from domyn_swarm.runs.launchers import ray_files
from domyn_swarm.runs.launchers.base import FLUSH_SECONDS, Answer, handle_as

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
ADDRESS = "Give the URL of the cluster's dashboard: --ray-address http://head:8265, or RAY_API_SERVER_ADDRESS."
UP = "Is the cluster up, with its dashboard (pip install 'ray[default]' on its head), and is this its dashboard's URL?"


class _Handle(msgspec.Struct, frozen=True):
    """The URL of the job server, and what the job is called there."""

    address: Annotated[str, msgspec.Meta(pattern=r"\Ahttps?://[\x21-\x7e]{1,2000}\Z")]
    submission: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,199}\Z")]

    def __post_init__(self) -> None:
        if not urlsplit(self.address).hostname or urlsplit(self.address).username is not None:
            raise ValueError("the address is no URL of a job server")


def check(placement: Placement) -> Placement:
    """Reach the job server, whose URL is settled with that.

    Raises:
        ConfigurationError: Ray is not installed, it is no server's URL, or nobody answers there.
    """
    url = _url(placement)
    try:
        _client(url, asked_for=True).reach()
    except _failures() as error:
        raise ConfigurationError(f"--ray-address: {url} cannot be used: {_told(error)}.", UP) from None
    return msgspec.structs.replace(placement, ray_address=url)


def shown(launch: Launch) -> str:
    """The command of Ray's own that would do the same, and the files that go along."""
    url = _url(launch.placement)
    variables = "".join(f"\n    {name}={value}" for name, value in _variables(launch).items())
    files = "".join(f"\n    {name}" for name in (ray_files.SPEC, *ray_files.python_files(launch)))
    return f"ray job submit --address {shlex.quote(url)} --no-wait -- {ENTRYPOINT}\nvariables{variables}\nfiles{files}"


def start(launch: Launch) -> Handle:
    """Upload the files, and submit the run.

    Raises:
        JobError: the server does not take it.
    """
    url = _url(launch.placement)
    # Two runs of one name, or the same one resumed, are two jobs to the cluster.
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
            answer = _asked(url, submission, asked_for=True)
            if answer.state not in ("pending", "running"):  # it was the answer that did not come
                raise JobError(f"The Ray cluster at {url} has not taken the run: {_told(error)}.", UP) from None
    return handle


def ask(handle: Mapping[str, Any]) -> Answer:
    """What the job server says."""
    job = handle_as(handle, _Handle)
    return _asked(job.address, job.submission)


def _asked(address: str, submission: str, *, asked_for: bool = False) -> Answer:
    try:
        info = _client(address, asked_for=asked_for).info(submission)
    except MissingDependencyError as error:
        return Answer("unknown", f"{error.message} {error.hint}")
    except _failures() as error:
        return Answer("unknown", f"the Ray cluster at {address} does not answer: {_told(error)}")
    if info is None:
        return Answer("gone", f"the Ray cluster at {address} does not know it (it was started anew?)")
    if info["status"] in ("PENDING", "RUNNING"):
        return Answer(info["status"].lower(), f"{submission} at {address}")
    return Answer("gone", _ending(info), _exit_status(info))


def cancel(handle: Mapping[str, Any], grace: float) -> None:
    """Have the server stop it. It was told when the run was sent how long to wait before it kills, and cannot be now.

    Raises:
        JobError: it does not answer, or the run does not end.
    """
    job = handle_as(handle, _Handle)
    address, submission = job.address, job.submission
    deadline = time.monotonic() + grace + FLUSH_SECONDS + SEND_SECONDS
    client, told = _client(address), False
    try:
        while (info := client.info(submission)) is not None and info["status"] in ("PENDING", "RUNNING"):
            if time.monotonic() > deadline:
                raise JobError(f"{submission} goes on at {address}.", "Look for the cause in the cluster's dashboard.")
            told = told or client.stop_job(submission)  # one that is not there yet cannot be told
            time.sleep(POLL_SECONDS)
    except _failures() as error:
        raise JobError(f"The Ray cluster at {address} does not answer: {_told(error)}.", "Try again.") from None


def log(handle: Mapping[str, Any], path: str, *, follow: bool) -> Iterator[str]:
    """What the cluster keeps of its output.

    Raises:
        JobError: the cluster is silent, or does not know it any more.
    """
    del path  # the cluster keeps it
    job = handle_as(handle, _Handle)
    address, submission = job.address, job.submission
    try:
        client = _client(address)
        if client.info(submission) is None:
            raise JobError(
                f"The Ray cluster at {address} does not know {submission} any more, and had its log.",
                "The run's report is in its folder.",
            )
        yield from _followed(client, submission) if follow else [client.get_job_logs(submission)]
    except _failures() as error:
        raise JobError(
            f"The log is on the Ray cluster at {address}, which does not answer: {_told(error)}.",
            "The run's report is in its folder.",
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
        ConfigurationError: none is given, or what is given is another kind of address.
    """
    address = placement.ray_address or _from_environment()
    if not address:
        raise ConfigurationError("--run-on ray: no cluster is named.", ADDRESS)
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigurationError(f"--ray-address: {address} is no URL of a job server.", _instead(address))
    if url.password:
        raise ConfigurationError(
            f"--ray-address: the URL of {url.hostname} has a password in it, which would be written down.",
            "Leave it out; RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH hold what the cluster asks for.",
        )
    return address.rstrip("/")


def _from_environment() -> str | None:
    return os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")


def _instead(address: str) -> str:
    """The hint for an address of Ray's own kinds, which do not tell where the dashboard is, or whose it is."""
    host = "127.0.0.1" if address in ("auto", "local") else address.rpartition("://")[2].rpartition(":")[0] or address
    return ADDRESS.replace("//head:", f"//{host}:") if re.fullmatch(r"[\w.-]+", host) else ADDRESS


def _variables(launch: Launch) -> dict[str, str]:
    """What the run's environment has beside the cluster's own. Everybody can read it there: no secrets."""
    job = ray_files.sent_job(launch)
    seconds = math.ceil(launch.grace + FLUSH_SECONDS)  # Ray gives 3 unless it is told when the run is sent
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(seconds), **({SENT_ALONG: job} if job else {})}


def _exit_status(info: Mapping[str, Any]) -> int | None:
    """What the run itself ended with: none where a signal ended it, which the shell around it adds to 128."""
    code = info.get("driver_exit_code")
    return code if code in range(131) else None


def _ending(info: Mapping[str, Any]) -> str:
    """What the cluster calls it, and why. Its message is about the cluster when the run was not begun."""
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
            "--run-on ray: the package 'ray' is not installed.", "Install it: pip install 'domyn-swarm[ray]'"
        ) from None
    return importlib.import_module("domyn_swarm.runs.launchers.ray_client")


def _client(url: str, seconds: float = ASK_SECONDS, *, asked_for: bool = False) -> Client:
    """`asked_for` says that this user has just given the URL, or the environment did."""
    client: Client = _ray().Client(url, seconds, with_token=asked_for or _is_known(url))
    return client


def _is_known(url: str) -> bool:
    """Whether this user has submitted to the server, or the environment names it: no other gets the user's token."""
    with contextlib.suppress(index.IndexUnavailableError):
        if any(handle.get("address") == url for handle in index.handles(name)):
            return True
    return url == (_from_environment() or "").rstrip("/")


def _failures() -> tuple[type[Exception], ...]:
    failures: tuple[type[Exception], ...] = _ray().FAILURES
    return failures


def _told(error: Exception) -> str:
    text: str = _ray().told(error)
    return text
