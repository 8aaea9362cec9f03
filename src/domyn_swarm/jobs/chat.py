"""The jobs that come with the package: one chat or text completion for each row."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from domyn_swarm.endpoint.client import EndpointClient, api_key_from_environment, check
from domyn_swarm.errors import ConfigurationError, DataError, EndpointError
from domyn_swarm.jobs.base import SwarmJob
from domyn_swarm.jobs.pool import ASYNC_CONCURRENCY

if TYPE_CHECKING:
    from domyn_swarm.jobs.spec import JobSpec

REQUEST_SECONDS = 600.0
LISTED_MODELS = 10


class ItemError(DataError, ValueError):
    """A row's item that no request can be made from; asking again cannot help."""

    retryable: ClassVar[bool] = False


class EndpointJob(SwarmJob):
    """A job that sends one request for each row to an OpenAI-compatible endpoint.

    `request` holds further parameters of each request (`{"temperature": 0, "max_tokens": 64}`), passed on untouched.
    """

    uses_endpoint = True
    reserved: ClassVar[tuple[str, ...]] = ("model", "stream")
    """Parameters that `request` may not hold, because the job sets them or cannot work with them."""

    request: dict[str, Any] = field(default_factory=dict)

    # Without annotations these are no fields, so that the job stays rebuildable from JSON.
    _client = cast("EndpointClient | None", None)
    _model = ""

    def preflight(self, spec: JobSpec) -> None:
        """Check `request`, and that the endpoint answers and knows the model.

        Raises:
            ConfigurationError: it does not, or no endpoint is given.
        """
        if taken := sorted(self.request.keys() & self.reserved):
            raise ConfigurationError(
                f"--job-kwargs: `request` holds {', '.join(taken)}.",
                "Give the model with --model; the rows' items are the content; answers cannot be streamed.",
            )
        url = _endpoint(spec)
        _chosen_model(spec, check(url), url)

    async def open(self, spec: JobSpec) -> None:
        """Connect to the endpoint.

        Raises:
            ConfigurationError: there is no endpoint, or it lists no model and none was named.
            EndpointError: it does not list its models.
        """
        url = _endpoint(spec)
        client = EndpointClient(
            url,
            api_key=api_key_from_environment(),
            timeout=spec.timeout or REQUEST_SECONDS,
            concurrency=spec.max_concurrency or ASYNC_CONCURRENCY,
        )
        await client.open()
        try:
            self._model = spec.model or _chosen_model(spec, await client.models(), url)
        except BaseException:
            await client.close()
            raise
        self._client = client

    async def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def ask(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Send the model, `request` and `content` to `path`, and return the first choice of the answer.

        Raises:
            EndpointError: the request failed, or the answer has no choices.
        """
        if self._client is None:
            raise RuntimeError(f"{type(self).__name__}.open() was not called")
        answer = await self._client.post(path, {"model": self._model, **self.request, **content})
        match answer:
            case {"choices": [dict() as choice, *_]}:
                return choice
        raise _misshapen(path, "no choices[0]")


class ChatCompletionJob(EndpointJob):
    """One chat completion for each row.

    An item is a list of messages (`{"role": ..., "content": ...}`), or a string that becomes the one user message.
    `system_prompt` goes in front.
    """

    input_columns = ("messages",)
    output_columns = ("answer",)
    reserved = (*EndpointJob.reserved, "messages")

    system_prompt: str | None = None

    async def transform_item(self, item: Any) -> str:
        """The assistant's message.

        Raises:
            ItemError: `item` is neither a string nor a list of messages.
            EndpointError: the request failed, or the answer holds no text.
        """
        messages = _messages(item)
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        match await self.ask("/chat/completions", {"messages": messages}):
            case {"message": {"content": str() as text}}:
                return text
            case choice:
                raise _misshapen("/chat/completions", "no text in choices[0].message.content", choice)


class CompletionJob(EndpointJob):
    """One text completion for each row, whose item is the prompt."""

    input_columns = ("prompt",)
    output_columns = ("answer",)
    reserved = (*EndpointJob.reserved, "prompt")

    async def transform_item(self, item: Any) -> str:
        """The text that follows the prompt.

        Raises:
            ItemError: `item` is no string.
            EndpointError: the request failed, or the answer holds no text.
        """
        if not isinstance(item, str):
            raise ItemError(f"The prompt is {_kind(item)}, not a string.")
        match await self.ask("/completions", {"prompt": item}):
            case {"text": str() as text}:
                return text
            case choice:
                raise _misshapen("/completions", "no text in choices[0].text", choice)


def _endpoint(spec: JobSpec) -> str:
    if spec.endpoint is None:
        raise ConfigurationError(
            "--endpoint is missing.",
            "Give the URL of an OpenAI-compatible server with --endpoint or in ENDPOINT, or try `--endpoint demo`.",
        )
    return spec.endpoint


def _chosen_model(spec: JobSpec, names: list[str], url: str) -> str:
    if spec.model is None:
        if not names:
            raise ConfigurationError(f"--model is missing, and {url} lists no models.", "Name one with --model.")
        return names[0]
    if names and spec.model not in names:
        more = f" and {len(names) - LISTED_MODELS} more" if len(names) > LISTED_MODELS else ""
        raise ConfigurationError(
            f"--model: {url} has no model {spec.model!r}.", f"It has {', '.join(names[:LISTED_MODELS])}{more}."
        )
    return spec.model


def _messages(item: Any) -> list[dict[str, Any]]:
    if isinstance(item, str):
        return [{"role": "user", "content": item}]
    if not isinstance(item, list):
        raise ItemError(f"The item is {_kind(item)}, neither a string nor a list of messages.")
    if not item:
        raise ItemError("The list of messages is empty.")
    return [_message(message, number) for number, message in enumerate(item)]


def _message(message: Any, number: int) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ItemError(f"Message {number} is {_kind(message)}, not a role and a content.")
    # Parquet gives every message of a list the fields of all of them, and servers refuse nulls that they do not know.
    given = {name: value for name, value in message.items() if value is not None}
    if not isinstance(given.get("role"), str):
        raise ItemError(f"Message {number} has no role.")
    if "content" not in given and "tool_calls" not in given:
        raise ItemError(f"Message {number} has no content.")
    return given


def _kind(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


def _misshapen(path: str, what: str, choice: dict[str, Any] | None = None) -> EndpointError:
    reason = (choice or {}).get("finish_reason")
    because = f" (finish_reason: {str(reason)[:40]})" if reason else ""
    return EndpointError(f"The answer of {path} has {what}{because}.", status=200)
