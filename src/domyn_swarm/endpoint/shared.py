"""Equal requests, sent once."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.helpers.places import given_back

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MOST_BYTES = 2**30


class SharedAnswers:
    """Answers by request: one that is under way is waited for, one that is there is taken.

    Answers are kept as JSON, up to `most_bytes` of it; beyond that those go that were not asked for the longest. A
    failure is shared with those who wait for it, and then forgotten.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._room = most_bytes
        self._answers: OrderedDict[bytes, bytes] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Future[Any]] = {}

    async def once(
        self, path: str, body: bytes, ask: Callable[[], Awaitable[Any]], kind: type[Any]
    ) -> tuple[Any, bool]:
        """What `ask` returns, a `kind`, for this request, and whether somebody else had asked before."""
        key = hashlib.blake2b(body, digest_size=16, key=path.encode()).digest()
        if (kept := self._answers.get(key)) is not None:
            self._answers.move_to_end(key)
            return msgspec.json.decode(kept, type=kind), True
        if (under_way := self._under_way.get(key)) is not None:
            async with given_back():
                return await asyncio.shield(under_way), True
        return await self._ask(key, ask), False

    async def _ask(self, key: bytes, ask: Callable[[], Awaitable[Any]]) -> Any:
        future = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await ask()
        except asyncio.CancelledError:
            future.cancel()
            raise
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # nobody may be waiting for it
            raise
        else:
            future.set_result(answer)
            self._keep(key, msgspec.json.encode(answer))
            return answer
        finally:
            del self._under_way[key]

    def _keep(self, key: bytes, answer: bytes) -> None:
        self._answers[key] = answer
        self._room -= len(answer)
        while self._room < 0:
            self._room += len(self._answers.popitem(last=False)[1])
