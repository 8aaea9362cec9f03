"""Which columns a job reads, keeps and makes, checked against the input before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from domyn_swarm.data.columns import DEFAULT_COLUMN, MADE, POSITION, ROW_ID
from domyn_swarm.errors import ConfigurationError, DataError, opt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobspec import JobSpec


@dataclass(frozen=True)
class Columns:
    """The columns of one job, by what they are for.

    `id` identifies a row, `inputs` make an item, `kept` stand in the output before `outputs`, which the job makes
    (empty when they are gathered from what it returns). With `follows` rows are known by an id that the input has, so
    that a digest of their inputs is kept: such a row may change and be the same row. `hidden` columns are in the parts
    only: outputs are made from them, and they are dear.
    """

    id: str
    inputs: list[str]
    kept: list[str]
    outputs: list[str]
    follows: bool = False
    hidden: tuple[str, ...] = ()

    @property
    def stored(self) -> list[str]:
        """The columns of parts that the job makes."""
        return [*self.outputs, *self.hidden]

    @property
    def read(self) -> list[str]:
        """What is read for the job: the position, the id and the inputs, each once."""
        return list(dict.fromkeys([POSITION, self.id, *self.inputs]))

    @property
    def reserved(self) -> list[str]:
        """Names that no output may have: the output has them already, or the parts."""
        return list(dict.fromkeys([self.id, *self.kept]))


def choose_columns(
    schema: Mapping[str, str], spec: JobSpec, folders: Sequence[str] = (), job: SwarmJob | None = None
) -> Columns:
    """The columns that `spec` asks for, or that are plain from the input's `schema`; `job` may check them, too.

    `folders` are those that stand in the names of folders: they are inputs of the job only if they are asked for.

    Raises:
        DataError: a column does not exist, cannot identify a row, or it is not clear which is meant.
        ConfigurationError: output columns clash with one another or with the input's.
    """
    if not schema:
        raise DataError(
            "the input has no columns.", "Name files whose rows have some.", code="input.empty", option="input"
        )
    check_names(schema)
    if job is not None:
        job.check_columns(schema, spec)
    id_col = check_id_column(schema, spec.id_column)
    inputs = check_input_columns(schema, spec.input_columns, spec.id_column, folders)
    kept = check_kept_columns(schema, spec.output_mode, spec.output_columns, id_col, inputs)
    stored = () if job is None else job.stored_columns(spec)
    hidden = tuple(name for name in stored if name not in spec.output_columns)
    return Columns(id_col, inputs, kept, list(spec.output_columns), spec.id_column is not None, hidden)


def check_names(schema: Mapping[str, str]) -> None:
    """Refuse names of the input's columns that cannot be kept apart from this program's own, or on every engine.

    Raises:
        DataError: a column has such a name.
    """
    way_out = f"Rename it, or leave it out: `columns` in {opt('backend_read_kwargs')} names those to read."
    for name in schema:
        if wrong := wrong_with(name):
            raise DataError(
                f"{opt('input')} has a column {name!r}, {wrong}.",
                way_out,
                code="column.reserved",
                option="input",
                column=name,
            )


def wrong_with(name: str) -> str:
    """Why no column may be called `name`; empty when one may. Parquet calls fields of ours `__failure__.type`, too."""
    if any(name == made or name.startswith(f"{made}.") for made in MADE):
        return "a name that this program uses"
    return "a name with a NUL character, which not every engine takes" if "\0" in name else ""


def check_id_column(schema: Mapping[str, str], id_column: str | None) -> str:
    """The name of the id column: the given one, or that of the generated one.

    Raises:
        DataError: the column does not exist, is of a type that cannot identify a row, or would be shadowed.
    """
    if id_column is None:
        if ROW_ID in schema:
            raise DataError(
                f"{opt('input')} has a column {ROW_ID!r} already, the name of generated ids.",
                f"Use it with {opt('id_column', ROW_ID)}, or rename it.",
                code="column.reserved",
                option="input",
                column=ROW_ID,
            )
        return ROW_ID
    _check_exists("id_column", id_column, schema)
    kind = schema[id_column]
    if not kind.startswith(("int", "uint", "string", "binary", "fixed_size_binary", "extension<arrow.uuid")):
        raise DataError(
            f"{id_column!r} is {kind}, which does not identify rows exactly.",
            "Use a column of integers, strings, bytes or UUIDs.",
            code="id.type",
            option="id_column",
            column=id_column,
        )
    return id_column


def check_input_columns(
    schema: Mapping[str, str], input_columns: Sequence[str], id_column: str | None, folders: Sequence[str] = ()
) -> list[str]:
    """The columns that make the job's items; without any named, the only one beside the id and those of `folders`.

    Raises:
        DataError: a column does not exist, or it is not clear which to use.
    """
    for name in input_columns:
        _check_exists("input_columns", name, schema)
    if input_columns:
        return list(dict.fromkeys(input_columns))
    others = [name for name in schema if name != id_column and name not in folders]
    if len(others) != 1:
        raise DataError(
            f"{opt('input_columns')} is missing: the input has several columns.",
            f"Name one or more of: {', '.join(schema)}.",
            code="column.unnamed",
            option="input_columns",
            choices=tuple(schema),
        )
    return others


def check_kept_columns(
    schema: Mapping[str, str], output_mode: str, output_columns: Sequence[str], id_col: str, input_cols: Sequence[str]
) -> list[str]:
    """The columns of the input that stand in the output, before those that the job makes.

    Raises:
        ConfigurationError: an output column has the name of one of them, or there are two of one name.
    """
    kept = {"append": [*schema], "replace": [id_col], "io_only": [id_col, *input_cols]}[output_mode]
    outputs = output_columns or (DEFAULT_COLUMN,)
    if twice := [name for name in outputs if list(outputs).count(name) > 1]:
        raise ConfigurationError(
            f"{twice[0]!r} is given twice.",
            "Give each column its own name.",
            code="column.duplicate",
            option="output_columns",
            column=twice[0],
        )
    if clash := [name for name in outputs if name in (*kept, id_col) or wrong_with(name)]:
        whose = wrong_with(clash[0]) or (
            "a column of the input already" if clash[0] in schema else "a name that this program uses"
        )
        raise ConfigurationError(
            f"{clash[0]!r} is {whose}.",
            f"Choose another name with {opt('output_columns')}, or leave the input's out with "
            f"{opt('output_mode', 'replace')}.",
            code="column.clash",
            option="output_columns",
            column=clash[0],
        )
    return list(dict.fromkeys(kept))


def _check_exists(option: str, name: str, schema: Mapping[str, str]) -> None:
    if name not in schema:
        raise DataError(
            f"the input has no column {name!r}.",
            f"Its columns are: {', '.join(schema)}.",
            code="column.missing",
            option=option,
            column=name,
            choices=tuple(schema),
        )
