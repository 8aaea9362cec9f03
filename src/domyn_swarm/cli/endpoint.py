"""`domyn-swarm endpoint`: the bundled demo server."""

from __future__ import annotations

from typing import Annotated

import typer

from domyn_swarm.cli.files import print_json
from domyn_swarm.cli.names import AsJson  # noqa: TC001 - typer evaluates the annotations

app = typer.Typer(help="Endpoints to send requests to.", rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Endpoints to send requests to."""


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8000,
    latency: Annotated[float, typer.Option(help="Seconds that an answer takes.", min=0)] = 0.0,
    failure_rate: Annotated[float, typer.Option(help="Share of requests that get status 500.", min=0, max=1)] = 0.0,
    rate_limit: Annotated[float | None, typer.Option(help="Requests per second; more get status 429.", min=0)] = None,
    seed: Annotated[int, typer.Option(help="Which requests fail.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Serve an OpenAI-compatible endpoint with made-up, deterministic answers, to rehearse a job with."""
    from domyn_swarm.endpoint.demo import DemoSettings, serve  # noqa: PLC0415 - keeps --help light

    settings = DemoSettings(latency=latency, failure_rate=failure_rate, rate_limit=rate_limit, seed=seed)

    def announce(url: str) -> None:
        if as_json:
            print_json({"url": url})
        else:
            typer.echo(f"Demo endpoint at {url} (Ctrl-C stops it)")

    serve(settings, port, announce)
