"""Text completions: the continuation of each row's text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.jobs.contents import text_of
from domyn_swarm.jobs.endpoint import EndpointJob, ItemError, kind_of
from domyn_swarm.jobs.replies import ReplyColumns, choices_of, judged_by_text

if TYPE_CHECKING:
    from domyn_swarm.jobspec import JobSpec

PATH = "completions"


class CompletionJob(EndpointJob):
    """The continuation of each row's text; a list of them when `request` asks for several (`n`).

    An output column may be `finish_reason`, `prompt_tokens`, `completion_tokens`, `latency` (seconds) or `attempts`;
    the one with another name is the text.
    """

    input_columns = ("prompt",)
    output_columns = ("completion",)
    reserved = (*EndpointJob.reserved, "prompt")

    def prepare(self, spec: JobSpec) -> None:
        """Read the output columns."""
        self._reply = ReplyColumns(self, spec)

    async def transform_item(self, item: Any) -> Any:
        """What the output columns ask for: the text that follows, and facts about the answer.

        Raises:
            ItemError: `item` is no text.
            EndpointError: the request failed, or the answer holds no text.
        """
        if not isinstance(item, str):
            raise ItemError(f"a text is needed, the row has {kind_of(item)}")
        answer = await self.ask(PATH, {"prompt": item}, judged_by_text if self._reply.has_content else None)
        choices = choices_of(answer)
        texts = [text_of(choice) for choice in choices] if self._reply.has_content else []
        return self._reply(texts, answer, choices)
