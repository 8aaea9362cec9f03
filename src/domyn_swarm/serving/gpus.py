"""Which GPUs each server gets, of those that the run was given."""

from __future__ import annotations

import os
from pathlib import Path

from domyn_swarm.errors import ConfigurationError, opt

VARIABLE = "CUDA_VISIBLE_DEVICES"
"""Set by Slurm and Ray for what they start."""
_NONE = ("", "-1", "NoDevFiles")
_DRIVER = Path("/proc/driver/nvidia/gpus")


def visible_gpus() -> list[str]:
    """The GPUs that this process may use: numbers, or the ids that CUDA_VISIBLE_DEVICES lists."""
    if (given := os.environ.get(VARIABLE)) is not None:
        return [] if given.strip() in _NONE else [one.strip() for one in given.split(",") if one.strip()]
    try:
        return [str(number) for number in range(len(list(_DRIVER.iterdir())))]
    except OSError:
        return []


def shares(gpus: list[str], replicas: int | None, each: int | None) -> list[list[str] | None]:
    """The GPUs of each server. None: it may use whatever the run may, as nothing is known to divide.

    Raises:
        ConfigurationError: there are too few.
    """
    if each is None:
        if replicas is None:
            return [[one] for one in gpus] or [None]
        each = len(gpus) // replicas
        return [gpus[at * each : (at + 1) * each] or None for at in range(replicas)]
    if each == 0:
        return [[] for _ in range(replicas or 1)]
    wanted = each * (replicas or 1)
    if wanted > len(gpus):
        servers = "a server" if wanted == each else f"{replicas} servers"
        raise ConfigurationError(
            f"{servers} with {each} GPU(s) each need {wanted}, and this run has {len(gpus)}.",
            f"Lower {opt('serve_gpus')} or {opt('serve_replicas')}; {VARIABLE} says which GPUs a run has.",
            code="server.gpus",
            option="serve_gpus",
        )
    return [gpus[at * each : (at + 1) * each] for at in range(replicas or len(gpus) // each)]
