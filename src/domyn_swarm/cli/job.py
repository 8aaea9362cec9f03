"""`domyn-swarm job`: submit a job, or see its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from domyn_swarm.cli.graph import NOT_NEEDED, graph
from domyn_swarm.cli.options import from_environment, with_spec_options
from domyn_swarm.cli.row import row
from domyn_swarm.cli.view import view
from domyn_swarm.jobs.spec import DEFAULT_JOB

if TYPE_CHECKING:
    from domyn_swarm.jobs.runner import Plan, RunResult
    from domyn_swarm.jobs.spec import JobSpec

app = typer.Typer(help="Run jobs.", rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Run jobs."""


def submit(
    options: dict[str, Any],
    job: Annotated[str, typer.Argument(metavar="JOB", help="module:Class or path/to/file.py:Class")] = DEFAULT_JOB,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, and call nothing.")] = False,
) -> None:
    """Run JOB over every row of --input and write --output. Run the same command again to resume.

    Exit status: 0 every row is done; 2 refused, nothing was written; 3 done, some rows failed; 1 the run broke and can
    be resumed; 130 interrupted, can be resumed.
    """
    from domyn_swarm.jobs.loading import job_fields, load_job_class  # noqa: PLC0415 - keeps --help light
    from domyn_swarm.jobs.spec import resolve  # noqa: PLC0415

    job_class = load_job_class(job)
    spec = resolve(job, options, {**job_class.defaults, **from_environment()}, job_fields(job_class))
    if dry_run:
        _show_plan(spec)
        return
    from domyn_swarm.cli.progress import progress_on_stderr  # noqa: PLC0415
    from domyn_swarm.jobs.runner import run  # noqa: PLC0415

    result = run(spec, progress_on_stderr())
    typer.echo(_summary(result))
    raise typer.Exit(result.exit_status)


app.command("submit")(with_spec_options(submit))
app.command("graph")(with_spec_options(graph, without=NOT_NEEDED))
app.command("row")(row)
app.command("view")(view)


def _show_plan(spec: JobSpec) -> None:
    from domyn_swarm.jobs.runner import make_plan  # noqa: PLC0415

    typer.echo(_described(make_plan(spec)))


def _described(plan: Plan) -> str:
    spec, nodes = plan.spec, plan.nodes
    ids = f"column {spec.id_column!r}" if spec.id_column else f"generated ({nodes['columns'].id})"
    kind = "one file" if not spec.output_is_directory else "directory"
    lines = {
        "job": f"{spec.job} ({plan.method})",
        "backend": f"{spec.data_backend}, {'native' if spec.native_backend else 'compatibility'} mode",
        "input": f"{spec.input} ({len(nodes['files'].files)} file(s))",
        "items": ", ".join(nodes["columns"].inputs),
        "ids": ids,
        "rows": f"{plan.rows:,}" + (f" (limit {spec.limit:,})" if spec.limit else ""),
        "pending": f"{plan.pending:,} ({plan.rows - plan.pending:,} done before)",
        "checkpoint": plan.store.path if spec.checkpointing else "none",
        "output": f"{spec.output} ({kind}, {spec.output_mode})",
    }
    return "\n".join(f"{name:<11}{value}" for name, value in lines.items())


def _summary(result: RunResult) -> str:
    tried = result.done_now + result.failed
    rate = f"{tried / result.seconds:,.0f} rows/s" if tried else "nothing to do"
    lines = {
        "rows": f"{result.rows:,}",
        "done before": f"{result.done_before:,}",
        "done now": f"{result.done_now:,}",
        "failed": f"{result.failed:,}" + (f" (see {result.errors_path})" if result.errors_path else ""),
        "seconds": f"{result.seconds:,.1f} ({rate})",
        "output": result.output,
    }
    return "\n".join(f"{name:<13}{value}" for name, value in lines.items())
