"""A job over an input, as something to look into, to change, and to run."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from domyn_swarm.data.backends.base import JobBatch
from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.data.columns import FAILURE, INPUTS, POSITION, TRACE
from domyn_swarm.engine.evaluate import look_into
from domyn_swarm.engine.graph.code_digest import code_digest
from domyn_swarm.engine.graph.coercion import collected, lazy_type, table_of, without
from domyn_swarm.engine.graph.overrides import DIGEST_CHARS, functions_of
from domyn_swarm.engine.identity import IDENTITY
from domyn_swarm.engine.output_writer import Artifact
from domyn_swarm.engine.planning import check_overrides
from domyn_swarm.engine.recording.command_line import command_of, why_no_command
from domyn_swarm.engine.recording.describe import describe
from domyn_swarm.engine.runner import run
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.notebook.error_translation import in_python, worded
from domyn_swarm.options.resolve import spec_for
from domyn_swarm.report.diagram import svg_or_mermaid
from domyn_swarm.report.progress import progress_here, telling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType, TracebackType

    from domyn_swarm.engine.evaluate import Look
    from domyn_swarm.engine.graph.overrides import Overrides
    from domyn_swarm.engine.recording.metrics import Progress
    from domyn_swarm.engine.runner import RunResult
    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.notebook.scratch import Scratch
    from domyn_swarm.report.model import Graph

logger = logging.getLogger("domyn_swarm")

PEEK_ROWS = 5
OTHER_ROWS = ("input", "job_kwargs", "backend_read_kwargs", *IDENTITY)
"""Options under other values of which a run makes other rows, which the rows that a plan has are not taken for."""
LISTS = frozenset({"input_columns", "output_columns", "endpoints", "adapters"})


class Plan:
    """A job over an input, with its graph: to look into (`peek`, `compute`), to change (`with_...`), to `run`.

    A plan does not change: what changes it returns another one. In a notebook it shows itself as its graph. As a
    context manager it removes its temporary folder at the end.
    """

    def __init__(
        self, spec: JobSpec, overrides: Overrides, scratch: Scratch, job_class: type[SwarmJob] | None = None
    ) -> None:
        self._base = spec
        self._overrides = overrides
        self._scratch = scratch
        self._job_class = job_class  # kept alive, for those that only a reference in this process names
        self.result: RunResult | None = None

    @property
    def spec(self) -> JobSpec:
        """The JobSpec of a run. Where nodes are replaced, its run's folder is one of its own."""
        return self._placed(self._overrides)

    def _placed(self, overrides: Overrides) -> JobSpec:
        spec = overrides.apart(self._base)
        if overrides and self._in_scratch:
            return msgspec.structs.replace(spec, output=f"{self._scratch.path}/{spec.tag}.parquet")
        return spec

    @property
    def _in_scratch(self) -> bool:
        return self._scratch.holds(self._base.output)

    @property
    def run_dir(self) -> str:
        """The folder of this plan's run: what `job view`, `job row` and `compare` take."""
        return self.spec.run_dir

    @property
    def graph(self) -> Graph:
        """The graph as plain data, replaced nodes marked."""
        graph = describe(self.spec, overrides=self._overrides)
        for node in graph.nodes:
            node.value = self._scratch.shown(node.value)
        return graph

    def __repr__(self) -> str:
        name = self._base.job.rpartition(":")[2]
        replaced = f", {', '.join(sorted(self._overrides.names))} overridden" if self._overrides else ""
        output = "a frame" if self._in_scratch else self._base.output
        return f"<Plan: {name} on {self._base.data_backend}, {self._base.input} -> {output}{replaced}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {**svg_or_mermaid(self.graph), "text/plain": repr(self)}

    @in_python
    def with_nodes(self, *replacements: Callable[..., Any] | ModuleType) -> Plan:
        """The plan with functions, or those of modules, in place of the nodes whose names they have.

        A function takes nodes and options by their names. A parameter that is annotated as a frame (`pd.DataFrame`)
        gets a lazy frame's rows in memory. What it returns is brought into the form that the node passes on.

        Raises:
            ConfigurationError: there is no such node, the function takes what is not there or what is made from the
                node itself, or is annotated to return something else; the message lists what there is.
        """
        functions = {**self._overrides.functions, **functions_of(replacements)}
        return self._replacing(dataclasses.replace(self._overrides, functions=functions))

    @in_python
    def with_values(self, **values: Any) -> Plan:
        """The plan with values in place of nodes: what is upstream of them is not computed.

        `run` takes the same as `overrides`, for that run alone.

        Raises:
            ConfigurationError: there is no such node, or it cannot have that value.
        """
        return self._replacing(self._with(values))

    def _with(self, values: Mapping[str, Any] | None) -> Overrides:
        return dataclasses.replace(self._overrides, values={**self._overrides.values, **(values or {})})

    def _replacing(self, overrides: Overrides) -> Plan:
        check_overrides(self._base, overrides)
        return Plan(self._base, overrides, self._scratch, self._job_class)

    @in_python
    def with_options(self, **options: Any) -> Plan:
        """The plan with other options (fields of `JobSpec`): `plan.with_options(limit=None)`.

        Raises:
            ConfigurationError: an option is unknown, of the wrong type, or contradicts another one.
        """
        before = {name: value for name, value in msgspec.structs.asdict(self._base).items() if name != "job"}
        given = {**before, **listed(options)}
        if "output" in options and options["output"] is None:
            given |= self._scratch.options()
        elif self._in_scratch and "output" in options:
            given["checkpoint_dir"] = options.get("checkpoint_dir")
        elif self._in_scratch and any(given[name] != before[name] for name in OTHER_ROWS):
            digest = code_digest(str([given[name] for name in OTHER_ROWS]))[:DIGEST_CHARS]
            given["output"] = f"{self._scratch.path}/output-{digest}.parquet"
        return Plan(spec_for(self._base.job, given), self._overrides, self._scratch, self._job_class)

    @in_python
    def command(self, **options: Any) -> str:
        """The command line that submits the same, with other `options` if any are given (`output=`, `limit=None`).

        Raises:
            ConfigurationError: no command can: the input or the output is in memory, the class in no file, or nodes
                are replaced.
        """
        if options:
            return self.with_options(**options).command()
        reason = why_no_command(self._base, self._overrides)
        if self._in_scratch:
            reason = reason or "its output goes nowhere. Say where: command(output=...)"
        if reason:
            raise ConfigurationError(f"No command line submits this plan: {reason}.")
        return command_of(self._base)

    def peek(self, node: str = "pending", n: int = PEEK_ROWS) -> Any:
        """The first `n` rows of a node, as a frame of the engine, or its value if it has no rows.

        Only what it needs is computed: rows of `transformed` are made by calling the job for `n` pending rows. Nothing
        is written, and no run is touched.

        Raises:
            SwarmError: there is no such node, or it cannot be computed.
        """
        return self.compute(node, limit=n)

    @in_python
    def compute(self, node: str, *, limit: int | None = None, overrides: Mapping[str, Any] | None = None) -> Any:
        """The value of a node, in this process: rows as a frame of the engine, those of `limit` pending rows if given.

        Nothing is written but for `flushed` and `finalized`, which write to a temporary folder; `finalized` is the
        output as a frame.

        Raises:
            SwarmError: there is no such node, or it cannot be computed.
        """
        replaced = self._with(overrides)
        with tempfile.TemporaryDirectory(prefix="domyn-swarm-") as folder:
            look = look_into(self._placed(replaced), replaced, node, limit, folder)
            return _shown(look, limit)

    @in_python
    def run(self, *, overrides: Mapping[str, Any] | None = None, progress: Progress | None = None) -> Any:
        """Run the job to its end. Interrupted, it keeps what has finished, and the next `run` goes on from there.

        Args:
            overrides: Values in place of nodes, by name; what is upstream of them is not computed. Such a run has a
                folder of its own, and never meets the rows of another.
            progress: Who watches it go by; None: a bar.

        Returns:
            The output as a frame of the engine if the plan has no `output`, else the `RunResult`, which `result` has in
            any case.

        Raises:
            SwarmError: refused (nothing was written), broken, or interrupted.
        """
        replaced = self._with(overrides)
        spec = self._placed(replaced)
        shown = progress or progress_here()
        with telling(shown, worded):
            self.result = done = run(spec, shown, replaced)
            if done.failed:
                said = "%s of %s rows have failed; ids and reasons are in %s"
                logger.warning(said, f"{done.failed:,}", f"{done.rows:,}", done.errors_path)
        return load_backend(spec.data_backend).in_memory(_read(spec.output)) if self._in_scratch else self.result

    def close(self) -> None:
        """Remove the temporary folder, with runs whose output is a frame."""
        self._scratch.close()

    def __enter__(self) -> Plan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _shown(look: Look, limit: int | None) -> Any:
    """Rows as a frame of the engine, without columns that only the program needs; anything else as it is."""
    value, backend = look.value, look.backend
    if isinstance(value, Artifact):
        return backend.in_memory(_read(value.path))
    if isinstance(value, lazy_type(backend)):
        frame = value if limit is None else backend.head(value, limit)
        return backend.in_memory(without(collected(frame, backend), POSITION))
    if not isinstance(value, list) or (value and isinstance(value[0], JobBatch)):
        return value
    tables = [table_of(part) for part in value]
    table = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
    table = table.sort_by(POSITION) if POSITION in table.column_names else table  # they come as they finish
    unsaid = [FAILURE] if FAILURE in table.column_names and table[FAILURE].null_count == table.num_rows else []
    return backend.in_memory(without(table, POSITION, TRACE, INPUTS, *unsaid).slice(0, limit))


def _read(path: str) -> pa.Table:
    return pq.read_table(path).replace_schema_metadata(None)


def listed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with one text for a list of one."""
    return {name: [value] if name in LISTS and isinstance(value, str) else value for name, value in options.items()}
