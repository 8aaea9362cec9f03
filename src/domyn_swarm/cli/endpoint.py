"""`domyn-swarm endpoint`: run a local test endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from domyn_swarm.cli.files import print_json
from domyn_swarm.cli.help import App
from domyn_swarm.cli.names import AsJson  # noqa: TC001 - typer evaluates the annotations

app = App(help="Run a local test endpoint.")


@app.callback()
def group() -> None:
    """Run a local test endpoint."""


@app.command()
def demo(
    port: Annotated[
        int, typer.Option(metavar="PORT", help="Port on 127.0.0.1; 0 chooses a free port.", min=0, max=65535)
    ] = 8000,
    latency: Annotated[float, typer.Option(metavar="SECONDS", help="Seconds until each response.", min=0)] = 0.0,
    failure_rate: Annotated[
        float, typer.Option(metavar="FRACTION", help="Fraction of requests that get status 500.", min=0, max=1)
    ] = 0.0,
    rate_limit: Annotated[
        float | None, typer.Option(metavar="N", help="Requests per second; further requests get status 429.", min=0)
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed that determines which requests fail.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Serve an OpenAI-compatible test endpoint with made-up, deterministic answers."""
    from domyn_swarm.endpoint.demo import DemoSettings, serve  # noqa: PLC0415 - keeps --help light

    settings = DemoSettings(latency=latency, failure_rate=failure_rate, rate_limit=rate_limit, seed=seed)

    def announce(url: str) -> None:
        if as_json:
            print_json({"url": url})
        else:
            typer.echo(f"Demo endpoint at {url} (Ctrl-C stops it)")

    serve(settings, port, announce)
