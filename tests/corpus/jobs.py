"""The job that the corpus is run through."""

from __future__ import annotations

from typing import Any

from domyn_swarm import SwarmJob

OUTPUT = "domyn_swarm_corpus_echo"


class Echo(SwarmJob):
    """What a row's item looks like, as text: the same whatever engine has read it."""

    output_columns = (OUTPUT,)

    async def transform_item(self, item: Any) -> str:
        return repr(item)
