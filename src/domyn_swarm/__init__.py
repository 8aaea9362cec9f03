"""Run a function, most often an LLM call, over every row of a parquet dataset.

The names here are imported when they are used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domyn_swarm.engine.runner import RunResult, run
    from domyn_swarm.errors import SwarmError
    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobs.steps.models import Chat, Completion, Embedding
    from domyn_swarm.jobspec import JobSpec, make_spec
    from domyn_swarm.notebook.plan import Plan
    from domyn_swarm.notebook.start import plan
    from domyn_swarm.report.comparison.compare import compare

__version__ = "0.1.0"
__all__ = [
    "Chat", "Completion", "Embedding", "JobSpec", "Plan", "RunResult", "SwarmError", "SwarmJob", "__version__",
    "compare", "make_spec", "plan", "run",
]  # fmt: skip

_HOMES = {
    "Chat": "domyn_swarm.jobs.steps.models",
    "Completion": "domyn_swarm.jobs.steps.models",
    "Embedding": "domyn_swarm.jobs.steps.models",
    "JobSpec": "domyn_swarm.jobspec",
    "Plan": "domyn_swarm.notebook.plan",
    "RunResult": "domyn_swarm.engine.runner",
    "SwarmError": "domyn_swarm.errors",
    "SwarmJob": "domyn_swarm.jobs.base",
    "compare": "domyn_swarm.report.comparison.compare",
    "make_spec": "domyn_swarm.jobspec",
    "plan": "domyn_swarm.notebook.start",
    "run": "domyn_swarm.engine.runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
