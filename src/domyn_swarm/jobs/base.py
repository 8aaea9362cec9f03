"""What a user writes: a class whose fields are its parameters and whose method turns rows into outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence  # noqa: TC003 - the annotations of fields are evaluated
from typing import TYPE_CHECKING, Any, ClassVar, cast, dataclass_transform

from domyn_swarm.errors import ConfigurationError, opt

if TYPE_CHECKING:
    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.telemetry.counts import Counts

CODE = "code"
"""What the digest of a job's code is called in its identity; of steps, with their names: `code of answer`."""
MODEL, REVISION = ("model", "model_revision")
"""What is part of a job's identity and may only be known from the endpoints; of several models, with their names."""


def of_model(fact: str, name: str) -> str:
    """What MODEL or REVISION is called of the model `name`: `model judge`, and plain `model` of the one without."""
    return f"{fact} {name}".strip()


def is_resolved(fact: str) -> bool:
    """Whether a part of an identity may only be known from the endpoints."""
    return fact.partition(" ")[0] in (MODEL, REVISION)


@dataclass_transform(kw_only_default=True)
class SwarmJob:
    """A function over rows, with its parameters as fields.

    Write exactly the method that fits the work; each may be `async def` or a plain `def`:

    - `transform_item(item) -> output`: one row in, one output out. Preferred: the runner owns concurrency and retries.
    - `transform_items(items) -> outputs`: a list of at most `batch_size` rows in, as many outputs out, same order.
      An exception instance in the list is that row's failure.
    - `transform_items_native(batch, *, backend_name, id_col, input_cols) -> frame | table | outputs`: a frame of the
      selected engine in (native mode only). It holds `id_col` and `input_cols`. The result is matched by `id_col` when
      it is a frame with that column, and by position otherwise.

    An item is the value of the one input column, or a dict of all of them when there are several. Values are plain
    Python: `str`, `int`, `None`, `list`, `dict`, `datetime`, ...

    An output is a scalar (the one output column), a tuple (by position) or a dict (by name); see
    `domyn_swarm.engine.calls.outputs`.

    Subclasses are keyword-only dataclasses without saying so, unless they define `__init__`::

        class Shout(SwarmJob):
            input_columns = ("text",)
            suffix: str = "!"

            async def transform_item(self, text: str) -> str:
                return text.upper() + self.suffix

    A job is never pickled to be submitted: it is rebuilt from its class and its fields as JSON.
    """

    input_columns: ClassVar[tuple[str, ...]] = ()
    output_columns: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Options of the `JobSpec` that suit this job (`{"max_concurrency": 128}`); job kwargs and flags override them."""
    times_itself: ClassVar[bool] = False
    """Whether `timeout` is for something that the job times, like its requests, rather than for a whole call."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        maker = next(base for base in cls.__mro__ if "__init__" in vars(base))
        if maker is object or (maker is not cls and "__dataclass_fields__" in vars(maker)):
            dataclasses.dataclass(kw_only=True)(cls)

    def default_columns(self) -> tuple[Sequence[str], Sequence[str]]:
        """The input and the output columns when none are named: the class's, unless the fields say otherwise."""
        return self.input_columns, self.output_columns

    def extra_columns(self) -> Sequence[str]:
        """Columns that the job reads whatever the input columns are; an item has them as it has the others."""
        return ()

    def columns(self, spec: JobSpec) -> tuple[list[str], list[str]]:
        """The input and the output columns of a run: those that `spec` names, else the job's own.

        Raises:
            ConfigurationError: an option cannot be used with this job.
        """
        for option in ("keep", "recompute", "models", "api_key_files"):
            if getattr(spec, option):
                raise ConfigurationError(
                    f"{spec.job} has no steps.",
                    f"Leave {opt(option)} out: it is for a module of functions.",
                    code="option.conflict",
                    option=option,
                )
        inputs, outputs = self.default_columns()
        named = spec.input_columns or list(inputs)
        extra = [name for name in self.extra_columns() if name not in named]
        return [*named, *extra], spec.output_columns or list(outputs)

    def check_columns(self, schema: Mapping[str, str], spec: JobSpec) -> None:
        """Refuse an input whose columns, with their types in `schema`, are not what the job takes.

        Raises:
            DataError: they are not.
        """

    def facts(self, spec: JobSpec) -> Mapping[str, Any]:
        """What else decides the outputs under the options of `spec`, by names for messages (`code of answer`)."""
        return {}

    def stored_columns(self, spec: JobSpec) -> Sequence[str]:
        """The columns that are kept in the run's folder, those of the output among them; all names are known before."""
        return spec.output_columns

    def versions(self, spec: JobSpec, before: Mapping[str, Any]) -> Mapping[str, str]:
        """Digests of what makes each stored column, where columns may change one by one. They join the identity.

        `before` is the identity of the run before, empty if there was none.
        """
        return {}

    def why_anew(self, spec: JobSpec, before: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, str]:
        """For each stored column that has a version of its own, why it is not the one that was made `before`.

        Both are identities. The reason is empty for a column that is as it was.
        """
        return {}

    def will_compute(self, columns: Sequence[str]) -> None:
        """Take note, before `preflight`, of the stored columns that lack values. The values of the others are kept."""

    def payload(self, item: Any, known: Mapping[str, Any]) -> Any:
        """What `transform_item` gets for `item`, each time that the row is tried. `known` has stored columns."""
        return item

    def identity(self) -> Mapping[str, Any]:
        """What of the job decides its outputs: its fields. Rows that were made under other values are not resumed.

        Override it to leave out a field that changes no output, or to add what a field only names (the content of a
        file, say).
        """
        if "__dataclass_fields__" not in vars(type(self)):
            return {}  # it has an `__init__` of its own: what was given to that is all that is known
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(cast("Any", self))}

    def output_types(self, spec: JobSpec) -> Mapping[str, Any]:
        """Arrow types of the output columns of which they are known beforehand; others are found from the values.

        A value that does not fit the type is its row's failure, whichever row comes first.
        """
        return {}

    def lost_with(self, spec: JobSpec) -> Mapping[str, frozenset[str]]:
        """For each output column those that a row loses with a value of it that does not fit; without, all of them."""
        return {}

    def traffic(self) -> Counts | None:
        """The requests that were made so far, shown while the job runs; None when it makes none. Any thread asks."""
        return None

    def preflight(self, spec: JobSpec) -> Mapping[str, Any] | None:
        """Check that the job can run (an endpoint answers, a file exists), before any row is read.

        What it returns, if anything, becomes part of the job's identity: `model` is the one that will answer.

        Raises:
            ConfigurationError: it cannot, and nothing has been written yet.
        """

    async def open(self, spec: JobSpec) -> None:
        """Acquire what the job needs while it runs; called once in each process, inside the event loop."""

    async def close(self) -> None:
        """Release what `open` acquired; always called after it, unless it raised."""
