"""`domyn-swarm job list | status | logs | wait | cancel | resume | rm`: manage runs on any launcher."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from domyn_swarm.cli import completion
from domyn_swarm.cli.files import print_json
from domyn_swarm.cli.names import AsJson, RunName, RunNames  # noqa: TC001 - typer evaluates the annotations
from domyn_swarm.cli.placement import (
    RayAddress,
    Requeue,
    RunOn,
    SlurmArgs,
    aligned,
    print_submission,
    shown_reasons,
    shown_tokens,
    state_shown,
)  # fmt: skip
from domyn_swarm.edges import on_command_line
from domyn_swarm.errors import AGAIN, ConfigurationError, JobError, opt
from domyn_swarm.report.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from domyn_swarm.runs.find import Run
    from domyn_swarm.runs.state import Status
    from domyn_swarm.serving.states import ServerState

TIMED_OUT = 124


def list_(
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            metavar="STATE",
            show_default=False,
            help="Only runs in this state",
            autocompletion=completion.states,
        ),
    ] = None,
    checkpoint_dir: Annotated[
        list[str] | None,
        typer.Option("--checkpoint-dir", metavar="DIR", help="Also look for runs in DIR; repeat for several"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first: runs submitted by this user, and runs in or near the working directory.

    States: pending, running, done, done with failures, failed, cancelled, lost (the process exited without recording a
    status), unknown (the launcher does not respond), gone (the folder was deleted).
    """
    from typing import get_args  # noqa: PLC0415

    from domyn_swarm.runs.find import all_runs  # noqa: PLC0415 - keeps --help light
    from domyn_swarm.runs.state import State, newest_first, statuses  # noqa: PLC0415

    if state is not None and state not in get_args(State):
        raise ConfigurationError(
            f"{state!r} is not valid.",
            f"It takes: {', '.join(get_args(State))}.",
            code="option.invalid",
            option="state",
            choices=get_args(State),
        )
    found = newest_first(statuses(all_runs(checkpoint_dir or ())))
    found = [status for status in found if state in (None, status.state)]
    if as_json:
        print_json(found)
    else:
        typer.echo(_table(found) if found else "No runs.")


def status(runs: RunNames, as_json: AsJson = False) -> None:
    """Show the current status of each RUN, as reported by its launcher. Exit status 0 for any status.

    An unknown RUN does not keep the others from being shown; the exit status is 2 then.
    """
    from domyn_swarm.runs.find import find  # noqa: PLC0415
    from domyn_swarm.runs.state import statuses  # noqa: PLC0415

    known, refused = [], []
    for run in runs:
        try:
            known.append(find(run))
        except ConfigurationError as error:
            refused.append(error)
    found = statuses(known)
    if as_json and (found or not refused):
        print_json(found)
    elif found:
        typer.echo("\n\n".join(map(_described, found)))
    for another in refused[1:]:
        typer.echo(f"Error: {on_command_line(another)}", err=True)
    if refused:
        raise refused[0]


def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log until the run ends.")] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", metavar="N", min=0, show_default=False, help="Only the last N lines")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server", metavar="NAME", show_default=False, help="The log of a model server of the run: server-0"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the log of RUN, or that of one of its model servers. Ctrl-C stops the command, not the run."""
    from domyn_swarm.runs.control import log_of, server_log_of  # noqa: PLC0415
    from domyn_swarm.runs.find import find  # noqa: PLC0415

    found = find(run)
    if server is not None and follow:
        raise ConfigurationError(
            f"{opt('follow', True)} follows the run's own log, and not that of a model server.",
            "Drop one of the two.",
            code="option.conflict",
            option="server",
        )
    text = "".join(log_of(found, follow=False)) if server is None else server_log_of(found, server)
    shown = text if lines is None else "".join(text.splitlines(keepends=True)[-lines:] if lines else [])
    if as_json:
        if follow:
            raise ConfigurationError(
                f"{opt('follow', True)} and {opt('json', True)} exclude each other.",
                "Drop one of the two.",
                code="option.conflict",
                option="follow",
            )
        print_json({"name": found.name, "lines": shown.splitlines()})
        return
    typer.echo(shown, nl=False)
    if follow:
        _follow(found, len(text))


def _follow(run: Run, known: int) -> None:
    """Print the log from character `known` on, until the run ends."""
    from domyn_swarm.runs.control import log_of  # noqa: PLC0415

    for piece in log_of(run, follow=True):
        typer.echo(piece[known:], nl=False)
        known = max(0, known - len(piece))


def wait(
    runs: RunNames,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0, show_default=False, help="Seconds to wait (default: no limit)"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Wait until every RUN has ended, and print the status of each when it ends (--json: a line of JSON).

    Exit status: the most severe (1 failed or lost, 130 cancelled, 3 some rows failed, 0 done); 124 on timeout.
    """
    from domyn_swarm.runs.control import combine_exit_status  # noqa: PLC0415
    from domyn_swarm.runs.control import wait as wait_for  # noqa: PLC0415

    waited_for = list({run.name: run for run in _found(runs)}.values())
    ends = []
    for found in wait_for(waited_for, timeout):
        ends.append(found.exit_status or 0)
        _print_status(found, as_json=as_json)
    raise typer.Exit(combine_exit_status(ends) if len(ends) == len(waited_for) else TIMED_OUT)


def cancel(
    runs: RunNames,
    grace: Annotated[
        float | None,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            min=0,
            show_default=False,
            help="Seconds for calls in flight to finish before they are dropped (default: the --grace of the run)",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Cancel each RUN gracefully: wait for its calls in flight, and write the finished rows.

    Calls that take longer than --grace are dropped. A run that has not ended 30 seconds later is killed. Finished rows
    are kept, and `job resume` continues with the rest. A run that has already ended is left unchanged.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    from domyn_swarm.runs import control  # noqa: PLC0415
    from domyn_swarm.runs.state import ACTIVE  # noqa: PLC0415

    found = _found(runs)
    with ThreadPoolExecutor(len(found)) as pool:
        ended = list(pool.map(lambda run: control.cancel(run, grace), found))
    for one in ended:
        _print_status(one, as_json=as_json)
    if left := [one.name for one in ended if one.state in ACTIVE]:
        raise JobError(f"{', '.join(left)} could not be cancelled.", f"{AGAIN}.", code="run.not_cancelled")


def resume(
    run: RunName,
    run_on: RunOn = None,
    slurm_args: SlurmArgs = None,
    requeue: Requeue = None,
    ray_address: RayAddress = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Allow running the code that RUN names although another user owns its folder."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Resume RUN in the background, where it ran before or where the flags say. Failed rows are retried."""
    from domyn_swarm.runs.find import find  # noqa: PLC0415
    from domyn_swarm.runs.resume import resume as resume_run  # noqa: PLC0415

    changes = {"run_on": run_on, "slurm_args": slurm_args, "requeue": requeue, "ray_address": ray_address}
    print_submission(resume_run(find(run), changes, trusted=trust), as_json=as_json)


def rm(
    runs: RunNames,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete each RUN's folder (parts, log, report), never its output. A running run is refused."""
    import sys  # noqa: PLC0415

    from domyn_swarm.runs.control import ensure_not_running, remove  # noqa: PLC0415

    found = _found(runs)
    for run in found:
        ensure_not_running(run)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigurationError(
                "Cannot confirm: not a terminal.", f"Use {opt('yes', True)}.", code="confirm.impossible", option="yes"
            )
        typer.echo("\n".join(map(_deletion_line, found)), err=True)
        if not typer.confirm("Delete?", err=True):
            typer.echo("Nothing was deleted.", err=True)
            raise typer.Exit(2)
    for run in found:
        left = remove(run)
        if as_json:
            print_json({"name": run.name, "path": run.folder.path, "left": left})
        else:
            kept = f"; kept files that no run wrote: {', '.join(left)}" if left else ""
            typer.echo(f"{run.name}: {run.folder.path} deleted{kept}")


def _deletion_line(run: Run) -> str:
    """What is deleted, with the number of rows: those of an unfinished run are in no output."""
    from domyn_swarm.runs.state import status_of  # noqa: PLC0415

    one = status_of(run)
    rows = "" if one.rows is None else f", {one.rows:,} of {one.total:,} rows"
    return one_line(f"{run.name} ({one.state}{rows}): {run.folder.path}")


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_, "status": status, "logs": logs, "wait": wait, "cancel": cancel, "resume": resume, "rm": rm,
}  # fmt: skip


def _found(runs: Sequence[str]) -> list[Run]:
    from domyn_swarm.runs.find import find  # noqa: PLC0415

    return [find(run) for run in runs]


def _print_status(found: Status, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    failed = f", {found.failed:,} failed" if found.failed else ""
    rows = "" if found.rows is None else f": {found.rows:,} of {found.total:,} rows{failed}"
    typer.echo(one_line(f"{found.name} is {state_shown(found)}{rows}"))


def _table(found: Sequence[Status]) -> str:
    from datetime import datetime  # noqa: PLC0415

    from domyn_swarm.runs.state import age_of  # noqa: PLC0415

    lines = [("NAME", "STATE", "ROWS", "FAILED", "WHERE", "STARTED", "AGE", "")]
    for one in found:
        rows = "-" if one.rows is None else f"{one.rows:,}/{one.total:,}"
        failed = "-" if one.failed is None else f"{one.failed:,}"
        note = one.path if one.state == "gone" else one.detail if one.state in ("unknown", "lost") else ""
        since = datetime.fromisoformat(one.since).astimezone().strftime("%Y-%m-%d %H:%M") if one.since else "-"
        lines.append((one.name, one.state, rows, failed, one.where or "-", since, age_of(one), note))
    cells = [[one_line(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _server_line(one: ServerState) -> str:
    restarts = f", started {one.starts} times" if one.starts > 1 else ""
    detail = f": {one.detail}" if one.detail else ""
    return one_line(f"{one.name} {one.state} since {one.since}{restarts}{detail}")


def _described(found: Status) -> str:
    rows = ""
    if found.rows is not None and found.total is not None:
        rate = f", {found.rows_per_second:,.1f} rows/s" if found.rows_per_second else ""
        share = f" ({found.rows / found.total:.0%})" if found.total else ""
        rows = f"{found.rows:,} of {found.total:,}{share}, {found.failed or 0:,} failed{rate}"
    return aligned(
        {
            "name": found.name,
            "state": state_shown(found),
            "error": found.error,
            "rows": rows,
            "reasons": shown_reasons(found.reasons),
            "tokens": shown_tokens(found.tokens_in or 0, found.tokens_out or 0),
            "where": found.where + (f", from {found.host}" if found.host else ""),
            "submitted": found.submitted or "",
            "started": found.started or "",
            "ended": found.ended or "",
            "output": found.output,
            "errors": found.errors_path,
            "folder": found.path,
            "log": found.log or "",
            "servers": "\n".join(map(_server_line, found.servers)),
            "report": found.report,
            "inspect": f"domyn-swarm job errors {quote(found.name)}" if found.failed else "",
            "resume": found.resume,
        }
    )
