"""All checks that were asked for, at once, told in the order of a list."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from domyn_swarm.data.backends.registry import backend_names
from domyn_swarm.doctor import checkpoints, clusters, endpoints, installation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.doctor.finding import Check, Finding


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked at beside the installation."""

    endpoints: list[str] = []
    model: str | None = None
    api_key_file: str | None = None
    checkpoint_dir: str = ".domyn-swarm"
    ray: str | None = None
    slurm: bool = False


def examine(asked: Asked) -> Iterator[Finding]:
    """Make the checks; what each found comes as soon as it and those before it have ended."""
    checks = list(_checks(asked))
    with ThreadPoolExecutor(len(checks)) as pool:
        for found in pool.map(_findings, checks):
            yield from found


def _findings(check: Check) -> list[Finding]:
    return list(check())


def _checks(asked: Asked) -> Iterator[Check]:
    yield installation.check_python
    yield installation.check_packages
    for name in backend_names():
        yield partial(installation.check_backend, name)
    for extra, packages in installation.extras().items():
        yield partial(installation.check_extra, extra, packages)
    yield installation.check_graphviz
    for url in asked.endpoints:
        yield partial(endpoints.check_endpoint, url, asked.model, asked.api_key_file)
    if not asked.endpoints:
        yield endpoints.no_endpoint
    yield partial(checkpoints.check_checkpoint_dir, asked.checkpoint_dir)
    if asked.ray:
        yield partial(clusters.check_ray, asked.ray)
    if asked.slurm:
        yield clusters.check_slurm
