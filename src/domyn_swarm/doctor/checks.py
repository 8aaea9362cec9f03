"""Run all requested checks concurrently, and report them in a fixed order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from domyn_swarm.data.backends.registry import backend_names
from domyn_swarm.doctor import checkpoints, clusters, endpoints, installation, servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.doctor.finding import Check, Finding


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to check besides the installation."""

    endpoints: list[str] = []
    model: str | None = None
    api_key_file: str | None = None
    checkpoint_dir: str = ".domyn-swarm"
    ray: str | None = None
    slurm: bool = False
    serve: str | None = None


def run_checks(request: Request) -> Iterator[Finding]:
    """Run the checks; yield each result as soon as that check and all before it have ended."""
    checks = list(_checks(request))
    with ThreadPoolExecutor(len(checks)) as pool:
        for found in pool.map(_findings, checks):
            yield from found


def _findings(check: Check) -> list[Finding]:
    return list(check())


def _checks(request: Request) -> Iterator[Check]:
    yield installation.check_python
    yield installation.check_packages
    for name in backend_names():
        yield partial(installation.check_backend, name)
    for extra, packages in installation.extras().items():
        yield partial(installation.check_extra, extra, packages)
    yield installation.check_graphviz
    for url in request.endpoints:
        yield partial(endpoints.check_endpoint, url, request.model, request.api_key_file)
    if not request.endpoints and request.serve is None:
        yield endpoints.no_endpoint
    if request.serve is not None:
        yield partial(servers.check_serve, request.serve)
    yield partial(checkpoints.check_checkpoint_dir, request.checkpoint_dir)
    if request.ray:
        yield partial(clusters.check_ray, request.ray)
    if request.slurm:
        yield clusters.check_slurm
