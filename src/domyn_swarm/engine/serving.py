"""The model servers of a run: from its options to endpoints that are ready, and to their end with the run."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from domyn_swarm.endpoint.keys import VARIABLES
from domyn_swarm.errors import ConfigurationError, SwarmError, opt
from domyn_swarm.jobs.steps.names import name_in
from domyn_swarm.references import references
from domyn_swarm.serving.log import upload
from domyn_swarm.serving.servers import ModelServers, Plan
from domyn_swarm.serving.states import FOLDER, save_states
from domyn_swarm.storage.files import is_local

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.concurrency.stop import Stop
    from domyn_swarm.engine.planning import RunPlan
    from domyn_swarm.jobspec import JobSpec


def servers_of(plan: RunPlan) -> Plan:
    """The servers that the run starts on this machine.

    Raises:
        ConfigurationError: they cannot be started here, or would not be reached.
    """
    return _wanted(plan.spec, in_workers=plan.in_workers)


def _wanted(spec: JobSpec, *, in_workers: bool) -> Plan:
    if not all(map(name_in, spec.endpoints)):
        raise ConfigurationError(
            f"{opt('serve')} and {opt('endpoints')} exclude each other: the servers of the run are its endpoints.",
            f"Drop one of the two. {opt('serve_replicas')} starts several servers.",
            code="option.conflict",
            option="serve",
        )
    if in_workers and (spec.ray_address or os.environ.get("RAY_ADDRESS")):
        raise ConfigurationError(
            f"{opt('serve')} starts servers on this machine, which workers on others of a cluster do not reach.",
            f"Start the servers yourself and list them with {opt('endpoints')}, or leave out {opt('ray_address')} and "
            "RAY_ADDRESS.",
            code="server.unreachable",
            option="serve",
        )
    hidden = {*VARIABLES, *references(msgspec.structs.asdict(spec))}
    return Plan.of(
        spec.serve or "", spec.serve_replicas, spec.serve_gpus, spec.serve_timeout, spec.serve_restarts, hidden
    )


@contextlib.contextmanager
def serving(plan: RunPlan, stop: Stop) -> Iterator[RunPlan]:
    """`plan` with its servers, at least one of which is ready; they are stopped at the end. The caller holds the lock.

    Without `--serve`, or when nothing is pending, none is started. When none of them is left, `stop` is set.

    Raises:
        ConfigurationError: they cannot be started here.
        ConditionError: none becomes ready.
        Interrupted: the run was asked to stop meanwhile.
    """
    if not plan.spec.serve or not plan.pending:
        yield plan
        return
    with _running(servers_of(plan), plan.store.folder, stop) as servers:
        yield replace(plan, servers=servers)


@contextlib.contextmanager
def served(spec: JobSpec, folder: RunFolder, stop: Stop) -> Iterator[JobSpec]:
    """`spec` with servers as its endpoints, for looking at a node without a run; what they print goes to `folder`.

    Raises:
        ConfigurationError, ConditionError, Interrupted: as `serving`.
    """
    if not spec.serve:
        yield spec
        return
    with _running(_wanted(spec, in_workers=False), folder, stop) as servers:
        yield msgspec.structs.replace(spec, endpoints=[*spec.endpoints, *servers.ready_urls])


@contextlib.contextmanager
def _running(wanted: Plan, folder: RunFolder, stop: Stop) -> Iterator[ModelServers]:
    def lost(reason: SwarmError) -> None:
        stop.reason = reason
        stop.set()

    with _log_folder(folder) as logs:
        mark = f"{os.path.realpath(logs)}#" if is_local(folder.fs) else f"{folder.path}#"
        servers = ModelServers(wanted, logs, mark, lost, lambda states: save_states(folder, states))
        try:
            servers.start()
            servers.wait(stop.is_set)
            yield servers
        finally:
            servers.stop()


@contextlib.contextmanager
def leaving_nothing(folder: RunFolder) -> Iterator[None]:
    """Delete the run's folder again if it was not there, and the run is refused: only its servers could tell why."""
    local = Path(folder.root) if is_local(folder.fs) else None
    missing = [] if local is None else [path for path in (local, *local.parents) if not path.exists()]
    try:
        yield
    except ConfigurationError:
        with contextlib.suppress(OSError):  # another run is in it by now, and the original error matters more
            if local is not None and missing and not folder.newest_run():
                folder.remove(FOLDER)
                for path in (local / "parts", *missing):
                    path.rmdir()
        raise


@contextlib.contextmanager
def _log_folder(folder: RunFolder) -> Iterator[Path]:
    """Where servers log to: the run's folder, or one that is copied there at the end if that is on an object store."""
    if is_local(folder.fs):
        yield Path(folder.root).absolute() / FOLDER
        return
    with tempfile.TemporaryDirectory(prefix="domyn-swarm-") as local:
        try:
            yield Path(local)
        finally:
            with contextlib.suppress(Exception):  # whatever a filesystem throws: it is for people
                upload(Path(local), folder.fs, f"{folder.root}/{FOLDER}")
