"""`domyn-swarm job`: submit and manage jobs."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from domyn_swarm.cli import completion
from domyn_swarm.cli.diff import diff
from domyn_swarm.cli.errors import errors
from domyn_swarm.cli.files import print_json
from domyn_swarm.cli.graph import NOT_NEEDED, graph
from domyn_swarm.cli.help import DOCUMENTATION, App
from domyn_swarm.cli.names import AsJson  # noqa: TC001 - typer evaluates the annotations
from domyn_swarm.cli.options import with_spec_options
from domyn_swarm.cli.placement import (
    Detach,
    JobName,
    Requeue,
    RunOn,
    SlurmArgs,
    aligned,
    check_here,
    check_name,
    is_detached,
    placement_of,
    prepare,
    print_submission,
    shown,
    shown_reasons,
    shown_tokens,
    submit_detached,
)  # fmt: skip
from domyn_swarm.cli.row import row
from domyn_swarm.cli.runs import COMMANDS
from domyn_swarm.cli.show import show
from domyn_swarm.cli.view import view
from domyn_swarm.option_groups import DEFAULT_JOB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.data.input_files import InputFiles
    from domyn_swarm.engine.columns import Columns
    from domyn_swarm.engine.planning import RunPlan
    from domyn_swarm.engine.runner import RunResult
    from domyn_swarm.engine.step_plans import StepPlan
    from domyn_swarm.jobspec import JobSpec

app = App(help="Submit and manage jobs.")

EXAMPLES = f"""
Examples:
  Ask a question about each row (demo is a test endpoint that needs no model):
    domyn-swarm job submit --input questions.parquet --output answers.parquet \\
      --prompt 'Answer briefly: {{question}}' --endpoint demo

  Get labels as columns that fit a schema, for the first 100 rows:
    domyn-swarm job submit --input reviews.parquet --output labels.parquet \\
      --prompt 'Rate this review: {{text}}' --schema rating.json \\
      --output-column stars --endpoint http://localhost:8000/v1 --limit 100

  Run your own function in the background (start with: domyn-swarm init job):
    domyn-swarm job submit my_job.py:MyJob --input in.parquet --output out/ --detach

{DOCUMENTATION}
"""


@app.callback()
def group() -> None:
    """Submit and manage jobs."""


def submit(  # noqa: PLR0913, PLR0917 - each is a flag
    options: dict[str, Any],
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB",
            help="module:Class, path/to/file.py:Class, or @FILE of options",
            autocompletion=completion.jobs,
        ),
    ] = DEFAULT_JOB,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, without calling the job or starting a run.")
    ] = False,
    detach: Detach = False,
    run_on: RunOn = None,
    job_name: JobName = None,
    slurm_args: SlurmArgs = None,
    requeue: Requeue = None,
    as_json: AsJson = False,
) -> None:
    """Run JOB over every row of --input and write --output. Run the same command again to resume.

    With --detach or --run-on, the run continues in the background: the command prints its name and returns.

    Exit status: 0 every row is done; 2 invalid options or input, nothing was written; 3 done, some rows failed; 1 the
    run failed and can be resumed; 130 interrupted or 124 time limit reached (SIGUSR1), can be resumed.
    """
    from domyn_swarm.engine.output_paths import check_outlives  # noqa: PLC0415
    from domyn_swarm.options.resolve import spec_for  # noqa: PLC0415 - keeps --help light

    spec = spec_for(job, options)
    check_outlives(spec)
    placement = placement_of(spec, run_on, slurm_args, requeue)
    check_name(spec, job_name)
    if not is_detached(placement, detach=detach):
        check_here(spec, placement)
        _run_here(spec, job_name, dry_run=dry_run, as_json=as_json)
        return
    prepared = prepare(spec, placement)
    if dry_run:
        _show_plan(prepared.plan, as_json=as_json, launch=shown(prepared, job_name))
    else:
        print_submission(submit_detached(prepared, job_name), as_json=as_json)


def _run_here(spec: JobSpec, job_name: str | None, *, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        from domyn_swarm.engine.planning import make_plan  # noqa: PLC0415

        plan = make_plan(spec)
        if spec.serve:
            from domyn_swarm.engine.serving import servers_of  # noqa: PLC0415

            servers_of(plan)  # refuses what a run would refuse
        _show_plan(plan, as_json=as_json)
        return
    from domyn_swarm.engine.runner import run  # noqa: PLC0415
    from domyn_swarm.report.progress import progress_here  # noqa: PLC0415
    from domyn_swarm.runs.submit import Registering  # noqa: PLC0415

    progress = progress_here()
    with progress.shown():
        result = run(spec, Registering(progress, spec, job_name))
    if as_json:
        print_json(result)
    else:
        typer.echo(_summary(result, spec))
    raise typer.Exit(result.exit_status)


app.command("submit", epilog=EXAMPLES)(with_spec_options(submit))
app.command("graph")(with_spec_options(graph, without=NOT_NEEDED))
app.command("row")(row)
app.command("errors")(errors)
app.command("show")(show)
app.command("view")(view)
app.command("diff")(diff)
for name, command in COMMANDS.items():
    app.command(name)(command)


def _show_plan(plan: RunPlan, *, as_json: bool, launch: str | None = None) -> None:
    described = _described(plan)
    if as_json:
        steps = {"steps": plan.steps} if plan.steps else {}
        print_json({**described, **steps, **({} if launch is None else {"launch": launch})})
        return
    typer.echo("\n".join(f"{name:<11}{value}" for name, value in described.items()))
    for number, step in enumerate(plan.steps):
        typer.echo(f"{'' if number else 'steps':<11}{_step_line(step, 'to compute')}")
    if launch is not None:
        typer.echo(f"\n{launch.rstrip()}")


def _step_line(step: StepPlan, computed: str) -> str:
    """`score: 0 kept, 20 to compute (its code has changed)`."""
    why = f" ({step.why})" if step.why and step.to_compute else ""
    return f"{step.step}: {step.kept:,} kept, {step.to_compute:,} {computed}{why}"


def _described(plan: RunPlan) -> dict[str, str]:
    spec, nodes = plan.spec, plan.nodes
    ids = f"column {spec.id_column!r}" if spec.id_column else f"generated ({nodes['columns'].id})"
    kind = "one file" if not spec.output_is_directory else "directory"
    changed = f", {plan.changed:,} with changed inputs" if plan.changed else ""
    return {
        "job": f"{spec.job} ({plan.method})",
        "backend": f"{spec.data_backend}, {'native' if spec.native_backend else 'compatibility'} mode",
        "input": f"{spec.input} ({len(nodes['files'].files)} file(s))",
        **_input_notes(nodes["files"], nodes["schema"], nodes["columns"]),
        "items": ", ".join(nodes["columns"].inputs),
        "ids": ids,
        "rows": f"{plan.rows:,}" + (f" (limit {spec.limit:,})" if spec.limit else ""),
        "pending": f"{plan.pending:,} ({plan.rows - plan.pending:,} done before{changed})",
        "checkpoint": plan.store.path if spec.checkpointing else "none",
        "output": f"{spec.output} ({kind}, {spec.output_mode})",
        **_servers(spec),
    }


def _servers(spec: JobSpec) -> Mapping[str, str]:
    """The model servers that the run starts."""
    if not spec.serve:
        return {}
    from domyn_swarm.serving.servers import describe  # noqa: PLC0415 - keeps --help light

    return describe(spec.serve, spec.serve_replicas, spec.serve_gpus)


def _input_notes(files: InputFiles, schema: Mapping[str, str], columns: Columns) -> dict[str, str]:
    """What the input's path does not show: skipped files, columns from folder names, inferred types, metadata."""
    from domyn_swarm.data.file_metadata import carried  # noqa: PLC0415 - keeps --help light
    from domyn_swarm.data.listing import summary  # noqa: PLC0415

    typed = schema if files.schema is None else {name: schema[name] for name in files.hive.names if name in schema}
    notes = {
        "skipped": summary(files.skipped),
        "types" if files.schema is None else "folders": ", ".join(f"{name} {kind}" for name, kind in typed.items()),
        "metadata": str(carried(files, columns.kept)),
    }
    return {name: note for name, note in notes.items() if note}


def _summary(result: RunResult, spec: JobSpec) -> str:
    tried = result.done_now + result.failed
    rate = f"{tried / result.seconds:,.0f} rows/s" if tried else "nothing to do"
    changed = {"changed": f"{result.changed:,} (computed again because their inputs changed)"} if result.changed else {}
    lines = {
        "rows": f"{result.rows:,}",
        "done before": f"{result.done_before:,}",
        "done now": f"{result.done_now:,}",
        **changed,
        "failed": f"{result.failed:,}" + (f" (see {result.errors_path})" if result.errors_path else ""),
        "seconds": f"{result.seconds:,.1f} ({rate})",
        "output": result.output,
    }
    steps = [_step_line(step, "to compute") for step in result.steps] if result.done_before < result.rows else []
    lines |= {"steps": f"\n{'':<13}".join(steps)} if any(step.kept for step in result.steps) and steps else {}
    shown = "\n".join(f"{name:<13}{value}" for name, value in lines.items())
    return "\n\n".join(filter(None, [shown, _after(result, spec)]))


def _after(result: RunResult, spec: JobSpec) -> str:
    """What a run came to beyond its rows, and where to look next. Without checkpoints nothing is left to look at."""
    lines = {"reasons": shown_reasons(result.reasons), "tokens": shown_tokens(result.tokens_in, result.tokens_out)}
    if spec.checkpointing:
        from domyn_swarm.checkpoint.folder import RunFolder  # noqa: PLC0415 - keeps --help light
        from domyn_swarm.runs.find import name_in  # noqa: PLC0415
        from domyn_swarm.runs.index import hurried  # noqa: PLC0415

        with hurried():
            name = quote(name_in(RunFolder(spec.run_dir, spec.run_storage)))
        lines |= {
            "report": f"{result.run_dir}/report.html",
            "next": f"domyn-swarm job {'errors' if result.failed else 'view'} {name}",
        }
    return aligned(lines, 13)
