"""Checks of clusters that runs can be submitted to: Ray and Slurm, on request."""

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
    """Check the cluster at `address`; `auto` finds this machine's cluster, `local` starts one for the check."""
    try:
        result = probed(RAY_PROBE, address, seconds=RAY_SECONDS)
    except ProbeError as error:
        fix = error.fix or "Check that the cluster is up and that this is its address."
        yield Finding("ray cluster", "failed", str(error), fix)
        return
    here, there = result["here"], result.get("there", result["here"])
    if "there" not in result:
        machines = f"{result['machines']} machine{'s' if result['machines'] != 1 else ''}"
        found = f"Ray {here}, {machines}, {result['cpus']:,.0f} CPUs"
        yield Finding("ray cluster", "ok" if result["cpus"] else "warning", found)
    elif here == there:
        yield Finding("ray cluster", "ok", f"the job server at {address} has Ray {there}, the same as here")
    else:
        found = f"the job server at {address} has Ray {there}, but {here} is installed here"
        yield Finding("ray cluster", "warning", found, f"pip install 'ray=={there}'")


def check_slurm() -> Iterator[Finding]:
    """Check Slurm's commands, its controller and its partitions."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        fix = "Run this on a login node of the cluster, or install Slurm's client (Debian: slurm-client)."
        yield Finding("slurm", "failed", f"{', '.join(missing)} not found on PATH", fix)
        return
    ok, output = _ran("scontrol", "ping")
    if not ok or "UP" not in output:
        yield Finding(
            "slurm", "failed", output or "no response from the controller", "Ask the cluster's administrators."
        )
        return
    yield Finding("slurm", "ok", output)
    ok, output = _ran("sinfo", "--noheader", "--format=%P %a, %l, %D nodes %T")
    up = ok and " up," in f" {output}"
    fix = "" if up else "Ask the cluster's administrators."
    yield Finding("slurm partitions", "ok" if up else "failed", output or "no partitions", fix)


def _ran(*command: str) -> tuple[bool, str]:
    """Whether the command succeeded, and its output on one line."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and nothing that anybody typed
            command, capture_output=True, text=True, timeout=SLURM_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"{command[0]}: {error}"
    lines = (done.stdout or done.stderr).strip().splitlines()
    return done.returncode == 0, "; ".join(line.strip() for line in lines)
