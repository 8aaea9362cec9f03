"""All model servers of a run: started before its first row, watched while it runs, stopped when it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domyn_swarm.errors import ConditionError, ConfigurationError, Interrupted, SwarmError
from domyn_swarm.redaction import names_secret
from domyn_swarm.references import resolved
from domyn_swarm.serving import gpus
from domyn_swarm.serving.command import ServerCommand, read_command, search_path
from domyn_swarm.serving.log import tail_of
from domyn_swarm.serving.ports import free_port
from domyn_swarm.serving.process import end_marked
from domyn_swarm.serving.server import ModelServer, Settings, Signals
from domyn_swarm.serving.states import ServerState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

NAME = "server"
"""Servers are `server-0`, `server-1`, …"""
TELL_SECONDS = 10.0
_FOR_SERVERS = ("HF_", "HUGGING", "VLLM_", "SGLANG_", "LLAMA_", "MODELSCOPE_")
"""How variables begin that are meant for model servers, tokens to load models with among them."""

logger = logging.getLogger("domyn_swarm")


@dataclass(frozen=True)
class Plan:
    """Which servers a run starts: one for each share of GPUs (None: whatever the run may use).

    `hidden` variables are not passed on to them.
    """

    command: ServerCommand
    shares: list[list[str] | None]
    timeout: float
    restarts: int
    hidden: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, text: str, replicas: int | None, each: int | None, timeout: float, restarts: int,
        hidden: Collection[str] = (),
    ) -> Plan:  # fmt: skip
        """The servers that the options `--serve…` ask for, on this machine.

        Raises:
            ConfigurationError: the command is none, its program is not there, or there are too few GPUs.
        """
        shares = gpus.shares(gpus.visible_gpus(), replicas, each)
        command = read_command(text, len(shares[0] or ()) or each or 0)
        command.check()
        command.at(0)
        resolved(dict(command.variables))
        return cls(command, shares, timeout, restarts, frozenset(hidden))

    def environment(self, share: list[str] | None) -> dict[str, str]:
        """Of a server: that of the run without credentials, unless they are for servers or named in the command."""
        env = {
            name: value
            for name, value in os.environ.items()
            if name not in self.hidden and (name.startswith(_FOR_SERVERS) or not names_secret(name))
        }
        if share is not None:
            env[gpus.VARIABLE] = ",".join(share)
        env |= {"PYTHONUNBUFFERED": "1", **resolved(dict(self.command.variables))}
        return {**env, "PATH": search_path(env.get("PATH"))}


class ModelServers:
    """The servers of `plan`, which log to `folder`.

    `marked` begins the mark that their processes bear, and is this run folder's alone. `lost` is called once, with the
    reason, when none of them is left; `changed` with their states, whenever one has changed.
    """

    def __init__(
        self, plan: Plan, folder: Path, marked: str,
        lost: Callable[[SwarmError], None], changed: Callable[[list[ServerState]], None],
    ) -> None:  # fmt: skip
        self._plan = plan
        self._marked = marked
        self._lost, self._changed = lost, changed
        self._lock = threading.Lock()
        self._ports: set[int] = set()
        self._signals = Signals(self._note, self._new_port)
        self._is_lost = False
        self._servers = [
            ModelServer(name, self._new_port(), self._settings(share, folder / f"{name}.log", name), self._signals)
            for name, share in ((f"{NAME}-{number}", share) for number, share in enumerate(plan.shares))
        ]

    @property
    def urls(self) -> list[str]:
        """Of all servers, ready or not."""
        return [one.url for one in self._servers]

    @property
    def ready_urls(self) -> list[str]:
        """Of those that are ready."""
        return [one.url for one in self._servers if one.state == "ready"]

    @property
    def states(self) -> list[ServerState]:
        """All servers as they are now."""
        return [
            ServerState(
                name=one.name, state=one.state, since=one.began, url=one.url, detail=one.detail, starts=one.starts,
                gpus=one.gpus,
            )
            for one in self._servers
        ]  # fmt: skip

    def start(self) -> None:
        """Start them all. What an earlier run in the same folder may have left is ended first: its lock is held."""
        end_marked(self._marked)
        for one in self._servers:
            where = "" if one.gpus is None else f" on GPU {', '.join(one.gpus) or 'none'}"
            logger.info("model server %s starts%s: %s (log: %s)", one.name, where, self._plan.command, one.log)
            one.start()
        self._note()

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Return when one is ready: the others are used as soon as they are.

        Raises:
            ConditionError: none will be.
            Interrupted: the run was asked to end.
        """
        began = reported = time.monotonic()
        while not self._signals.one_is_ready.wait(0.1):
            if is_over():
                raise Interrupted("Interrupted before a model server was ready.")
            if all(one.state == "dead" for one in self._servers):
                raise self._failure("server.failed")
            if time.monotonic() - reported >= TELL_SECONDS:
                reported = time.monotonic()
                self._tell(reported - began)

    def stop(self) -> None:
        """Stop them all, at the same time; return when none of their processes is left."""
        self._is_lost = True  # from now on they end because they have to
        try:
            for one in self._servers:
                one.ask_to_stop()
            for one in self._servers:
                one.stop()
        finally:
            end_marked(self._marked)

    def _settings(self, share: list[str] | None, log: Path, name: str) -> Settings:
        plan = self._plan
        return Settings(
            plan.command, plan.environment(share), share, log, f"{self._marked}{name}#", plan.timeout, plan.restarts
        )

    def _new_port(self) -> int:
        with self._lock:
            port = free_port(self._ports)
            self._ports.add(port)
            return port

    def _note(self) -> None:
        """Say how the servers are, and whether that is the end."""
        states = self.states
        with contextlib.suppress(Exception):  # whatever a filesystem throws: it is for people
            self._changed(states)
        with self._lock:
            lost = not self._is_lost and self._signals.one_is_ready.is_set() and all(s.state == "dead" for s in states)
            self._is_lost = self._is_lost or lost
        if lost:
            self._lost(self._failure("server.lost"))

    def _failure(self, code: str) -> ConditionError:
        one = self._servers[0]
        tail = tail_of(one.log)
        said = "".join(f"\n  {line}" for line in tail.lines) or " nothing."
        ended = one.detail if code == "server.failed" else f"{one.detail}, and may not be restarted any more"
        return ConditionError(
            f"Model server {one.name} {ended}. It printed last:{said}",
            f"{tail.advice} Its log: {one.log}".strip(),
            code=code,
            option="serve",
            path=str(one.log),
        )

    def _tell(self, seconds: float) -> None:
        for one in self._servers:
            if one.state != "dead":
                last = tail_of(one.log).lines[-1:]
                said = f"; it printed last: {last[0]}" if last else ""
                logger.info("waiting for model server %s to become ready, for %.0f s now%s", one.name, seconds, said)


def describe(text: str, replicas: int | None, each: int | None) -> Mapping[str, str]:
    """What the options mean, to be shown before a run, which may have other GPUs where it is sent."""
    try:
        shares = gpus.shares(gpus.visible_gpus(), replicas, each)
    except ConfigurationError:
        return {"serve": str(read_command(text, each or 0))}
    command = read_command(text, len(shares[0] or ()) or each or 0)
    with_gpus = f", {len(shares[0])} GPU(s) each" if shares[0] else ""
    return {"serve": str(command), "servers": f"{len(shares)}{with_gpus}"}
