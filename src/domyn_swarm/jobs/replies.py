"""From a server's answer to a row's output: its choices, facts about it, and which output column is what."""

from __future__ import annotations

import contextlib
import copy
import difflib
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm.endpoint.load_balancer import Answer
from domyn_swarm.errors import ConfigurationError, EndpointError
from domyn_swarm.jobs.contents import refusal_of, text_of, tool_calls_of
from domyn_swarm.jobs.facts import FACTS, HOLDS_CALLS, HOLDS_REFUSALS, OF_THE_ANSWER, ORDINARY_WORDS, TYPES
from domyn_swarm.jobs.json_schema import Content, StructureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from domyn_swarm.endpoint.load_balancer import Judge
    from domyn_swarm.jobs.endpoint import EndpointJob
    from domyn_swarm.jobs.facts import Fact
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


class ReplyColumns:
    """What a row's output is, by the names of the output columns: facts about the answer, parts of it, or its content.

    With `structure` the content is data, and its properties may be columns; they win over facts. When the job asks for
    several choices, what each of them has is a list. `parts` and `whole` are the columns that come of the content,
    `types` the types that are known of the columns. `facts` are those that the job's answers have.

    A choice without a text has no content, and its row fails, unless a column holds what it has in place of one: calls
    of tools in `tool_calls`, the words of a refusal in `refusal`, both in `message` and `response`.

    Raises:
        ConfigurationError: two output columns would be the content, or one is almost the name of something else.
    """

    def __init__(
        self, job: EndpointJob, spec: JobSpec, structure: Structure | None = None, facts: Mapping[str, Fact] = FACTS
    ) -> None:
        names = self._names = list(spec.output_columns or job.output_columns)
        known = structure.columns if structure else ()
        self.parts = [name for name in names if name in known]
        self._facts = {name: fact for name, fact in facts.items() if name in names and name not in known}
        self.several = job.parameters().get("n", 1) != 1
        whole = [name for name in names if name not in self._facts and name not in known]
        aliases = structure.aliases if structure and names != list(job.output_columns) else {}
        for name in whole if names != list(job.output_columns) else ():
            likely = [fact for fact in facts if fact not in ORDINARY_WORDS]
            _check_is_meant(name, [*likely, *(structure.types.properties if structure else ())], aliases)
        if len(whole) > 1:
            others = ", ".join([*facts, *sorted(set(known) - facts.keys())])
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
        self._holds_calls, self._holds_refusals = (
            not held.isdisjoint(self._facts) for held in (HOLDS_CALLS, HOLDS_REFUSALS)
        )
        self.types = self._types_of(structure)

    def _types_of(self, structure: Structure | None) -> dict[str, pa.DataType]:
        types = {name: TYPES[name] for name in self._facts if name in TYPES}
        if structure is not None:
            types |= {name: structure.types.properties[name].dtype for name in self.parts}
        if structure is not None and self.whole is not None:
            types[self.whole] = structure.types.whole.dtype
        listed = types.keys() - OF_THE_ANSWER if self.several else ()
        return {name: pa.list_(dtype) if name in listed else dtype for name, dtype in types.items()}

    @property
    def judge(self) -> Judge | None:
        """What raises an EndpointError for an answer that lacks the content; None when no column needs one."""
        return self.judged if self.has_content else None

    def judged(self, body: dict[str, Any]) -> None:
        """Raise an EndpointError for an answer of which a choice has neither a text nor what stands for one."""
        for choice in body["choices"]:
            self.text_of(choice)

    def text_of(self, choice: dict[str, Any]) -> str | None:
        """The text of a choice; None where a column holds what it has in place of one.

        Raises:
            EndpointError: it has neither.
        """
        try:
            return text_of(choice)
        except EndpointError as error:
            is_whole = error.code != "reply.cut_off"
            if is_whole and self._holds_calls and tool_calls_of(choice):
                return None
            if is_whole and self._holds_refusals and refusal_of(choice):
                return None
            raise

    def texts(self, choices: list[dict[str, Any]]) -> list[str | None]:
        """The text of each choice, as `text_of` has it; none when no column needs it."""
        return [self.text_of(choice) for choice in choices] if self.has_content else []

    def __call__(self, contents: Sequence[Any], answers: Sequence[Answer], choices: list[dict[str, Any]]) -> Any:
        """The output, of one content for each choice of the last of `answers`, which are those that the row took.

        It is a tuple by position, or the text where it is all there is.
        """
        if self._plain and isinstance(contents[0], str):
            return self._one_or_all(contents)
        return tuple(self._value(name, contents, answers, choices) for name in self._names)

    def _value(
        self, name: str, contents: Sequence[Any], answers: Sequence[Answer], choices: list[dict[str, Any]]
    ) -> Any:
        if name in self.parts:
            return self._one_or_all([None if content is None else content.parts[name] for content in contents])
        if name not in self._facts:
            return self._one_or_all([one.whole if isinstance(one, Content) else one for one in contents])
        fact = self._facts[name](answers, choices)
        return self._one_or_all(fact) if isinstance(fact, list) else fact

    def _one_or_all(self, values: Sequence[Any]) -> Any:
        return values if self.several else values[0]


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
    if len(answers) == 1:
        return answers[0]
    usage = {name: FACTS[name](answers, []) for name in ("prompt_tokens", "completion_tokens")}
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
