"""Jobs: what users write, how one is described, and how it runs. Names are imported when they are used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobs.chat import ChatCompletionJob, MultiTurnChatCompletionJob
    from domyn_swarm.jobs.completion import CompletionJob
    from domyn_swarm.jobs.embedding import EmbeddingJob
    from domyn_swarm.jobs.endpoint import EndpointJob

__all__ = [
    "ChatCompletionJob",
    "CompletionJob",
    "EmbeddingJob",
    "EndpointJob",
    "MultiTurnChatCompletionJob",
    "SwarmJob",
]

_HOMES = {
    "ChatCompletionJob": "domyn_swarm.jobs.chat",
    "CompletionJob": "domyn_swarm.jobs.completion",
    "EmbeddingJob": "domyn_swarm.jobs.embedding",
    "EndpointJob": "domyn_swarm.jobs.endpoint",
    "MultiTurnChatCompletionJob": "domyn_swarm.jobs.chat",
    "SwarmJob": "domyn_swarm.jobs.base",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
