"""Embeddings: a vector for each row's text."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from domyn_swarm.errors import ConfigurationError, EndpointError
from domyn_swarm.jobs.endpoint import EndpointJob, ItemError, kind_of
from domyn_swarm.jobs.replies import SHOWN_CHARS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domyn_swarm.endpoint.load_balancer import Answer
    from domyn_swarm.jobspec import JobSpec

PATH = "embeddings"
BASE64 = {"encoding_format": "base64"}
REFUSED = frozenset({400, 413, 415, 422, 500, 501})
"""What a server says when one text of a list is to blame (500: llama.cpp, when it is too long), or their number."""


class EmbeddingJob(EndpointJob):
    """The vector of each row's text, as a list of 32-bit floats.

    `batch_size` texts go into one request. A list that the server refuses is sent again text by text, so that one which
    is too long fails alone. Vectors are asked for in base64, which is shorter; a server that refuses that is asked for
    its own format from then on. `request` may name an `encoding_format`, which then is the only one.
    """

    input_columns = ("text",)
    output_columns = ("embedding",)
    reserved = (*EndpointJob.reserved, "input")

    def prepare(self, spec: JobSpec) -> None:
        """Check that there is one column for the vector; nothing is known of the server's formats.

        Raises:
            ConfigurationError: there are several.
        """
        if len(spec.output_columns) > 1:
            raise ConfigurationError(
                f"{type(self).__name__} makes one column, not {len(spec.output_columns)}.",
                "Name one.",
                code="output_columns.count",
                option="output_columns",
            )
        self._format: dict[str, Any] = {} if "encoding_format" in self.parameters() else BASE64
        self._takes_base64 = False

    async def transform_items(self, items: list[Any]) -> list[Any]:
        """A vector for each text; an error for each item that is no text, or that the server refuses.

        Raises:
            EndpointError: the request failed for all of them.
        """
        outputs: list[Any] = [_checked(item) for item in items]
        rows = [row for row, text in enumerate(outputs) if isinstance(text, str)]
        if rows:
            vectors = await self._vectors([outputs[row] for row in rows])
            for row, vector in zip(rows, vectors, strict=True):
                outputs[row] = vector
        return outputs

    async def _vectors(self, texts: list[str]) -> Sequence[Any]:
        asked = self._format
        try:
            vectors = _vectors_of(await self.ask(PATH, {"input": texts, **asked}), len(texts))
        except EndpointError as error:
            if error.status not in REFUSED:
                raise
            refused = error
        else:
            self._takes_base64 = self._takes_base64 or bool(asked)
            return vectors
        if len(texts) == 1 and self._format is asked:
            return [refused] if self._takes_base64 or not asked else [await self._in_own_format(texts[0], refused)]
        first = await self._vector(texts[0]) if self._format is asked else None
        if self._format is not asked:  # it was the format, not the texts
            return await self._vectors(texts)
        return [first, *[await self._vector(text) for text in texts[1:]]]

    async def _in_own_format(self, text: str, refused: EndpointError) -> Any:
        """The vector of a text that was refused in base64. If the server makes it, it is asked for base64 no more."""
        try:
            vector = _vectors_of(await self.ask(PATH, {"input": [text]}), 1)[0]
        except EndpointError:
            return refused
        self._format = {}
        return vector

    async def _vector(self, text: str) -> Any:
        try:
            return (await self._vectors([text]))[0]
        except EndpointError as error:
            return error


def _checked(item: Any) -> Any:
    return item if isinstance(item, str) else ItemError(f"a text is needed, the row has {kind_of(item)}")


def _vectors_of(answer: Answer, count: int) -> list[Any]:
    match answer.body:
        case {"data": [*entries]} if len(entries) == count:
            pass
        case body:
            raise EndpointError(
                f"The answer has not {count} embeddings: {body!r:.{SHOWN_CHARS}}", status=200, code="reply.no_embedding"
            )
    vectors: list[Any] = [None] * count
    try:
        for number, entry in enumerate(entries):
            index = entry.get("index", number)
            if index < 0:
                raise ValueError(f"index {index}")
            vectors[index] = _floats(entry["embedding"])
        if any(one is None for one in vectors):
            raise ValueError("two have the same index")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise EndpointError(
            f"The answer holds what is no embedding: {error!r:.{SHOWN_CHARS}}", status=200, code="reply.no_embedding"
        ) from None
    return vectors


def _floats(embedding: Any) -> Any:
    """Numbers as such, or the bytes of 32-bit floats; servers may do either whatever they were asked for."""
    if isinstance(embedding, str):
        vector = np.frombuffer(base64.b64decode(embedding), dtype="<f4")
    else:
        vector = np.asarray(embedding, dtype="<f4")
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        raise ValueError("numbers are needed, at least one")
    return vector
