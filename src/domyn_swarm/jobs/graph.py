"""The graph that a JobSpec selects.

The only importer of Hamilton's driver, which is slow to import and pulls in pandas.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hamilton.driver import Driver

    from domyn_swarm.jobs.flows import Flows
    from domyn_swarm.jobs.spec import JobSpec

GRAPH = "domyn_dags.job"


def driver_for(
    spec: JobSpec, where: str = "driver", adapters: Sequence[Any] = (), flows: Flows | None = None
) -> Driver:
    """The graph for `spec`: its config chooses among the nodes' variants.

    `where` is "driver" when rows go through this process, "workers" when they go through an engine's own. Nodes that
    run in this process are measured into `flows`, if it is given.
    """
    os.environ.setdefault("HAMILTON_AUTOLOAD_EXTENSIONS", "0")  # it would import polars wherever that is installed
    from hamilton import driver  # noqa: PLC0415

    logging.getLogger("hamilton").setLevel(logging.CRITICAL)  # it prints tracebacks of errors that we explain
    if flows is not None:
        from domyn_swarm.jobs.observer import Observer  # noqa: PLC0415 - made from Hamilton's class

        adapters = [Observer(flows), *adapters]
    graph = importlib.import_module(GRAPH)
    return driver.Builder().with_modules(graph).with_config(config_of(spec, where)).with_adapters(*adapters).build()


def config_of(spec: JobSpec, where: str = "driver") -> dict[str, str]:
    """What chooses among the nodes' variants."""
    return {
        "ids": "generated" if spec.id_column is None else "given",
        "mode": "native" if spec.native_backend else "items",
        "checkpoints": "resumed" if spec.resume else "anew",
        "where": where,
    }
