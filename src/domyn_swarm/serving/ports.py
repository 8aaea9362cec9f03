"""Free ports for servers, which keep them over restarts."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from domyn_swarm.errors import JobError
from domyn_swarm.serving.command import HOST

if TYPE_CHECKING:
    from collections.abc import Collection

LOWEST = 20_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 200


def free_port(taken: Collection[int] = ()) -> int:
    """A port that nobody listens on, and none of `taken`.

    It is below the range from which the system takes the ports of outgoing connections: one of these could have it
    while a server restarts.

    Raises:
        JobError: there is none.
    """
    highest = 32_767
    with contextlib.suppress(OSError, ValueError, IndexError):
        highest = int(_EPHEMERAL.read_text().split()[0]) - 1
    if highest - LOWEST < _TRIES:
        highest = 60_999
    for _ in range(_TRIES):
        port = random.randint(LOWEST, highest)  # noqa: S311 - no secret
        if port not in taken and is_free(port):
            return port
    raise JobError("No port is free for a model server.", code="server.no_port")


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
