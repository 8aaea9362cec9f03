"""A server that gives one answer, at once: nginx where it is installed, else a small one in a process of its own.

python tests/benchmarks/static_server.py PORT       # the small one
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODELS = {"object": "list", "data": [{"id": "static", "object": "model"}]}
TEXT = "An answer of a usual length, which says little and says it in one sentence."
ANSWER = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "static",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 17, "total_tokens": 37},
}  # fmt: skip
NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k; default_type application/json;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /v1/models {{ return 200 '{models}'; }}
    location = /v1/chat/completions {{ return 200 '{answer}'; }}
  }}
}}
"""


class Requests(asyncio.Protocol):
    """Calls `handle` for each request as soon as its body is there."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            stop = end + 4 + int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self._buffer) < stop:
                return
            body, self._buffer = self._buffer[end + 4 : stop], self._buffer[stop:]
            self.handle(head.split(b" ", 2)[1], body)

    def handle(self, path: bytes, _body: bytes) -> None:
        self.transport.write(_MODELS if path.endswith(b"/models") else _ANSWER)


def response(content: object, status: str = "200 OK") -> bytes:
    """An HTTP response with `content` as JSON."""
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


_MODELS, _ANSWER = response(MODELS), response(ANSWER)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Requests, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


@contextlib.contextmanager
def static_server() -> Iterator[tuple[str, str]]:
    """The kind of server and its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        nginx = shutil.which("nginx")
        if nginx:
            config = Path(folder, "nginx.conf")
            config.write_text(
                NGINX.format(folder=folder, port=port, models=json.dumps(MODELS), answer=json.dumps(ANSWER))
            )
            command = [nginx, "-c", str(config)]
        else:
            command = [sys.executable, __file__, str(port)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                _wait_for(f"http://127.0.0.1:{port}/v1/models")
                yield "nginx" if nginx else "asyncio", f"http://127.0.0.1:{port}/v1"
            finally:
                process.terminate()


def _wait_for(url: str) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"nobody answers at {url}")


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(int(sys.argv[1])))
