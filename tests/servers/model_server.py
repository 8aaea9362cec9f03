"""A model server that does what it is told, for tests: `python model_server.py PORT [BEHAVIOUR…]`.

It needs nothing but the standard library, and answers each chat with "yes". Behaviours:

    ready=SECONDS   it listens only then
    exit=STATUS     it says why, and exits at once
    never           it listens, and is never ready
    deaf            it ignores SIGTERM
    child           it has started a process in a session of its own, which ignores SIGTERM
    loud=BYTES      it prints so much before it listens
    slow=SECONDS    each answer takes so long
    dies=COUNT      it ends after so many answers, each time that it is started
    hangs=FILE      after the first answers it hangs, if FILE does not exist; then FILE exists

Each start adds a line to `starts.txt`: its process, its port, CUDA_VISIBLE_DEVICES, the names of its variables.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT = int(sys.argv[1])
TOLD = dict(one.partition("=")[::2] for one in sys.argv[2:])
ANSWERS = 5
"""That come before it hangs."""


class So:
    """How far it is."""

    answers = 0
    hung = False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        while So.hung:
            time.sleep(1)
        if "never" in TOLD:
            self.reply(503, {"error": "loading"})
        elif self.path == "/health":
            self.reply(200, {})
        else:
            self.reply(200, {"data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        So.answers += 1
        if "dies" in TOLD and So.answers > int(TOLD["dies"]):
            os._exit(7)
        if "hangs" in TOLD and So.answers > ANSWERS and not Path(TOLD["hangs"]).exists():
            Path(TOLD["hangs"]).touch()
            So.hung = True
        while So.hung:
            time.sleep(1)
        time.sleep(float(TOLD.get("slow", 0)))
        message = {"role": "assistant", "content": "yes"}
        self.reply(200, {"model": "tiny", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def reply(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def main() -> None:
    facts = [os.getpid(), PORT, os.environ.get("CUDA_VISIBLE_DEVICES"), sorted(os.environ)]
    with Path("starts.txt").open("a") as file:
        file.write(f"{json.dumps(facts)}\n")
    print("loading the weights", flush=True)
    if "deaf" in TOLD:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "child" in TOLD:
        ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-I", "-S", "-c", ignoring], start_new_session=True)
    if "exit" in TOLD:
        print("torch.OutOfMemoryError: CUDA out of memory.", flush=True)
        sys.exit(int(TOLD["exit"]))
    line = b"x" * 1023 + b"\n"
    for _ in range(int(TOLD.get("loud", 0)) // len(line)):
        sys.stdout.buffer.write(line)
    sys.stdout.flush()
    time.sleep(float(TOLD.get("ready", 0)))
    Server(("127.0.0.1", PORT), Handler).serve_forever()


main()
