"""A plan: a job over an input that can be inspected, changed and run."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from domyn_swarm.checkpoint.inspection import open_run
from domyn_swarm.data.backends.base import JobBatch
from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.data.columns import FAILURE, INPUTS, POSITION, TRACE
from domyn_swarm.engine.evaluate import evaluate
from domyn_swarm.engine.graph.build import check_overrides
from domyn_swarm.engine.graph.code_digest import code_digest
from domyn_swarm.engine.graph.coercion import collected, lazy_type, table_of, without
from domyn_swarm.engine.graph.overrides import DIGEST_CHARS, functions_of
from domyn_swarm.engine.identity import IDENTITY
from domyn_swarm.engine.output_writer import Artifact
from domyn_swarm.engine.recording.command_line import command_of, why_no_command
from domyn_swarm.engine.recording.describe import describe
from domyn_swarm.engine.runner import run
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.notebook.error_translation import in_python
from domyn_swarm.options.resolve import spec_for
from domyn_swarm.report.diagram import svg_or_mermaid
from domyn_swarm.report.failed_rows import failed_rows
from domyn_swarm.report.progress import progress_here, showing_logs
from domyn_swarm.report.rates import Rates

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
"""Options that change a run's rows. With other values a plan gets another temporary output."""
LISTS = frozenset({"input_columns", "output_columns", "endpoints", "adapters", "keep", "recompute"})


class Plan:
    """A job over an input, with its graph: inspect it (`peek`, `compute`), change it (`with_...`), or `run` it.

    Plans are immutable: the `with_...` methods return a new plan. A notebook renders a plan as its graph. As a context
    manager a plan removes its temporary folder at the end.
    """

    def __init__(
        self, spec: JobSpec, overrides: Overrides, scratch: Scratch, job_class: type[SwarmJob] | None = None
    ) -> None:
        self._base = spec
        self._overrides = overrides
        self._scratch = scratch
        self._job_class = job_class  # keeps classes alive that exist only in this process
        self.result: RunResult | None = None

    @property
    def spec(self) -> JobSpec:
        """The JobSpec of a run. With overrides the run has a separate folder."""
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
        """The folder of this plan's run, for `job view`, `job row` and `compare`."""
        return self.spec.run_dir

    @property
    def graph(self) -> Graph:
        """The graph as plain data, with overridden nodes marked."""
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
        """A plan with nodes overridden by functions of the same names, or by the functions of modules.

        A function's parameters are nodes and options by name. A parameter annotated as a frame (`pd.DataFrame`) gets
        the rows of a lazy frame in memory. The result is converted to the node's type.

        Raises:
            ConfigurationError: the node or a parameter does not exist, the function depends on the node itself, or its
                return annotation does not match; the message lists valid names.
        """
        functions = {**self._overrides.functions, **functions_of(replacements)}
        return self._replacing(dataclasses.replace(self._overrides, functions=functions))

    @in_python
    def with_values(self, **values: Any) -> Plan:
        """A plan with nodes overridden by values. Nodes that only they depend on are not computed.

        `run` accepts the same as `overrides`, for one run.

        Raises:
            ConfigurationError: the node does not exist, or it cannot have that value.
        """
        return self._replacing(self._with(values))

    def _with(self, values: Mapping[str, Any] | None) -> Overrides:
        return dataclasses.replace(self._overrides, values={**self._overrides.values, **(values or {})})

    def _replacing(self, overrides: Overrides) -> Plan:
        check_overrides(self._base, overrides)
        return Plan(self._base, overrides, self._scratch, self._job_class)

    @in_python
    def with_options(self, **options: Any) -> Plan:
        """A plan with other options (fields of `JobSpec`): `plan.with_options(limit=None)`.

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
        """The command line that submits the same job, with other `options` if given (`output=`, `limit=None`).

        Raises:
            ConfigurationError: no command can submit it, because the input or the output is in memory, the class is in
                no file, or nodes are overridden.
        """
        if options:
            return self.with_options(**options).command()
        reason = why_no_command(self._base, self._overrides)
        if self._in_scratch:
            reason = reason or "it has no output path. Pass one: command(output=...)"
        if reason:
            raise ConfigurationError(f"No command line submits this plan: {reason}.", code="plan.no_command")
        return command_of(self._base)

    def peek(self, node: str = "pending", n: int = PEEK_ROWS) -> Any:
        """The first `n` rows of a node as a frame of the engine, or its value if it has no rows.

        Only the nodes that it depends on are computed; for `transformed` the job is called for `n` pending rows.
        Nothing is written, and no run is changed.

        Raises:
            SwarmError: the node does not exist, or it cannot be computed.
        """
        return self.compute(node, limit=n)

    @in_python
    def compute(self, node: str, *, limit: int | None = None, overrides: Mapping[str, Any] | None = None) -> Any:
        """Compute a node in this process: its rows as a frame of the engine, for at most `limit` pending rows.

        Nothing is written, except that `flushed` and `finalized` write to a temporary folder; `finalized` returns the
        output as a frame.

        Raises:
            SwarmError: the node does not exist, or it cannot be computed.
        """
        replaced = self._with(overrides)
        with tempfile.TemporaryDirectory(prefix="domyn-swarm-") as folder:
            look = evaluate(self._placed(replaced), replaced, node, limit, folder)
            return _shown(look, limit)

    @in_python
    def run(self, *, overrides: Mapping[str, Any] | None = None, progress: Progress | None = None) -> Any:
        """Run the job. When interrupted, finished rows are kept and the next `run` resumes.

        Args:
            overrides: Values of nodes by name; nodes that only they depend on are not computed. Such a run has a
                separate folder, and never uses rows of another run.
            progress: Receives progress; None shows a bar.

        Returns:
            The output as a frame of the engine if the plan has no `output`, else the `RunResult`. `result` always has
            the `RunResult`.

        Raises:
            SwarmError: an option or the input is invalid (nothing was written), or the run failed or was interrupted.
        """
        replaced = self._with(overrides)
        spec = self._placed(replaced)
        shown = progress or progress_here()
        around = shown.shown() if isinstance(shown, Rates) else contextlib.nullcontext()
        with showing_logs(shown), around:
            self.result = done = run(spec, shown, replaced)
            if done.failed:
                text = "%s of %s rows failed; ids and errors are in %s"
                logger.warning(text, f"{done.failed:,}", f"{done.rows:,}", done.errors_path)
        return load_backend(spec.data_backend).in_memory(_read(spec.output)) if self._in_scratch else self.result

    @property
    @in_python
    def errors(self) -> Any:
        """The failed rows of this plan's run as a frame of the engine: id, `type`, `kind`, `message`, `attempts`.

        Raises:
            SwarmError: there is no run yet, or its folder cannot be read.
        """
        spec = self.spec
        folder = open_run(spec.run_dir, spec.run_storage)
        return load_backend(spec.data_backend).in_memory(failed_rows(folder))

    def close(self) -> None:
        """Remove the temporary folder, including runs whose output is a frame."""
        self._scratch.close()

    def __enter__(self) -> Plan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _shown(look: Look, limit: int | None) -> Any:
    """Rows as a frame of the engine, without internal columns; other values unchanged."""
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
    table = table.sort_by(POSITION) if POSITION in table.column_names else table  # batches are in completion order
    unsaid = [FAILURE] if FAILURE in table.column_names and table[FAILURE].null_count == table.num_rows else []
    return backend.in_memory(without(table, POSITION, TRACE, INPUTS, *unsaid).slice(0, limit))


def _read(path: str) -> pa.Table:
    return pq.read_table(path).replace_schema_metadata(None)


def listed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with a single string accepted for a list."""
    return {name: [value] if name in LISTS and isinstance(value, str) else value for name, value in options.items()}
