"""`domyn-swarm job view`: serve the report of a run, updated live while it runs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from domyn_swarm.cli.files import print_json
from domyn_swarm.cli.names import AsJson, RunName, folder_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def view(
    run: RunName,
    port: Annotated[
        int, typer.Option(metavar="PORT", help="Port on 127.0.0.1; 0 chooses a free port.", min=0, max=65535)
    ] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the report in a browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve the report of RUN on this machine, updated live, with all failed rows and a search for any row.

    Prints the report's URL, which contains a token that keeps out other users of this machine. Ctrl-C stops the server
    with exit status 0. Exit status 2: RUN has no report to serve.
    """
    import os  # noqa: PLC0415 - keeps --help light
    import sys  # noqa: PLC0415

    from domyn_swarm.report.server import serve  # noqa: PLC0415

    with contextlib.ExitStack() as until_the_end:
        opened = until_the_end if open_browser else None
        serve(folder_of(run), port, lambda url: _announce(url, opened, as_json=as_json))
    sys.stdout.flush()
    sys.stderr.flush()
    # Not a return: a read that hangs in a thread must not keep the process alive.
    os._exit(0)


def _announce(url: str, opened: contextlib.ExitStack | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"url": url})
    else:
        typer.echo(url)
    if opened is not None:
        import threading  # noqa: PLC0415
        import webbrowser  # noqa: PLC0415

        page = opened.enter_context(_redirect_page(url))
        # A text-mode browser blocks its caller until it is closed.
        threading.Thread(target=webbrowser.open, args=(page,), name="domyn-swarm-browser", daemon=True).start()


@contextlib.contextmanager
def _redirect_page(url: str) -> Iterator[str]:
    """The URL of a private file that redirects to `url`: process arguments are visible to every user."""
    import tempfile  # noqa: PLC0415

    import platformdirs  # noqa: PLC0415

    folder = platformdirs.user_state_path("domyn-swarm") / "views"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".html", dir=folder) as page:
        page.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={url}"><a href="{url}">The report</a>')
        page.flush()
        yield Path(page.name).as_uri()
