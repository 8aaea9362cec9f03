"""Equal requests, sent once."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.concurrency.slots import given_back

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MOST_BYTES = 2**30


class SingleFlight:
    """Answers by request: one that is under way is waited for, one that is there is taken.

    Answers are kept as JSON, up to `most_bytes` of it; beyond that those go that were not asked for the longest. A
    failure is shared with those who wait for it, and then forgotten.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._bytes_left = most_bytes
        self._answers: OrderedDict[bytes, bytes] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Future[Any]] = {}

    async def once(
        self, path: str, body: bytes, ask: Callable[[], Awaitable[Any]], kind: type[Any]
    ) -> tuple[Any, bool]:
        """What `ask` returns, a `kind`, for this request, and whether somebody else had asked before."""
        key = hashlib.blake2b(b"%b\0%b" % (path.encode(), body), digest_size=16).digest()
        if key in self._answers:
            self._answers.move_to_end(key)
            kept = self._answers[key]
        elif (under_way := self._under_way.get(key)) is not None:
            async with given_back():
                kept = await asyncio.shield(under_way)
        else:
            return await self._ask(key, ask), False
        return msgspec.json.decode(kept, type=kind), True

    async def _ask(self, key: bytes, ask: Callable[[], Awaitable[Any]]) -> Any:
        future = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await ask()
            kept = msgspec.json.encode(answer)  # nobody gets an object that others change
        except asyncio.CancelledError:
            future.cancel()
            raise
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # nobody may be waiting for it
            raise
        finally:
            del self._under_way[key]
        future.set_result(kept)
        self._keep(key, kept)
        return answer

    def _keep(self, key: bytes, answer: bytes) -> None:
        self._answers[key] = answer
        self._bytes_left -= len(answer)
        while self._bytes_left < 0:
            self._bytes_left += len(self._answers.popitem(last=False)[1])
