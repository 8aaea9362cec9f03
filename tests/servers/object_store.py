"""An object store: a server of its own process that speaks S3, over real HTTP, fails on purpose, and keeps a log.

    python tests/servers/object_store.py --log requests.jsonl --share 503=0.05 --share reset=0.05 --once 'PUT /b/x=lost'

It prints its URL when it listens. What is stored is in its memory and goes with it. Requests happen one after the
other: what a conditional write promises holds. Which of them fail is drawn from `--seed`, request by request. Each
request is a line of the log, written when it arrives, because what will become of it is settled then:

    at           when it arrived, as `time.time()` has it
    request      method, path and query, as `--when` and `--once` see them
    did          one of FAULTS, or "answer"

Requests with OBSERVER's key neither fail nor are they logged: tests look with it. Other keys but KEY are refused.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

HOST = "127.0.0.1"
KEY, SECRET, OBSERVER = "AKIAJOB", "open-sesame", "AKIAOBSERVER"
ERRORS = {
    "403": ("403 Forbidden", "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
    "500": ("500 Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
    "503": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
}
FAULTS = (*ERRORS, "reset", "lost")
"""Errors with their status; the connection breaks before anything is done; or after it is done, without an answer."""


# What tests see of it.


class ObjectStore:
    """The server as a process. Its contents go with it."""

    def __init__(self, options: tuple[str, ...], log: Path) -> None:
        self.log = log
        from tests import forked  # which the server, a script, does not need

        self._process = forked.start(
            __file__, "--log", str(log), *options, stdout=subprocess.PIPE, imports=("moto.server", "s3fs")
        )
        self.url = self._process.stdout.readline().strip()

    @property
    def environment(self) -> dict[str, str]:
        """What lets S3's clients find the store, and use it, by themselves."""
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip

    @property
    def storage_options(self) -> dict[str, Any]:
        """The same for those who say it instead."""
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.url}

    def bucket(self) -> Bucket:
        """A new bucket."""
        name = f"bucket-{uuid.uuid4().hex[:8]}"
        self.fs.mkdir(name)
        return Bucket(self, name)

    @property
    def fs(self) -> Any:
        """The observer's filesystem: it sees what is there at this moment."""
        import fsspec

        return fsspec.filesystem("s3", **{**self.storage_options, "key": OBSERVER}, use_listings_cache=False)

    def requests(self) -> list[dict[str, Any]]:
        """The log so far, without a line that is only half written."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def pause(self) -> None:
        """From now on connections are accepted, by the kernel, and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@dataclass(frozen=True)
class Bucket:
    """What is in a bucket, by key: what the observer sees at this moment."""

    store: ObjectStore
    name: str

    def url(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def put(self, key: str, content: bytes) -> None:
        self.store.fs.pipe_file(f"{self.name}/{key}", content)

    def get(self, key: str) -> bytes:
        content: bytes = self.store.fs.cat_file(f"{self.name}/{key}")
        return content

    def delete(self, key: str) -> None:
        self.store.fs.rm_file(f"{self.name}/{key}")

    def objects(self, prefix: str = "") -> list[str]:
        """The keys that start with `prefix`, in order."""
        keys = (path.removeprefix(f"{self.name}/") for path in self.store.fs.find(self.name))
        return sorted(key for key in keys if key.startswith(prefix))

    def uploads(self) -> list[str]:
        """The keys of uploads in pieces that have not been completed, nor given up."""
        return [upload["Key"] for upload in self.store.fs.list_multipart_uploads(self.name)]

    def made(self) -> list[str]:
        """The keys of all objects that were made or replaced with KEY, in the order in which they became visible."""
        asked = [entry["request"] for entry in self.store.requests() if entry["did"] in ("answer", "lost")]
        visible = re.compile(rf"(?:PUT /{self.name}/([^?]+)|POST /{self.name}/([^?]+)\?uploadId=.*)")
        return [unquote(match[1] or match[2]) for match in map(visible.fullmatch, asked) if match]


@contextlib.contextmanager
def object_store(*options: str, log: str | Path = "store.jsonl") -> Iterator[ObjectStore]:
    """A store that does not outlive the test. Clients of an earlier one, which this process has kept, are forgotten."""
    import fsspec

    store = ObjectStore(options, Path(log).absolute())
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        yield store
    finally:
        store.kill()


# The server.


class Troubled:
    """A WSGI application in front of another: it checks keys, logs, and fails some requests."""

    def __init__(self, application: Callable[..., Iterable[bytes]], options: argparse.Namespace, log: Any) -> None:
        self.application = application
        self.options = options
        self.log = log
        self.chance = random.Random(options.seed)
        self.one_at_a_time = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self.one_at_a_time:
            request = f"{environ['REQUEST_METHOD']} {environ['REQUEST_URI']}"
            key = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
            if key == OBSERVER:
                return self.application(environ, start_response)
            did = "403" if key != KEY else self.drawn(request)
            print(json.dumps({"at": time.time(), "request": request, "did": did}), file=self.log, flush=True)
            if did in ERRORS:
                return self.refusal(did, environ, start_response)
            if did != "reset":
                body = self.application(environ, start_response)
            if did != "answer":
                _break(environ["werkzeug.socket"])
                raise ConnectionResetError(did)
            return body

    def drawn(self, request: str) -> str:
        """What becomes of a request: what was asked for comes before chance."""
        chance = self.chance.random()
        for one in self.options.once:
            if one[0] in request:
                self.options.once.remove(one)
                return str(one[1])
        for part, fault in self.options.when:
            if part in request:
                return str(fault)
        for fault, share in self.options.share:
            chance -= float(share)
            if chance < 0:
                return str(fault)
        return "answer"

    def refusal(self, did: str, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """An error as S3 has them. What the client still sends is read first: else it would see a broken connection."""
        from werkzeug.wsgi import get_input_stream

        get_input_stream(environ).read()
        status, code, message = ERRORS[did]
        start_response(status, [("Content-Type", "application/xml")])
        if environ["REQUEST_METHOD"] == "HEAD":
            return []
        return [f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()]


def _break(connection: socket.socket) -> None:
    """Close at once, with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())


def _pair(text: str) -> tuple[str, str]:
    what, _, fault = text.rpartition("=")
    return what, fault


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="An object store in trouble.")
    parser.add_argument("--log", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=_pair, action="append", default=[], metavar="FAULT=SHARE")
    parser.add_argument("--when", type=_pair, action="append", default=[], metavar="TEXT=FAULT")
    parser.add_argument("--once", type=_pair, action="append", default=[], metavar="TEXT=FAULT")
    return parser.parse_args()


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments: Any) -> None: ...

        def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
            self.close_connection = True

    options = _arguments()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Path(options.log).open("a", encoding="utf-8") as log, contextlib.suppress(KeyboardInterrupt):
        application = Troubled(DomainDispatcherApplication(create_backend_app), options, log)
        server = make_server(HOST, 0, application, threaded=True, request_handler=Quiet)
        print(f"http://{HOST}:{server.port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
