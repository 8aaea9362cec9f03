"""Serve the report of a run over HTTP to a browser on this machine, with live updates and access to all rows.

It listens on loopback, which every user of the machine can reach. So it only accepts requests with its own host name
and its token, and no request contains a file path.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import signal
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiohttp import web

from domyn_swarm.edges import on_command_line
from domyn_swarm.errors import ConfigurationError, SwarmError
from domyn_swarm.masking import masked
from domyn_swarm.report.diagram import dot_of
from domyn_swarm.report.files import LiveReport, picture_of, recorded
from domyn_swarm.report.page import render
from domyn_swarm.storage.files import translating_io_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp.typedefs import Handler

    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.report.model import FailureKind, Report

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
SHUTDOWN_SECONDS = 1.0
DRAW_SECONDS = 1.0
"""Minimum seconds between two renderings of the graph."""
PAGE_ROWS = 50
READERS = 2
"""Threads for reports, and as many for look-ups, which may be slow."""
TOKEN_BYTES = 24
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PAGE_POLICY = "frame-ancestors 'none'"
"""The page contains the rest of its policy; browsers apply both."""

T = TypeVar("T")
logger = logging.getLogger("domyn_swarm")


def serve(folder: RunFolder, port: int, announce: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM. `announce` gets the report's URL, including the token, once the server listens.

    Raises:
        ConfigurationError: the run has no report, or the port is taken.
        DataError: the folder cannot be reached.
    """
    with translating_io_errors(folder.path):
        recorded(folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_served(folder, port, announce))


async def _served(folder: RunFolder, port: int, announce: Callable[[str], None]) -> None:
    view = _View(folder)
    runner = web.AppRunner(view.app(), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigurationError(
                f"{port} cannot be used: {reason}.", "Choose another port.", code="port.unusable", option="port"
            ) from None
        announce(f"http://{HOST}:{runner.addresses[0][1]}/?token={view.token}")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


class _View:
    """The server's routes. Reading and rendering happen in threads."""

    def __init__(self, folder: RunFolder) -> None:
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        self._folder = folder
        self._report = LiveReport(folder)
        self._picture = _Picture()
        self._kinds: Sequence[FailureKind] = ()  # of the latest report: the page refers to them by index
        self._reading = ThreadPoolExecutor(READERS, "domyn-swarm-report")
        self._looking = ThreadPoolExecutor(READERS, "domyn-swarm-look-up")

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_guarded, self._with_token])
        app.router.add_get("/", self._page)
        app.router.add_get("/data.json", self._data)
        app.router.add_get("/row.json", self._row)
        app.router.add_get("/failures.json", self._failures)
        app.on_response_prepare.append(_with_headers)
        return app

    @web.middleware
    async def _with_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Reject other users of the machine: the printed URL and the page's requests contain the token."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        given = given if scheme == "Bearer" else request.query.get("token", "")
        if not hmac.compare_digest(given.encode(errors="replace"), self.token.encode()):
            return web.Response(status=403, text="The token is missing: open the URL that the command printed.")
        return await handler(request)

    async def _page(self, _: web.Request) -> web.Response:
        report, picture = await self._now()
        page = await _in(self._reading, lambda: render(report, picture, live=True))
        headers = {"Content-Security-Policy": PAGE_POLICY}
        return web.Response(text=page, content_type="text/html", headers=headers)

    async def _data(self, _: web.Request) -> web.Response:
        report, picture = await self._now()
        return _json({"report": report, "picture": picture})

    async def _now(self) -> tuple[Report, str]:
        def read() -> Report:
            with translating_io_errors(self._folder.path):
                return self._report.now()

        report = await _in(self._reading, read)
        self._kinds = report.failures
        return report, await self._picture.of(report, self._reading)

    async def _row(self, request: web.Request) -> web.Response:
        def text() -> str:
            from domyn_swarm.report.row import look_up, render_text  # noqa: PLC0415 - only for row look-ups

            with translating_io_errors(self._folder.path):
                return render_text(look_up(self._folder, request.query.get("id", "")))

        return await self._looked_up(lambda: {"text": text()})

    async def _failures(self, request: web.Request) -> web.Response:
        kinds = self._kinds

        def page() -> dict[str, Any]:
            from domyn_swarm.report.failures import failures_of_kind  # noqa: PLC0415

            number, offset = _number(request, "kind"), _number(request, "offset")
            if number >= len(kinds):
                raise ConfigurationError(
                    f"kind: {number} is out of range: the report has {len(kinds)} kinds of failures.",
                    code="option.invalid",
                )
            rows, total = failures_of_kind(self._folder, kinds[number], offset, PAGE_ROWS, kinds)
            return {"rows": rows, "total": total}

        return await self._looked_up(page)

    async def _looked_up(self, look: Callable[[], dict[str, Any]]) -> web.Response:
        """The result, or the error, which the page shows."""
        try:
            return _json(await _in(self._looking, look))
        except SwarmError as error:
            return _json({"error": on_command_line(error)})


class _Picture:
    """The graph of the latest report, rendered only when it has changed, at most every DRAW_SECONDS."""

    def __init__(self) -> None:
        self._drawn = ""
        self._dot = ""
        self._at = float("-inf")
        self._lock = asyncio.Lock()

    async def of(self, report: Report, threads: ThreadPoolExecutor) -> str:
        dot = dot_of(report.graph, report.figures)
        async with self._lock:
            if dot != self._dot:
                # Wait rather than return the previous one: the page stops polling once the run has ended.
                await asyncio.sleep(self._at + DRAW_SECONDS - time.monotonic())
                self._at = time.monotonic()
                self._drawn, self._dot = await _in(threads, lambda: picture_of(report)), dot
            return self._drawn


async def _in(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise ConfigurationError(f"{name}: {text!r} is not a non-negative number.", code="option.invalid")
    return int(text)


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Reject requests for other host names (DNS rebinding), and turn errors into responses without details."""
    try:
        if not _is_named(request):
            return web.Response(status=403, text="This server only answers requests to its own address.")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="Only GET and HEAD are allowed.", headers={"Allow": "GET, HEAD"})
        return await handler(request)
    except web.HTTPException as error:
        return web.Response(status=error.status, text=error.reason)
    except SwarmError as error:  # not JSON: the page keeps its content and retries
        return web.Response(status=503, text=on_command_line(error))
    except Exception:  # noqa: BLE001 - details go to the log, not to the client
        logger.error("%s %s: %s", request.method, request.path, masked(traceback.format_exc()))
        return web.Response(status=500, text="Internal error; see the server's log.")


def _is_named(request: web.Request) -> bool:
    port = request.get_extra_info("sockname")[1]
    suffixes = (f":{port}", "") if port == 80 else (f":{port}",)
    return request.headers.getall("Host", []) in [[f"{name}{suffix}"] for name in NAMES for suffix in suffixes]


async def _with_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _json(content: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")
