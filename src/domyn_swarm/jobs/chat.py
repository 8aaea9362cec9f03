"""Jobs that ask an OpenAI-compatible endpoint about every row."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

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


class EndpointJob(SwarmJob):
    """What jobs over an endpoint share: finding it, the model's name, the client.

    `request` holds parameters that every request carries as they are: `{"temperature": 0, "max_tokens": 200}`.
    """

    request: dict[str, Any] = dataclasses.field(default_factory=dict)

    def preflight(self, spec: JobSpec) -> None:
        """Ask the endpoint for its models, so that a wrong address or model costs no row."""
        if spec.endpoint is None:
            raise ConfigurationError(
                f"--endpoint is missing: {type(self).__name__} asks an OpenAI-compatible server.",
                "Give its URL, set ENDPOINT, or try --endpoint demo.",
            )
        if spec.endpoint == DEMO:
            return
        models = check_endpoint(spec.endpoint)
        if spec.model and models and spec.model not in models:
            raise ConfigurationError(
                f"--model: {spec.endpoint} has no model {spec.model!r}.",
                f"It lists: {', '.join(models[:LISTED_MODELS])}{', …' if len(models) > LISTED_MODELS else ''}.",
            )
        if not spec.model and not models:
            raise ConfigurationError(f"--model is missing: {spec.endpoint} lists none.", "Name one with --model.")

    async def open(self, spec: JobSpec) -> None:
        """Connect, and start the demo endpoint if that is the one."""
        self._resources = contextlib.AsyncExitStack()
        url = spec.endpoint or DEMO
        if url == DEMO:
            url = self._resources.enter_context(demo_server())
        concurrency = spec.max_concurrency or ASYNC_CONCURRENCY
        self._client = await self._resources.enter_async_context(
            EndpointClient(
                url,
                api_key=api_key_from_environment(),
                timeout=spec.timeout or REQUEST_SECONDS,
                concurrency=concurrency,
            )
        )
        self._model = spec.model or (await self._client.models())[0]

    async def close(self) -> None:
        """Disconnect."""
        await self._resources.aclose()

    async def _choice(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        answer = await self._client.post(path, {"model": self._model, **self.request, **payload})
        try:
            choice: dict[str, Any] = answer["choices"][0]
        except (KeyError, IndexError, TypeError):
            raise EndpointError(f"POST {path}: the answer has no choices.") from None
        return choice


class ChatCompletionJob(EndpointJob):
    """The assistant's answer to each row: a list of messages, or a text that becomes the user's one message."""

    input_columns = ("messages",)
    output_columns = ("answer",)
    system_prompt: str | None = None

    async def transform_item(self, item: Any) -> str | None:
        """The content of the first choice."""
        choice = await self._choice("chat/completions", {"messages": self._messages(item)})
        try:
            content: str | None = choice["message"]["content"]
        except (KeyError, TypeError):
            raise EndpointError("POST chat/completions: the answer's choice has no message.") from None
        return content

    def _messages(self, item: Any) -> list[Any]:
        if isinstance(item, str):
            messages: list[Any] = [{"role": "user", "content": item}]
        elif isinstance(item, list) and item and all(isinstance(message, dict) for message in item):
            messages = [{key: value for key, value in message.items() if value is not None} for message in item]
        else:
            raise ItemError(f"a text or a list of messages is needed, the row has {type(item).__name__} {item!r:.80}")
        return [{"role": "system", "content": self.system_prompt}, *messages] if self.system_prompt else messages


class CompletionJob(EndpointJob):
    """The continuation of each row's text."""

    input_columns = ("prompt",)
    output_columns = ("completion",)

    async def transform_item(self, item: Any) -> str | None:
        """The text of the first choice."""
        if not isinstance(item, str):
            raise ItemError(f"a text is needed, the row has {type(item).__name__} {item!r:.80}")
        choice = await self._choice("completions", {"prompt": item})
        if "text" not in choice:
            raise EndpointError("POST completions: the answer's choice has no text.")
        text: str | None = choice["text"]
        return text


class ItemError(ValueError):
    """A row that cannot be asked about; trying again would not help."""

    retryable = False
