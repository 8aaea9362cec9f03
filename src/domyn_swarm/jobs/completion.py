"""Text completions: the continuation of each row's text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.jobs.endpoint import EndpointJob, ItemError, kind_of
from domyn_swarm.jobs.replies import ReplyColumns, choices_of
from domyn_swarm.jobs.row_requests import RowRequestJob

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.jobspec import JobSpec

PATH = "completions"


class CompletionJob(RowRequestJob):
    """The continuation of each row's text; a list of them when `request` asks for several (`n`).

    Output columns with these names are facts about the answer: `finish_reason`, `logprobs` and `response` (JSON text),
    `model`, `prompt_tokens`, `completion_tokens`, `cached_tokens`, `reasoning_tokens`, `latency` (seconds), `attempts`.
    The one with another name is the text.
    """

    input_columns = ("prompt",)
    output_columns = ("completion",)
    reserved = (*EndpointJob.reserved, "prompt")

    def prepare(self, spec: JobSpec) -> None:
        """Read the columns."""
        super().prepare(spec)
        self._reply = ReplyColumns(self, spec)

    async def transform_item(self, item: Any) -> Any:
        """What the output columns ask for: the text that follows, and facts about the answer.

        Raises:
            ItemError: it is no text, or its request parameters cannot be used.
            EndpointError: the request failed, or the answer holds no text.
        """
        text = self.content_of(item)
        if not isinstance(text, str):
            raise ItemError(f"a text is needed, the row has {kind_of(text)}")
        answer = await self.ask(PATH, {**self.row_parameters(item), "prompt": text}, self._reply.judge)
        choices = choices_of(answer)
        return self._reply(self._reply.texts(choices), [answer], choices)

    def output_types(self, spec: JobSpec) -> Mapping[str, Any]:
        """The types of the facts that have one whatever the server says."""
        self.prepare(spec)
        return self._reply.types
