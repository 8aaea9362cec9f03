"""Clusters that runs can be sent to: Ray and Slurm, when they are asked for."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from domyn_swarm.doctor.finding import Finding, ProbeError, probed

if TYPE_CHECKING:
    from collections.abc import Iterator

RAY_PROBE = "domyn_swarm.data.backends.ray_probe"
RAY_SECONDS = 120.0
SLURM_SECONDS = 20.0
PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")


def check_ray(address: str) -> Iterator[Finding]:
    """The cluster at `address`; `auto` finds that of this machine, and `local` starts one for the check."""
    try:
        said = probed(RAY_PROBE, address, seconds=RAY_SECONDS)
    except ProbeError as error:
        mend = error.mend.removeprefix("Install it: ") or "Is the cluster up, and is this its address?"
        yield Finding("ray cluster", "failed", str(error).removeprefix("--ray-address: "), mend)
        return
    here, there = said["here"], said.get("there", said["here"])
    if "there" not in said:
        machines = f"{said['machines']} machine{'s' if said['machines'] != 1 else ''}"
        found = f"Ray {here}, {machines}, {said['cpus']:,.0f} CPUs"
        yield Finding("ray cluster", "ok" if said["cpus"] else "warning", found)
    elif here == there:
        yield Finding("ray cluster", "ok", f"the job server at {address} has Ray {there}, as is here")
    else:
        found = f"the job server at {address} has Ray {there}, and here is {here}"
        yield Finding("ray cluster", "warning", found, f"pip install 'ray=={there}'")


def check_slurm() -> Iterator[Finding]:
    """Slurm's commands, its controller, and where jobs can go."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        mend = "Run this on a login node of the cluster, or install Slurm's client (Debian: slurm-client)."
        yield Finding("slurm", "failed", f"{', '.join(missing)} not found on PATH", mend)
        return
    answered, said = _ran("scontrol", "ping")
    if not answered or "UP" not in said:
        yield Finding("slurm", "failed", said or "the controller says nothing", "Ask whoever runs the cluster.")
        return
    yield Finding("slurm", "ok", said)
    answered, said = _ran("sinfo", "--noheader", "--format=%P %a, %l, %D nodes %T")
    up = answered and " up," in f" {said}"
    mend = "" if up else "Ask whoever runs the cluster."
    yield Finding("slurm partitions", "ok" if up else "failed", said or "there are none", mend)


def _ran(*command: str) -> tuple[bool, str]:
    """Whether it ended well, and what it printed, on one line."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and nothing that anybody typed
            command, capture_output=True, text=True, timeout=SLURM_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"{command[0]}: {error}"
    lines = (done.stdout or done.stderr).strip().splitlines()
    return done.returncode == 0, "; ".join(line.strip() for line in lines)
