"""Models as steps see them: parameters annotated `Chat`, `Completion` or `Embedding`, which are called for answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias, overload

import msgspec

from domyn_swarm.data.finite import check_finite
from domyn_swarm.errors import ConfigurationError, JobError, opt
from domyn_swarm.jobs import chat, completion, embedding
from domyn_swarm.jobs.contents import reasoning_of, text_of
from domyn_swarm.jobs.endpoint import ItemError, kind_of
from domyn_swarm.jobs.json_schema import Structure
from domyn_swarm.jobs.messages import messages_of
from domyn_swarm.jobs.replies import choices_of, judged_by_text, together
from domyn_swarm.jobs.second_request import fitting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from domyn_swarm.endpoint.load_balancer import Answer, Judge

Ask: TypeAlias = "Callable[[str, dict[str, Any], Judge | None], Awaitable[Answer]]"
"""Sends a request: its path, its content, and who judges the answer's body."""
Schema: TypeAlias = "dict[str, Any] | str | type"


class Reply(NamedTuple):
    """All of an answer.

    `text` is None where the model gave none (a tool call, say), `data` where no schema was given. `usage` has the
    tokens of all requests that were sent for it, `attempts` their number, `seconds` the time that they took.
    """

    text: str | None
    data: Any
    reasoning: str | None
    tool_calls: list[dict[str, Any]]
    finish_reason: str | None
    usage: dict[str, Any]
    attempts: int
    seconds: float


class Model:
    """A model that steps may call. The parameter's name selects the endpoint and the model behind it."""

    reserved: ClassVar[frozenset[str]] = frozenset({"model", "stream", "n", "extra_headers", "extra_query", "timeout"})
    """Parameters that a request may not have: the run sets them, or an answer would be several."""

    def __init__(self, ask: Ask, name: str = "model") -> None:
        self._ask = ask
        self._name = name

    def _content(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """`request` as the body's part. A mistake in it is every row's.

        Raises:
            JobError: it holds what the run sets, or numbers that JSON does not have.
        """
        if taken := sorted(request.keys() & self.reserved):
            raise JobError(
                f"{self._name}: a request of a step holds {', '.join(taken)}.",
                f"{opt('model')} and {opt('endpoints')} name the model, {opt('timeout')} the time; a step gets one "
                "whole answer.",
                code="request.reserved",
            )
        try:
            check_finite(self._name, dict(request))
        except ConfigurationError as error:
            raise JobError(error.text, error.advice, **error.about) from None
        extra = request.get("extra_body")
        return {**{key: value for key, value in request.items() if key != "extra_body"}, **(extra or {})}


class Chat(Model):
    """A chat model: `await chat(text_or_messages, schema=..., temperature=0)`."""

    reserved = Model.reserved | {"messages"}

    def __init__(self, ask: Ask, name: str = "chat") -> None:
        super().__init__(ask, name)
        self._structures: dict[str | bytes | type, Structure] = {}

    @overload
    async def __call__(self, content: Any, *, schema: None = None, **request: Any) -> str: ...
    @overload
    async def __call__(self, content: Any, *, schema: Schema, **request: Any) -> Any: ...
    async def __call__(self, content: Any, *, schema: Schema | None = None, **request: Any) -> Any:
        """The answer's text; with `schema` data that fits it.

        Args:
            content: A text, which becomes the user's message, or a list of messages.
            schema: A JSON schema, the path of one, or a pydantic model: data comes as dicts, lists and scalars. An
                answer that does not fit is sent back once.
            **request: Parameters of the request, as they are.

        Raises:
            EndpointError: the request failed, or the answer has no text.
            StructureError: the answer does not fit the schema, nor does the second one.
            ItemError: no messages can be made of `content`.
        """
        reply = await self._reply(content, schema, request, judged_by_text)
        return reply.text if schema is None else reply.data

    async def reply(self, content: Any, *, schema: Schema | None = None, **request: Any) -> Reply:
        """All of the answer; without a `schema` it need not have a text. Arguments and errors as above."""
        return await self._reply(content, schema, request, None if schema is None else judged_by_text)

    async def _reply(
        self, content: Any, schema: Schema | None, request: Mapping[str, Any], judge: Judge | None
    ) -> Reply:
        messages = [{"role": "user", "content": content}] if isinstance(content, str) else messages_of(content)
        body = self._content(request)
        structure = None if schema is None else self._structure(schema)
        if structure is not None and "response_format" not in body:
            body["response_format"] = structure.response_format

        async def ask(messages: list[dict[str, Any]]) -> tuple[Answer, list[dict[str, Any]]]:
            answer = await self._ask(chat.PATH, {**body, "messages": messages}, judge)
            return answer, choices_of(answer)

        answer, choices = await ask(messages)
        if structure is None:
            return _reply_of(answer, choices[0], None)
        data, answers, choices = await fitting(
            lambda choice: structure.checked(text_of(choice)), ask, messages, answer, choices
        )
        return _reply_of(together(answers), choices[0], data[0])

    def _structure(self, schema: Schema) -> Structure:
        """The schema, read once. Raises a JobError where it is none: no row could have an answer."""
        key = msgspec.json.encode(schema, order="sorted") if isinstance(schema, dict) else schema
        if key not in self._structures:
            try:
                self._structures[key] = Structure(schema)
            except ConfigurationError as error:
                raise JobError(f"{self._name}: {error.text}", error.advice, code=error.code) from None
        return self._structures[key]


class Completion(Model):
    """A model that continues texts: `await completion("Once upon a time", max_tokens=50)`."""

    reserved = Model.reserved | {"prompt"}

    async def __call__(self, prompt: str, **request: Any) -> str:
        """The text that follows `prompt`.

        Raises:
            EndpointError: the request failed, or the answer has no text.
            ItemError: `prompt` is no text.
        """
        reply = await self._reply(prompt, request, judged_by_text)
        return reply.text or ""

    async def reply(self, prompt: str, **request: Any) -> Reply:
        """All of the answer. Arguments and errors as above."""
        return await self._reply(prompt, request, None)

    async def _reply(self, prompt: Any, request: Mapping[str, Any], judge: Judge | None) -> Reply:
        if not isinstance(prompt, str):
            raise ItemError(f"a text is needed, {self._name} got {kind_of(prompt)}")
        answer = await self._ask(completion.PATH, {**self._content(request), "prompt": prompt}, judge)
        return _reply_of(answer, choices_of(answer)[0], None)


class Embedding(Model):
    """A model that makes vectors of texts: `await embed("a text")`, or of a list of them in one request."""

    reserved = Model.reserved | {"input"}

    def __init__(self, ask: Ask, name: str = "embedding") -> None:
        super().__init__(ask, name)
        self._jobs: dict[bytes, _Embeddings] = {}

    async def __call__(self, text: str | Sequence[str], **request: Any) -> list[Any]:
        """The vector of `text`, as a list of numbers; a list of vectors for a list of texts.

        Raises:
            EndpointError: the request failed, or the server refuses one of the texts.
            ItemError: one of them is no text.
        """
        body = self._content(request)
        key = msgspec.json.encode(body, order="sorted")
        if key not in self._jobs:
            self._jobs[key] = _Embeddings(self._ask, body)
        texts = [text] if isinstance(text, str) or not isinstance(text, (list, tuple)) else list(text)
        vectors = await self._jobs[key].transform_items(texts)
        if failed := next((one for one in vectors if isinstance(one, Exception)), None):
            raise failed
        lists = [vector.tolist() for vector in vectors]
        return lists if isinstance(text, (list, tuple)) else lists[0]


class _Embeddings(embedding.EmbeddingJob):
    """What that job knows of servers, over a connection that is open already."""

    def __init__(self, ask: Ask, request: dict[str, Any]) -> None:
        self.request = request
        self._send = ask
        self._format = {} if "encoding_format" in request else embedding.BASE64
        self._takes_base64 = False

    async def ask(self, path: str, content: dict[str, Any], judge: Judge | None = None) -> Answer:
        return await self._send(path, {**self.request, **content}, judge)


def _reply_of(answer: Answer, choice: dict[str, Any], data: Any) -> Reply:
    message = choice.get("message")
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    usage = answer.body.get("usage")
    return Reply(
        text=_text_or_none(choice), data=data, reasoning=reasoning_of(choice), tool_calls=calls or [],
        finish_reason=choice.get("finish_reason"), usage=usage if isinstance(usage, dict) else {},
        attempts=answer.attempts, seconds=answer.seconds,
    )  # fmt: skip


def _text_or_none(choice: dict[str, Any]) -> str | None:
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else choice.get("text")
    if isinstance(content, str):
        return content
    return text_of(choice) if content else None
