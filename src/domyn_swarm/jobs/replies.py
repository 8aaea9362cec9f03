"""From a server's answer to a row's output: its choices, facts about it, and which output column is what."""

from __future__ import annotations

import contextlib
import copy
import difflib
from typing import TYPE_CHECKING, Any

from domyn_swarm.endpoint.answer_counts import usage_of
from domyn_swarm.endpoint.load_balancer import Answer
from domyn_swarm.errors import ConfigurationError, EndpointError
from domyn_swarm.jobs.contents import reasoning_of, text_of
from domyn_swarm.jobs.json_schema import Content, StructureError
from domyn_swarm.jobs.schema_types import list_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from domyn_swarm.jobs.endpoint import EndpointJob
    from domyn_swarm.jobs.json_schema import Structure
    from domyn_swarm.jobspec import JobSpec

SHOWN_CHARS = 300
NEAR = 0.85
"""Likeness of names from which on one is taken for a slip of the other."""


def choices_of(answer: Answer) -> list[dict[str, Any]]:
    """The choices of an answer, at least one: without, it is no answer."""
    choices: list[dict[str, Any]] = answer.body["choices"]
    return choices


def judged_by_text(body: dict[str, Any]) -> None:
    """Raise an EndpointError for an answer of which a choice has no text (see `text_of`)."""
    for choice in body["choices"]:
        text_of(choice)


_FACTS: dict[str, Callable[[Answer, list[dict[str, Any]]], Any]] = {
    "finish_reason": lambda _answer, choices: [choice.get("finish_reason") for choice in choices],
    "reasoning": lambda _answer, choices: [reasoning_of(choice) for choice in choices],
    "prompt_tokens": lambda answer, _choices: usage_of(answer.body, "prompt_tokens"),
    "completion_tokens": lambda answer, _choices: usage_of(answer.body, "completion_tokens"),
    "latency": lambda answer, _choices: answer.seconds,
    "attempts": lambda answer, _choices: answer.attempts,
}
"""Columns that an answer has beside its content."""


class ReplyColumns:
    """What a row's output is, by the names of the output columns: facts about the answer, parts of it, or its content.

    With `structure` the content is data, and its properties may be columns; they win over facts. When the job asks for
    several choices, what each of them has is a list. `parts` and `whole` are the columns that come of the content,
    `types` the types that are known of them.

    Raises:
        ConfigurationError: two output columns would be the content, or one is almost the name of something else.
    """

    def __init__(self, job: EndpointJob, spec: JobSpec, structure: Structure | None = None) -> None:
        names = self._names = list(spec.output_columns or job.output_columns)
        known = structure.columns if structure else ()
        self.parts = [name for name in names if name in known]
        self._several = job.parameters().get("n", 1) != 1
        whole = [name for name in names if name not in _FACTS and name not in known]
        aliases = structure.aliases if structure and names != list(job.output_columns) else {}
        for name in whole if names != list(job.output_columns) else ():
            _check_is_meant(name, [*_FACTS, *(structure.types.properties if structure else ())], aliases)
        if len(whole) > 1:
            others = ", ".join([*_FACTS, *sorted(set(known) - _FACTS.keys())])
            twice = " and ".join(map(repr, whole))
            raise ConfigurationError(
                f"{type(job).__name__} has one content, and {twice} would be it.",
                f"Name it once, and beside it any of: {others}.",
                code="output_columns.duplicate",
                option="output_columns",
            )
        self.whole = whole[0] if whole else None
        self._plain = whole == names
        self.has_content = bool(whole or self.parts)
        """Whether any column needs more than facts."""
        self.types = self._types_of(structure) if structure else {}

    def _types_of(self, structure: Structure) -> dict[str, pa.DataType]:
        storages = {name: structure.types.properties[name] for name in self.parts}
        if self.whole is not None:
            storages[self.whole] = structure.types.whole
        return {name: list_of(one).dtype if self._several else one.dtype for name, one in storages.items()}

    def __call__(self, contents: list[Any], answer: Answer, choices: list[dict[str, Any]]) -> Any:
        """The output, of one content for each choice: a tuple by position, or the text where it is all there is."""
        if self._plain and isinstance(contents[0], str):
            return self._one_or_all(contents)
        return tuple(self._value(name, contents, answer, choices) for name in self._names)

    def _value(self, name: str, contents: list[Any], answer: Answer, choices: list[dict[str, Any]]) -> Any:
        if name in self.parts:
            return self._one_or_all([content.parts[name] for content in contents])
        if name not in _FACTS:
            return self._one_or_all([one.whole if isinstance(one, Content) else one for one in contents])
        fact = _FACTS[name](answer, choices)
        return self._one_or_all(fact) if isinstance(fact, list) else fact

    def _one_or_all(self, values: list[Any]) -> Any:
        return values if self._several else values[0]


def _check_is_meant(name: str, known: Sequence[str], aliases: Mapping[str, str]) -> None:
    """Refuse a name for the content that is an alias, or almost the name, of something that may be a column."""
    near = {_letters(one): one for one in known}
    close = difflib.get_close_matches(_letters(name), near, 1, NEAR)
    meant = aliases.get(name) or (near[close[0]] if close else None)
    if meant is not None:
        raise ConfigurationError(
            f"{name!r} is no column of the answer. Did you mean {meant!r}?",
            f"Columns are: {', '.join(known)}; the whole answer gets a name that is less like one of these.",
            code="output_columns.unknown",
            option="output_columns",
            column=name,
            choices=tuple(known),
        )


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


def together(answers: Sequence[Answer]) -> Answer:
    """Several answers as one: the last, with the tokens, seconds and attempts of all."""
    usage = {}
    for name in ("prompt_tokens", "completion_tokens"):
        used = [usage_of(answer.body, name) for answer in answers]
        usage[name] = None if None in used else sum(filter(None, used))
    seconds, attempts = sum(one.seconds for one in answers), sum(one.attempts for one in answers)
    return Answer({**answers[-1].body, "usage": usage}, seconds, attempts)


@contextlib.contextmanager
def counting(answers: Sequence[Answer]) -> Iterator[None]:
    """An error in here counts, in its `attempts`, the requests of `answers`, which went before for the same row."""
    try:
        yield
    except (EndpointError, StructureError) as error:
        ours = copy.copy(error)  # rows that share requests share errors
        ours.attempts = error.attempts + sum(answer.attempts for answer in answers)
        raise ours from None
