"""`domyn-swarm job view`: the report of a run in a browser, live while it goes."""

from __future__ import annotations

from typing import Annotated

import typer

from domyn_swarm.cli.files import print_json
from domyn_swarm.cli.names import AsJson, RunName, folder_of


def view(
    run: RunName,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the report in a browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve the report of RUN on this machine, live while the run goes, with all failed rows and a look-up of any row.

    Prints the report's URL once it is there. Ctrl-C stops it with exit status 0; 2 says that there is nothing to serve.
    """
    import os  # noqa: PLC0415 - keeps --help light
    import sys  # noqa: PLC0415

    from domyn_swarm.view.server import serve  # noqa: PLC0415

    serve(folder_of(run), port, lambda url: _announce(url, open_browser=open_browser, as_json=as_json))
    sys.stdout.flush()
    sys.stderr.flush()
    # Not by returning: a read that hangs in a thread must not keep the process from ending.
    os._exit(0)


def _announce(url: str, *, open_browser: bool, as_json: bool) -> None:
    if as_json:
        print_json({"url": url})
    else:
        typer.echo(url)
    if open_browser:
        import threading  # noqa: PLC0415
        import webbrowser  # noqa: PLC0415

        # A browser in the terminal keeps its caller waiting until it is closed.
        threading.Thread(target=webbrowser.open, args=(url,), name="domyn-swarm-browser", daemon=True).start()
