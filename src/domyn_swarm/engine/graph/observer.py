"""Hamilton's hook for what its nodes do: each is timed, and a stream that it returns is measured as it is pulled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hamilton.lifecycle import NodeExecutionMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from domyn_swarm.engine.recording.node_stats import Flows

logger = logging.getLogger("domyn_swarm")


class Observer(NodeExecutionMethod):  # type: ignore[misc]  # Hamilton is not typed
    """Measures the nodes that run in this process."""

    def __init__(self, flows: Flows) -> None:
        self._flows = flows

    def run_to_execute_node(
        self, *, node_name: str, node_callable: Callable[..., Any], node_kwargs: Mapping[str, Any], **_: Any
    ) -> Any:
        """What the node returns."""
        with self._flows.running(node_name) as flow:
            result = node_callable(**node_kwargs)
        logger.debug("node %s: %.3f s", node_name, flow.seconds)
        return self._flows.measured(node_name, result) if isinstance(result, Iterator) else result
