"""The jobs that come with the package: one chat or text completion for each row."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from domyn_swarm.endpoint.client import EndpointClient, api_key_from_environment, check_endpoint
from domyn_swarm.endpoint.demo import demo_server
from domyn_swarm.errors import ConfigurationError, EndpointError
from domyn_swarm.jobs.base import SwarmJob
from domyn_swarm.jobs.pool import ASYNC_CONCURRENCY

if TYPE_CHECKING:
    from domyn_swarm.jobs.spec import JobSpec

DEMO = "demo"
REQUEST_SECONDS = 600.0
LISTED_MODELS = 10
SHOWN_CHARS = 300


class ItemError(ValueError):
    """A row that no request can be made from; trying again would not help."""

    retryable = False


class EndpointJob(SwarmJob):
    """A job that sends one request for each row to an OpenAI-compatible endpoint.

    `request` holds parameters that every request carries as they are: `{"temperature": 0, "max_tokens": 200}`.
    """

    reserved: ClassVar[tuple[str, ...]] = ("model", "stream")
    """Parameters that `request` may not hold, because the job sets them or cannot work with them."""

    request: dict[str, Any] = dataclasses.field(default_factory=dict)

    def preflight(self, spec: JobSpec) -> None:
        """Check `request`, and that the endpoint answers and has the model, so that a wrong address costs no row.

        Raises:
            ConfigurationError: it does not, or no endpoint is given.
        """
        if taken := sorted(self.request.keys() & set(self.reserved)):
            raise ConfigurationError(
                f"--job-kwargs: `request` holds {', '.join(taken)}.",
                "The model is named with --model, the row is the content, and answers cannot be streamed.",
            )
        if spec.endpoint is None:
            raise ConfigurationError(
                f"--endpoint is missing: {type(self).__name__} asks an OpenAI-compatible server.",
                "Give its URL, set ENDPOINT, or try --endpoint demo.",
            )
        if spec.endpoint != DEMO:
            _choose_model(spec, check_endpoint(spec.endpoint))

    async def open(self, spec: JobSpec) -> None:
        """Connect, and start the demo endpoint if that is the one.

        Raises:
            EndpointError: the endpoint does not list its models.
        """
        async with contextlib.AsyncExitStack() as resources:
            url = resources.enter_context(demo_server()) if spec.endpoint in (None, DEMO) else spec.endpoint
            client = EndpointClient(
                str(url),
                api_key=api_key_from_environment(),
                timeout=max(REQUEST_SECONDS, 2 * (spec.timeout or 0)),  # --timeout is kept by whoever makes the call
                concurrency=spec.max_concurrency or ASYNC_CONCURRENCY,
            )
            self._client = await resources.enter_async_context(client)
            self._model = spec.model or _choose_model(spec, await client.models())
            self._resources = resources.pop_all()

    async def close(self) -> None:
        """Disconnect."""
        await self._resources.aclose()

    async def ask(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Send the model, `request` and `content` to `path` (`chat/completions`); the first choice of the answer.

        Raises:
            EndpointError: the request failed, or the answer has no choices.
        """
        match await self._client.post(path, {"model": self._model, **self.request, **content}):
            case {"choices": [dict() as choice, *_]}:
                return choice
            case answer:  # some servers put their errors here
                raise EndpointError(f"POST {path}: the answer has no choices: {answer!r:.{SHOWN_CHARS}}", status=200)


class ChatCompletionJob(EndpointJob):
    """The assistant's answer to each row: a list of messages, or a text that becomes the user's one message.

    `system_prompt` goes in front of them.
    """

    input_columns = ("messages",)
    output_columns = ("answer",)
    reserved = (*EndpointJob.reserved, "messages")

    system_prompt: str | None = None

    async def transform_item(self, item: Any) -> str:
        """The content of the assistant's message.

        Raises:
            ItemError: `item` is neither a text nor a list of messages.
            EndpointError: the request failed, or the answer holds no text.
        """
        messages = _messages(item)
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        choice = await self.ask("chat/completions", {"messages": messages})
        match choice:
            case {"message": {"content": str() as text}}:
                return text
        raise _no_text("chat/completions", choice)


class CompletionJob(EndpointJob):
    """The continuation of each row's text."""

    input_columns = ("prompt",)
    output_columns = ("completion",)
    reserved = (*EndpointJob.reserved, "prompt")

    async def transform_item(self, item: Any) -> str:
        """The text that follows.

        Raises:
            ItemError: `item` is no text.
            EndpointError: the request failed, or the answer holds no text.
        """
        if not isinstance(item, str):
            raise ItemError(f"a text is needed, the row has {_kind(item)}")
        choice = await self.ask("completions", {"prompt": item})
        match choice:
            case {"text": str() as text}:
                return text
        raise _no_text("completions", choice)


def _choose_model(spec: JobSpec, listed: list[str]) -> str:
    if spec.model is None and not listed:
        raise ConfigurationError(f"--model is missing: {spec.endpoint} lists none.", "Name one with --model.")
    if spec.model and listed and spec.model not in listed:
        raise ConfigurationError(
            f"--model: {spec.endpoint} has no model {spec.model!r}.",
            f"It lists: {', '.join(listed[:LISTED_MODELS])}{', …' if len(listed) > LISTED_MODELS else ''}.",
        )
    return spec.model or listed[0]


def _messages(item: Any) -> list[dict[str, Any]]:
    if isinstance(item, str):
        return [{"role": "user", "content": item}]
    if not isinstance(item, list) or not item:
        raise ItemError(f"a text or a list of messages is needed, the row has {_kind(item)}")
    return [_message(message, number) for number, message in enumerate(item)]


def _message(message: Any, number: int) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ItemError(f"message {number} is {_kind(message)}, not a role and a content")
    given: dict[str, Any] = _without_nulls(message)
    if not isinstance(given.get("role"), str):
        raise ItemError(f"message {number} has no role")
    if "content" not in given and "tool_calls" not in given:
        raise ItemError(f"message {number} has no content")
    return given


def _without_nulls(value: Any) -> Any:
    """Parquet gives every dict of a list the keys of all of them, and servers refuse nulls that they do not know."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return "an empty list" if value == [] else f"{type(value).__name__} {value!r:.80}"


def _no_text(path: str, choice: dict[str, Any]) -> EndpointError:
    reason = choice.get("finish_reason")
    return EndpointError(f"POST {path}: the answer has no text{f' (finish_reason {reason!r:.40})' if reason else ''}.")
