"""Chat completions: one answer for each row, or one for each turn of its conversation."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

from domyn_swarm.errors import ConfigurationError, opt
from domyn_swarm.jobs.contents import text_of
from domyn_swarm.jobs.endpoint import EndpointJob, ItemError
from domyn_swarm.jobs.facts import FACTS, MESSAGE_FACTS
from domyn_swarm.jobs.field_options import is_model, model_as_data
from domyn_swarm.jobs.json_schema import Content, Structure, schema_of
from domyn_swarm.jobs.media import MARKERS, Kind, Media
from domyn_swarm.jobs.messages import Shape, messages_of, shown_in_prompt
from domyn_swarm.jobs.replies import ReplyColumns, choices_of, counting, judged_by_text
from domyn_swarm.jobs.row_requests import RowRequestJob
from domyn_swarm.jobs.second_request import fitting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.endpoint.load_balancer import Answer, Judge
    from domyn_swarm.jobspec import JobSpec

PATH = "chat/completions"


class ChatJob(RowRequestJob):
    """What jobs over chat completions have in common: how a row becomes messages.

    A row is a list of messages, or a text that becomes the user's one message unless it holds messages as JSON.
    `messages_as` is "sharegpt" for messages of `from` and `value`, "text" for texts that are never more than that.
    `system_prompt` goes in front of them. With `prompt`, a template over columns ("Translate into {language}: {text}"),
    the user's message is made of those.

    `images` and `audio` name columns of pictures and of sounds: bytes, paths, URLs, structs with `bytes` or `path`, or
    lists of them, of at most `max_media_bytes` each. They go in front of the last user message's text, or where the
    prompt says `{image}` and `{audio}`.

    Output columns with these names are facts about the answer: `finish_reason`, `reasoning`, `refusal`, `message`,
    `tool_calls`, `logprobs` and `response` (JSON text, as the server has them), `model`, `prompt_tokens`,
    `completion_tokens`, `cached_tokens`, `reasoning_tokens`, `latency` (seconds), `attempts`. The one with another name
    is the content.
    """

    input_columns = ("messages",)
    reserved = (*EndpointJob.reserved, "messages")

    system_prompt: str | None = None
    prompt: str | None = None
    messages_as: Shape = "openai"
    images: str | list[str] | None = None
    audio: str | list[str] | None = None
    max_media_bytes: int = 20 * 2**20

    def default_columns(self) -> tuple[Sequence[str], Sequence[str]]:
        """The columns of `prompt`, if there is one."""
        prompted = [name for name in self._prompt_columns() if name not in self._media_columns()]
        has_content = prompted or (self.prompt is not None and self._media_columns())
        return prompted if has_content else self.input_columns, self.output_columns

    def extra_columns(self) -> Sequence[str]:
        """Those of pictures, of sounds and of request parameters."""
        media = [name for names in self._media_columns().values() for name in names]
        return list(dict.fromkeys([*media, *super().extra_columns()]))

    def _media_columns(self) -> dict[Kind, list[str]]:
        given: dict[Kind, str | list[str] | None] = {"image": self.images, "audio": self.audio}
        return {kind: [names] if isinstance(names, str) else names for kind, names in given.items() if names}

    def prepare(self, spec: JobSpec) -> None:
        """Read the prompt and the output columns.

        Raises:
            ConfigurationError: one of them cannot be used.
        """
        super().prepare(spec)
        self.reply = ReplyColumns(self, spec, self.structure(spec), {**FACTS, **MESSAGE_FACTS})
        media = self._media_columns()
        self._markers: dict[str, str] = {kind: MARKERS[kind] for kind in media}
        options = spec.backend_read_kwargs.get("storage_options")
        self._media = Media(media, self.max_media_bytes, options) if media else None
        self._prompted_by = [name for name in self._prompt_columns() if name not in media]
        if missing := [name for name in self._prompted_by if name not in self._inputs]:
            raise ConfigurationError(
                f"it uses {missing[0]!r}, which is none of the input columns.",
                f"Add {opt('input_columns', missing[0])}, or leave them all out: the prompt says which it needs.",
                code="prompt.column",
                option="prompt",
                column=missing[0],
            )

    def structure(self, spec: JobSpec) -> Structure | None:
        """What the content is held against when it is data; None when it is text."""
        return None

    def output_types(self, spec: JobSpec) -> Mapping[str, Any]:
        """The types of the columns that a schema decides."""
        self.prepare(spec)
        return self.reply.types

    async def chat(
        self, messages: list[dict[str, Any]], judge: Judge | None = judged_by_text, **parameters: Any
    ) -> tuple[Answer, list[dict[str, Any]]]:
        """The answer to `messages`, and its choices; `judge` is that of `ask`.

        Raises:
            EndpointError: the request failed, or a choice has no text where one is needed.
        """
        answer = await self.ask(PATH, {**parameters, "messages": messages}, judge)
        return answer, choices_of(answer)

    def messages(self, item: Any) -> list[dict[str, Any]]:
        """The messages that are sent for `item`.

        Raises:
            ItemError: `item` is neither a text nor a list of messages, or lacks what the prompt needs.
        """
        if self.prompt is not None:
            messages = messages_of(self._prompted(item), "text")
        else:
            messages = messages_of(self.content_of(item), self.messages_as)
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return messages

    async def all_messages(self, item: Any) -> list[dict[str, Any]]:
        """The messages that are sent for `item`, with its pictures and sounds.

        Raises:
            ItemError: as `messages`, and when a picture or a sound cannot be read or sent.
        """
        messages = self.messages(item)
        return messages if self._media is None else await self._media.add_to(messages, self.values_of(item))

    def _prompted(self, item: Any) -> str:
        """The prompt, filled in. One input column comes as its value, several as a dict."""
        values = self.values_of(item)
        shown = {name: shown_in_prompt(name, values[name]) for name in self._prompted_by}
        return str(self.prompt).format_map({**shown, **self._markers})

    def _prompt_columns(self) -> list[str]:
        try:
            fields = [field for field in string.Formatter().parse(self.prompt or "") if field[1] is not None]
        except ValueError as error:
            raise ConfigurationError(
                f"no template: {error}.",
                "Write {{ and }} where braces are meant.",
                code="prompt.template",
                option="prompt",
            ) from None
        names = [str(name) for _, name, _, _ in fields]
        if wrong := [name for name in names if not name or name.isdigit() or set(name) & set(".[\"'")]:
            raise ConfigurationError(
                f"it holds {{{wrong[0]}}}, which names no column.",
                "Write {column}, and {{ and }} where braces are meant.",
                code="prompt.template",
                option="prompt",
            )
        if formatted := [name for _, name, spec, conversion in fields if spec or conversion]:
            raise ConfigurationError(
                f"it formats {formatted[0]!r}, and columns are shown as they are.",
                f"Write {{{formatted[0]}}}, and {{{{ and }}}} where braces are meant.",
                code="prompt.template",
                option="prompt",
                column=str(formatted[0]),
            )
        return list(dict.fromkeys(names))


class ChatCompletionJob(ChatJob):
    """The assistant's answer to each row.

    With `schema` (a JSON schema, the path of one, or a pydantic model: the class, or `module:Class`) the answer is data
    that fits it: the server is asked to keep to it, what it says is held against it, and an answer that does not fit is
    sent back once, with what is wrong. Properties of the schema may be output columns. With several choices
    (`request={"n": 3}`) the answer is a list of them.
    """

    output_columns = ("answer",)

    schema: dict[str, Any] | str | None = None

    def __post_init__(self) -> None:
        if is_model(self.schema):
            self.schema = model_as_data(self.schema)

    def identity(self) -> Mapping[str, Any]:
        """The fields, with the schema itself where one is named: what is in the file decides what an answer may be."""
        return {**super().identity(), "schema": None if self.schema is None else schema_of(self.schema)}

    def structure(self, spec: JobSpec) -> Structure | None:
        """The schema, and the properties that output columns may name.

        Raises:
            ConfigurationError: it cannot be used.
        """
        # The default column is the whole answer, also where a property happens to have its name.
        wanted = () if tuple(spec.output_columns) == self.output_columns else spec.output_columns
        self._structure = None if self.schema is None else Structure(self.schema, wanted)
        self._format: dict[str, Any] = {}
        if self._structure and "response_format" not in self.parameters():
            self._format = {"response_format": self._structure.response_format}
        return self._structure

    async def transform_item(self, item: Any) -> Any:
        """What the output columns ask for: the content of the assistant's message, and facts about the answer.

        Raises:
            ItemError: no messages can be made of `item`.
            EndpointError: the request failed, or the answer holds no text.
            StructureError: the answer does not fit the schema, nor does the second one.
        """
        messages, parameters = await self.all_messages(item), self.row_parameters(item)
        if self._format and "response_format" not in parameters:
            parameters |= self._format
        judge = self.reply.judge if self._structure is None else self.reply.judged
        answer, choices = await self.chat(messages, judge, **parameters)
        if self._structure is None:
            return self.reply(self.reply.texts(choices), [answer], choices)
        return self.reply(*await self._data(messages, answer, choices, parameters))

    async def _data(
        self, messages: list[dict[str, Any]], answer: Answer, choices: list[dict[str, Any]], parameters: dict[str, Any]
    ) -> tuple[list[Any], list[Answer], list[dict[str, Any]]]:
        """The choices as data; when they do not fit, those of a second answer."""

        async def again(messages: list[dict[str, Any]]) -> tuple[Answer, list[dict[str, Any]]]:
            return await self.chat(messages, self.reply.judged, **parameters)

        return await fitting(self._parsed, again, messages, answer, choices)

    def _parsed(self, choice: dict[str, Any]) -> Content | None:
        """The data of a choice; None where a column holds what it has in place of a text."""
        assert self._structure is not None  # noqa: S101 - it is what the content is held against
        if (text := self.reply.text_of(choice)) is None:
            return None
        return self._structure.parsed(text, self.reply.parts, whole=self.reply.whole is not None)


class MultiTurnChatCompletionJob(ChatJob):
    """The conversation that comes of each row's messages: the assistant answers each turn of the user's in order.

    A turn that is followed by an answer already keeps it. The content is the list of all messages.
    """

    output_columns = ("conversation",)
    reserved = (*ChatJob.reserved, "n")

    async def transform_item(self, item: Any) -> Any:
        """All messages, with the assistant's among them.

        Raises:
            ItemError: no messages can be made of `item`, or none of them is to be answered.
            EndpointError: a request failed, or its answer holds no text.
        """
        given, parameters = await self.all_messages(item), self.row_parameters(item)
        said: list[dict[str, Any]] = []
        answers: list[Answer] = []
        choices: list[dict[str, Any]] = []
        for message, following in zip(given, [*given[1:], {"role": None}], strict=True):
            said.append(message)
            if message["role"] == "user" and following["role"] != "assistant":
                with counting(answers):
                    answer, choices = await self.chat(said, **parameters)
                answers.append(answer)
                said.append({"role": "assistant", "content": text_of(choices[0])})
        if not answers:
            raise ItemError("the conversation has no turn of the user's that is not answered already")
        return self.reply([_alike(said)], answers, choices)


def _alike(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All contents as parts (texts, pictures) where some are, because a column has one type."""
    if not any(isinstance(message.get("content"), list) for message in messages):
        return messages
    return [
        {**message, "content": [{"type": "text", "text": content}]}
        if isinstance(content := message.get("content"), str)
        else message
        for message in messages
    ]
