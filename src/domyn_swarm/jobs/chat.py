"""Chat completions: one answer for each row, or one for each turn of its conversation."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobs.replies import ReplyColumns, choices_of, no_text, together
from domyn_swarm.jobs.requests import EndpointJob, ItemError, kind_of
from domyn_swarm.jobs.structured import Structure, StructureError, schema_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.endpoint.replicas import Answer
    from domyn_swarm.jobs.spec import JobSpec

PATH = "chat/completions"


class ChatJob(EndpointJob):
    """What jobs over chat completions have in common: how a row becomes messages.

    A row is a list of messages, or a text that becomes the user's one message. `system_prompt` goes in front of them.
    With `prompt`, a template over columns ("Translate into {language}: {text}"), the user's message is made of those.

    An output column may be `finish_reason`, `reasoning`, `prompt_tokens`, `completion_tokens`, `latency` (seconds) or
    `attempts`; the one with another name is the content.
    """

    input_columns = ("messages",)
    reserved = (*EndpointJob.reserved, "messages")

    system_prompt: str | None = None
    prompt: str | None = None

    def default_columns(self) -> tuple[Sequence[str], Sequence[str]]:
        """The columns of `prompt`, if there is one."""
        return self._prompt_columns() or self.input_columns, self.output_columns

    def prepare(self, spec: JobSpec) -> None:
        """Read the prompt and the output columns.

        Raises:
            ConfigurationError: one of them cannot be used.
        """
        self.reply = ReplyColumns(self, spec, self.parts(spec))
        self._inputs = tuple(dict.fromkeys(spec.input_columns))
        self._prompted_by = self._prompt_columns()
        if missing := [name for name in self._prompted_by if name not in self._inputs]:
            raise ConfigurationError(
                f"--job-kwargs: `prompt` uses {missing[0]!r}, which is none of the input columns.",
                f"Add --input-column {missing[0]}, or leave them all out: the prompt says which it needs.",
            )

    def parts(self, spec: JobSpec) -> Sequence[str]:
        """Parts of the content that output columns may name."""
        return ()

    async def chat(self, messages: list[dict[str, Any]], **parameters: Any) -> tuple[Answer, list[dict[str, Any]]]:
        """The answer to `messages`, and its choices.

        Raises:
            EndpointError: the request failed, or the answer has no choices.
        """
        answer = await self.ask(PATH, {**parameters, "messages": messages})
        return answer, choices_of(answer)

    def messages(self, item: Any) -> list[dict[str, Any]]:
        """The messages that are sent for `item`.

        Raises:
            ItemError: `item` is neither a text nor a list of messages, or lacks what the prompt needs.
        """
        messages = messages_of(self._prompted(item) if self.prompt is not None else item)
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return messages

    def _prompted(self, item: Any) -> str:
        """The prompt, filled in. One input column comes as its value, several as a dict."""
        values = item if len(self._inputs) > 1 else {self._inputs[0]: item}
        return str(self.prompt).format_map({name: _filled(name, values[name]) for name in self._prompted_by})

    def _prompt_columns(self) -> list[str]:
        try:
            fields = [field for field in string.Formatter().parse(self.prompt or "") if field[1] is not None]
        except ValueError as error:
            raise ConfigurationError(
                f"--job-kwargs: `prompt` is no template: {error}.", "Write {{ and }} where braces are meant."
            ) from None
        names = [str(name) for _, name, _, _ in fields]
        if wrong := [name for name in names if not name or name.isdigit() or set(name) & set(".[\"'")]:
            raise ConfigurationError(
                f"--job-kwargs: `prompt` holds {{{wrong[0]}}}, which names no column.",
                "Write {column}, and {{ and }} where braces are meant.",
            )
        if formatted := [name for _, name, spec, conversion in fields if spec or conversion]:
            raise ConfigurationError(
                f"--job-kwargs: `prompt` formats {formatted[0]!r}, and columns are shown as they are.",
                f"Write {{{formatted[0]}}}, and {{{{ and }}}} where braces are meant.",
            )
        return list(dict.fromkeys(names))


class ChatCompletionJob(ChatJob):
    """The assistant's answer to each row.

    With `schema` (a JSON schema, the path of one, or a pydantic model as `module:Class`) the answer is data that fits
    it: the server is asked to keep to it, what it says is held against it, and an answer that does not fit is sent
    back once, with what is wrong. Properties of the schema may be output columns. With several choices
    (`request={"n": 3}`) the answer is a list of them.
    """

    output_columns = ("answer",)

    schema: dict[str, Any] | str | None = None

    def identity(self) -> Mapping[str, Any]:
        """The fields, with the schema itself where one is named: what is in the file decides what an answer may be."""
        return {**super().identity(), "schema": None if self.schema is None else schema_of(self.schema)}

    def parts(self, spec: JobSpec) -> Sequence[str]:
        """Read the schema; the properties that output columns may name.

        Raises:
            ConfigurationError: it cannot be used.
        """
        # The default column is the whole answer, also where a property happens to have its name.
        wanted = () if tuple(spec.output_columns) == self.output_columns else spec.output_columns
        self._structure = None if self.schema is None else Structure(self.schema, wanted)
        self._format = {}
        if self._structure and "response_format" not in self.parameters():
            self._format = {"response_format": self._structure.response_format}
        return self._structure.columns if self._structure else ()

    async def transform_item(self, item: Any) -> Any:
        """What the output columns ask for: the content of the assistant's message, and facts about the answer.

        Raises:
            ItemError: no messages can be made of `item`.
            EndpointError: the request failed, or the answer holds no text.
            StructureError: the answer does not fit the schema, nor does the second one.
        """
        messages = self.messages(item)
        answer, choices = await self.chat(messages, **self._format)
        if self._structure is None:
            contents = [text_of(choice) for choice in choices] if self.reply.has_content else []
        else:
            contents, answer, choices = await self._data(self._structure, messages, answer, choices)
        return self.reply(contents, answer, choices)

    async def _data(
        self, structure: Structure, messages: list[dict[str, Any]], answer: Answer, choices: list[dict[str, Any]]
    ) -> tuple[list[Any], Answer, list[dict[str, Any]]]:
        """The choices as data; when they do not fit, those of a second answer."""
        found: list[Any] = []
        try:
            found.extend(structure.parsed(text_of(choice)) for choice in choices)  # up to the one that does not fit
            return found, answer, choices
        except StructureError as error:
            if any(choice.get("finish_reason") == "length" for choice in choices):  # another would be cut off, too
                raise StructureError(f"{error} (it was cut off: finish_reason 'length')") from None
            back = f"That cannot be used: {error}. Answer again, with JSON that fits the schema and nothing else."
        said = {"role": "assistant", "content": text_of(choices[len(found)])}
        second, choices = await self.chat([*messages, said, {"role": "user", "content": back}], **self._format)
        return [structure.parsed(text_of(choice)) for choice in choices], together([answer, second]), choices


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
        given = self.messages(item)
        said: list[dict[str, Any]] = []
        answers: list[Answer] = []
        choices: list[dict[str, Any]] = []
        for message, following in zip(given, [*given[1:], {"role": None}], strict=True):
            said.append(message)
            if message["role"] == "user" and following["role"] != "assistant":
                answer, choices = await self.chat(said)
                answers.append(answer)
                said.append({"role": "assistant", "content": text_of(choices[0])})
        if not answers:
            raise ItemError("the conversation has no turn of the user's that is not answered already")
        return self.reply([_alike(said)], together(answers), choices)


def messages_of(item: Any) -> list[dict[str, Any]]:
    """A text as the user's message, or a list of messages without the nulls that parquet fills in.

    Raises:
        ItemError: it is neither.
    """
    if isinstance(item, str):
        return [{"role": "user", "content": item}]
    if not isinstance(item, list) or not item:
        raise ItemError(f"a text or a list of messages is needed, the row has {kind_of(item)}")
    return [_message(message, number) for number, message in enumerate(item)]


def _message(message: Any, number: int) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ItemError(f"message {number} is {kind_of(message)}, not a role and a content")
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


def _filled(name: str, value: Any) -> str:
    if value is None:
        raise ItemError(f"the prompt needs {name!r}, which is null")
    if isinstance(value, str):
        return value
    shown = msgspec.json.encode(value, enc_hook=str)
    return msgspec.json.decode(shown) if shown.startswith(b'"') else shown.decode()


def text_of(choice: dict[str, Any]) -> str:
    """The text of the assistant's message.

    Raises:
        EndpointError: there is none.
    """
    match choice:
        case {"message": {"content": str() as text}}:
            return text
    raise no_text(choice)
