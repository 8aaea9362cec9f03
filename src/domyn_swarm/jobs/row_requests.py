"""Jobs that make one request, or one conversation, of each row, which may have request parameters of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.endpoint.json_reader import NOT_JSON, read_json
from domyn_swarm.errors import ConfigurationError, opt
from domyn_swarm.jobs.base import MODEL
from domyn_swarm.jobs.endpoint import EndpointJob, ItemError, kind_of
from domyn_swarm.jobs.shapes import entries_of, not_finite, shown_number, without_unset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domyn_swarm.jobspec import JobSpec

_OBJECTS = ("tools", "tool_choice", "response_format", "logit_bias", "extra_body")
"""Parameters that are objects or lists, which a column of structs may hold as JSON text."""


class RowRequestJob(EndpointJob):
    """What jobs have in common that make requests of single rows.

    `request_column` names a column of request parameters, as a struct or as JSON text: they are merged over `request`
    for their row, and may name another `model` for it (a LoRA's). Null, or a field that is null, changes nothing.
    """

    request_column: str | None = None

    def extra_columns(self) -> Sequence[str]:
        """Columns that are read beside the input columns, and are no part of what the item is."""
        return () if self.request_column is None else (self.request_column,)

    def prepare(self, spec: JobSpec) -> None:
        """Read which columns make the item.

        Raises:
            ConfigurationError: none is left for it.
        """
        self._inputs = tuple(dict.fromkeys(spec.input_columns))
        extra = self.extra_columns()
        self._own = tuple(name for name in self._inputs if name not in extra) if extra else self._inputs
        if extra and not self._own and getattr(self, "prompt", None) is None:
            raise ConfigurationError(
                f"{extra[0]!r} is the only input column, and holds no row's content.",
                f"Name the column that does with {opt('input_columns')}.",
                code="column.unnamed",
                option="input_columns",
                column=extra[0],
            )
        self._not_in_rows = frozenset(self.reserved) - {MODEL}

    def content_of(self, item: Any) -> Any:
        """What the input columns make of a row: the value of the one, or a dict of several."""
        if self._own is self._inputs:
            return item
        return item[self._own[0]] if len(self._own) == 1 else {name: item[name] for name in self._own}

    def values_of(self, item: Any) -> dict[str, Any]:
        """A row's values by their columns' names."""
        return item if len(self._inputs) > 1 else {self._inputs[0]: item}

    def row_parameters(self, item: Any) -> dict[str, Any]:
        """The parameters that a row has of its own.

        Raises:
            ItemError: they are no object, or hold what the job sets.
        """
        if (column := self.request_column) is None or (value := self.values_of(item)[column]) is None:
            return {}
        given = (
            _from_text(column, value)
            if isinstance(value, str)
            else without_unset(entries_of(value), f"{column!r} holds")
        )
        if not isinstance(given or {}, dict):
            raise ItemError(f"{column!r} is {kind_of(value)}, which is no object of request parameters")
        given = {name: _parsed(name, inner) for name, inner in (given or {}).items()}
        extra = given.pop("extra_body", None) or {}
        if not isinstance(extra, dict):
            raise ItemError(f"`extra_body` in {column!r} is {kind_of(extra)}, which is no object")
        given |= extra
        if taken := sorted(given.keys() & self._not_in_rows):
            raise ItemError(f"{column!r} holds {', '.join(taken)}, which the job sets itself")
        if given.get("n", 1) != 1 and self.parameters().get("n", 1) == 1:
            raise ItemError(f"{column!r} asks for several choices: set `n` in `request`, so that the columns are lists")
        return given


def _from_text(column: str, text: str) -> Any:
    try:
        given = read_json(text)
    except NOT_JSON as error:
        raise ItemError(f"{column!r} is no JSON: {error}") from None
    if (odd := not_finite(given)) is not None:
        raise ItemError(f"{column!r} holds {shown_number(odd)}, which JSON does not have")
    return given


def _parsed(name: str, value: Any) -> Any:
    """The value of a parameter, which may be an object as JSON text."""
    if name not in _OBJECTS or not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return read_json(value)
    except NOT_JSON:
        return value
