"""Replicas that seem to be gone: each is asked for its models until it answers, and takes requests again then."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from domyn_swarm.concurrency import slots
from domyn_swarm.endpoint.replica import GONE_STATUS
from domyn_swarm.errors import ConditionError, EndpointError

if TYPE_CHECKING:
    from domyn_swarm.endpoint.replica import Replica

FIRST_SECONDS, MOST_SECONDS = 0.25, 10.0
"""Between two probes of a replica, at first and at most."""
JUDGE_SECONDS = 0.05

logger = logging.getLogger("domyn_swarm")


class Probes:
    """The tasks that ask, one for each replica that was set aside."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop asking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def judge(self, replica: Replica, error: EndpointError) -> None:
        """Set `replica` aside until it answers; returns when it is known whether it is there."""
        if replica.aside is None:
            replica.aside = asyncio.Event()
            task = asyncio.get_running_loop().create_task(_probe(replica, error))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        judged = replica.aside
        while not judged.is_set():
            await slots.pause(JUDGE_SECONDS, keeping=True)


async def _probe(replica: Replica, error: EndpointError) -> None:
    """Take `replica` back when it answers, whatever it says. If it does not at once, its failures are its own."""
    url, wait, warned = replica.client.base_url, FIRST_SECONDS, False
    judged = replica.aside
    while True:
        try:
            await replica.client.models()
            break
        except EndpointError as probed:
            if probed.status not in GONE_STATUS:
                break
        except ConditionError:  # our own resources, which say nothing about the endpoint
            pass
        replica.spell.is_replicas = True
        if judged is not None:
            judged.set()
        if not warned:
            logger.warning("%s is set aside until it answers: %s", url, error.message)
            warned = True
        await asyncio.sleep(wait)
        wait = min(2 * wait, MOST_SECONDS)
    if warned:
        logger.info("%s is back", url)
        replica.pace.restart()
        replica.answered()
    replica.is_there()
    if judged is not None:
        judged.set()
