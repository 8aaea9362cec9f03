"""Runs' folders that somebody else has made: what they say is shown or refused, and never acted on or executed."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.named_files import storage_of
from domyn_swarm.checkpoint.part import Part, PartMetadata, write_part
from domyn_swarm.checkpoint.process import Process
from tests.conftest import Command, job, run_command
from tests.detached import FOLDER, texts
from tests.servers.object_store import object_store

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
NOBODY = 65534
MOMENT = "2026-01-02T03:04:05+00:00"
SUBMISSION: dict[str, Any] = {
    "name": "found", "placement": {}, "number": 1, "submitted": MOMENT, "host": "elsewhere", "folder": "/",
    "log": "/nowhere/log.txt", "handle": None, "cancelled": None,
}  # fmt: skip
SHOWS = (
    ("job", "list"), ("job", "status", "{}"), ("job", "show", "{}"), ("job", "row", "{}", "0"),
    ("job", "diff", "{}", "{}"), ("checkpoint", "inspect", "{}"), ("checkpoint", "verify", "{}"),
    ("checkpoint", "export", "{}", "exported.parquet"),
)  # fmt: skip


def found(name: str = "found", **changes: Any) -> Path:
    """A folder with a submission, as it may lie in a directory that one works in."""
    folder = Path(".domyn-swarm", name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "submission.json").write_text(json.dumps({**SUBMISSION, "name": name, **changes}))
    return folder


def given_away(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def listed(command: Command, timeout: float = 60) -> dict[str, dict[str, Any]]:
    done = command("job", "list", "--json", timeout=timeout)
    assert done.returncode == 0, done.stderr
    return {run["name"]: run for run in json.loads(done.stdout)}


def ran(command: Command) -> Path:
    """The folder of a run that is done."""
    texts(3)
    done = command("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet")
    assert done.returncode == 0, done.stderr
    return FOLDER


# Deleting


def test_rm_of_a_run_on_an_object_store_deletes_no_folder_here_that_its_files_name(
    command: Command, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    treasure = tmp_path_factory.mktemp("outside") / "treasure"
    victim = Path(os.environ["XDG_STATE_HOME"]) / "domyn-swarm/runs/victim"
    places = (treasure, victim, folder / "treasure")
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / "file").touch()
    with object_store(log=folder / "requests.jsonl") as store:
        store.fs.mkdir("bucket")
        for name in (str(treasure), "../../../treasure", "..", "-rf", "a\nb", "victim"):
            store.fs.pipe_file("bucket/found/submission.json", json.dumps({**SUBMISSION, "name": name}).encode())
            store.fs.pipe_file("bucket/found/run.json", b"{}")
            done = command("job", "rm", "s3://bucket/found", "--yes", env=store.environment)
            assert "Traceback" not in done.stderr, name
            assert done.returncode in (0, 2), name
            assert [(place / "file").exists() for place in places] == [True] * 3, name


def test_rm_deletes_links_and_not_what_they_lead_to(command: Command, folder: Path) -> None:
    run = ran(command)
    treasure = folder / "treasure"
    treasure.mkdir()
    (treasure / "file").touch()
    shutil.rmtree(run / "parts")
    (run / "parts").symlink_to(treasure)
    (run / "damaged").symlink_to(treasure)
    done = command("job", "rm", str(run), "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert (run.exists(), (treasure / "file").exists()) == (False, True)


# Executing


def test_commands_that_show_import_and_execute_nothing_that_a_folder_names(command: Command, folder: Path) -> None:
    run = ran(command)
    evil = "import pathlib; pathlib.Path('executed').touch()\n"
    for name in ("evil", "msgspec", "tomli_w", "requests", "jsonschema_rs"):
        Path(f"{name}.py").write_text(evil)
    spec = json.loads((run / "spec.json").read_text())
    for reference in (f"{folder}/evil.py:Job", "evil:Job"):
        hostile = {**spec, "job": reference, "adapters": ["evil:adapter"], "job_kwargs": {"schema": "evil:Model"}}
        (run / "spec.json").write_text(json.dumps(hostile))
        for shows in SHOWS:
            done = command(*(word.format(run) for word in shows), "--json")
            assert "Traceback" not in done.stderr, shows
            assert not Path("executed").exists(), shows
            Path("exported.parquet").unlink(missing_ok=True)


def test_a_row_is_looked_up_on_plain_storage_only(command: Command) -> None:
    run = ran(command)
    for pattern in ("reference://evil.json", "simplecache::s3://b/k", "dir::file://x", "reference{:,b}//x"):
        for name in ("spec.json", "run.json"):
            record = json.loads((run / name).read_text())
            (run / name).write_text(json.dumps({**record, "input": pattern}))
        done = command("job", "row", str(run), "0", "--json")
        assert done.returncode == 0, done.stderr
        assert "is not on plain storage" in json.loads(done.stdout)["notes"][0], pattern


@pytest.mark.parametrize(
    "run_id", ["../../../elsewhere/x", "/elsewhere", "a/b", "*", "x" * 300, "\n", "\x00"], ids=range(7)
)
def test_a_run_s_id_leads_nowhere(run_id: str, command: Command) -> None:
    """Names of temporary and of conflicting outputs have it in them."""
    run = ran(command)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "run_id": run_id}))
    (part,) = (run / "parts").iterdir()
    write_part(
        LocalFileSystem(), str(part), Part(LocalFileSystem(), str(part)).read(), PartMetadata(run_id, "d", "_row_id")
    )
    Path("../elsewhere").mkdir(exist_ok=True)
    for words in (*SHOWS, ("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet")):
        done = command(*(word.format(run) for word in words))
        assert "Traceback" not in done.stderr, words
    assert not list(Path("../elsewhere").iterdir())


def test_a_part_of_an_impossible_run_is_a_stranger(command: Command) -> None:
    run = ran(command)
    (part,) = (run / "parts").iterdir()
    shutil.copy(part, part.with_name(f"{'9' * 30}-000001.parquet"))
    for words in (*SHOWS, ("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet",
                           "--output-mode", "io_only")):  # fmt: skip
        done = command(*(word.format(run) for word in words))
        assert (done.returncode in (0, 1, 2), "Traceback" in done.stderr) == (True, False), (words, done.stderr)


@needs_root
def test_another_user_s_record_chooses_no_server(command: Command) -> None:
    """This user's credentials would be sent to it."""
    run = RunFolder(str(ran(command)))
    options = {"client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    assert storage_of(run, {"storage_options": options}) == options
    given_away(FOLDER)
    assert storage_of(run, {"storage_options": options}) is None
    assert storage_of(RunFolder("s3://bucket/run", options), {"storage_options": options}) == options
    assert storage_of(RunFolder("s3://bucket/run"), {"storage_options": options}) is None


def test_a_file_of_the_working_folder_takes_no_module_s_place_where_the_job_is_an_installed_one(
    command: Command,
) -> None:
    texts(2)
    Path("domyn_dags.py").write_text("raise SystemExit('the wrong module')")
    Path("numpy.py").write_text("raise SystemExit('the wrong module')")
    done = run_command(
        "job",
        "graph",
        "domyn_swarm.jobs:ChatCompletionJob",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    Path("mine.py").write_text(Path(job("Upper").rpartition(":")[0]).read_text())
    assert command("job", "graph", "mine:Upper", "--json").returncode == 0


def test_show_leaves_out_what_the_run_left_at_its_defaults_without_asking_its_job(command: Command) -> None:
    Path("mine.py").write_text(
        "from domyn_swarm import SwarmJob\n"
        "class Mine(SwarmJob):\n"
        "    input_columns = ('text',)\n"
        "    output_columns = ('upper',)\n"
        "    defaults = {'retries': 7, 'checkpoint_interval': 3.0}\n"
        "    def transform_item(self, item):\n"
        "        return item.upper()\n"
    )
    texts(1)
    files = ("--input", "in.parquet", "--output", "out.parquet", "--checkpoint-interval", "10")
    assert command("job", "submit", "mine.py:Mine", *files).returncode == 0
    Path("mine.py").unlink()
    shown = json.loads(command("job", "show", "out", "--json").stdout)
    assert (shown.get("retries"), shown["checkpoint_interval"], "timeout" in shown) == (None, 10.0, False)


# Acting


class Listener:
    """An HTTP server that notes what it is asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"status": "RUNNING", "ray_version": "2.60"}')

            do_POST = do_GET  # noqa: N815

            def log_message(self, *arguments: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listener() -> Iterator[Listener]:
    one = Listener()
    yield one
    one.server.shutdown()


TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}


@needs_root
def test_a_server_that_a_found_folder_names_is_not_asked(command: Command, listener: Listener) -> None:
    handle = {"address": listener.url, "submission": "evil-1"}
    given_away(found(placement={"run_on": "ray", "ray_address": listener.url}, handle=handle))
    for line in ("job list", "job status found", "job logs found", "job cancel found", "job rm found --yes"):
        done = command(*line.split(), env=TOKEN)
        assert "Traceback" not in done.stderr, line
    assert listener.seen == []
    assert listed(command)["found"]["state"] == "unknown"


def test_a_server_that_this_user_never_submitted_to_gets_no_token(command: Command, listener: Listener) -> None:
    found(placement={"run_on": "ray"}, handle={"address": listener.url, "submission": "evil-1"})
    done = command("job", "list", "--json", env=TOKEN)
    assert json.loads(done.stdout)[0]["state"] == "running", done.stdout
    assert listener.seen
    assert [headers for _, headers in listener.seen if "authorization" in headers or "token" in str(headers)] == []
    listener.seen.clear()
    command("job", "list", "--json", env={**TOKEN, "RAY_API_SERVER_ADDRESS": listener.url})
    assert all("authorization" in headers for _, headers in listener.seen)


def test_a_handle_that_is_none_is_refused_and_imports_nothing(command: Command) -> None:
    Path("evil.py").write_text("import pathlib; pathlib.Path('executed').touch()\n")
    handles: list[dict[str, Any]] = [
        {"address": "evil://x", "submission": "a"}, {"address": "http://x/", "submission": "../../api/other"},
        {"address": "http://user@x", "submission": "a"}, {"address": ["http://x"], "submission": "a"}, {},
    ]  # fmt: skip
    for number, handle in enumerate(handles):
        found(f"ray-{number}", placement={"run_on": "ray"}, handle=handle)
    for number, handle in enumerate([{"job": -1}, {"job": 1, "cluster": "--help"}, {"job": "1 2"}]):
        found(f"slurm-{number}", placement={"run_on": "slurm"}, handle=handle)
    for number, handle in enumerate([{"pid": -1}, {"pid": 0}, {"pid": 2**70}, {"pid": "1"}]):
        whole = {"host": "h", "machine": "m", "started": 1.0, "log": "/l", "begins": 0, "spec": "/s"}
        found(f"local-{number}", handle={**whole, **handle})
    runs = listed(command)
    assert {run["state"] for run in runs.values()} == {"unknown"}
    assert [name for name, run in runs.items() if "cannot be read" not in run["detail"]] == []
    assert command("job", "cancel", "ray-0", "slurm-0", "local-0").returncode in (1, 2)
    assert not Path("executed").exists()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    time.sleep(0.2)
    yield process
    process.kill()
    process.wait()


def as_handle(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    one = Process.of(process.pid)
    return {
        "host": one.host, "pid": one.pid, "machine": one.machine, "started": one.started,
        "log": "/etc/passwd", "begins": 0, "spec": "/nowhere/spec.json",
    }  # fmt: skip


@needs_root
def test_a_process_that_a_found_folder_names_gets_no_signal_and_no_file_is_shown(
    command: Command, bystander: subprocess.Popen[bytes]
) -> None:
    folder = found(handle=as_handle(bystander), log="/etc/passwd")
    lock = {**as_handle(bystander), "since": MOMENT, "token": "x"}
    (folder / "lock-000001").write_text(json.dumps(lock))
    locked = Path(".domyn-swarm/locked")
    locked.mkdir()
    (locked / "run.json").write_text("{}")
    shutil.copy(folder / "lock-000001", locked)
    given_away(folder)
    given_away(locked)
    for name in ("found", "locked"):
        done = command("job", "cancel", name, "--grace", "1")
        assert (done.returncode, "was not submitted by you" in done.stderr) == (2, True), done.stderr
    shown = command("job", "logs", "found")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert bystander.poll() is None


def test_a_log_is_the_one_in_the_run_s_folder_whatever_its_files_say(
    command: Command, bystander: subprocess.Popen[bytes]
) -> None:
    folder = found(handle=as_handle(bystander), log="/etc/passwd")
    (folder / "log.txt").write_text("its own\n")
    assert command("job", "logs", "found").stdout == "its own\n"
    assert listed(command)["found"]["log"] == str(folder.resolve() / "log.txt")


@needs_root
def test_one_s_own_run_is_known_by_the_index_wherever_its_folder_is(command: Command) -> None:
    texts(400)
    slow = ("--job-kwargs", '{"seconds": 0.05}', "--max-concurrency", "1")
    files = ("--input", "in.parquet", "--output", "out.parquet")
    sent = run_command(
        "job",
        "submit",
        job("Paced"),
        *files,
        *slow,
        "--detach",
        "--json",
    )
    assert sent.returncode == 0, sent.stderr
    os.chown(FOLDER, NOBODY, NOBODY)
    os.chown(FOLDER / "submission.json", NOBODY, NOBODY)
    assert listed(command)["out"]["state"] == "running"
    done = command("job", "cancel", "out")
    assert (done.returncode, listed(command)["out"]["state"]) == (0, "cancelled"), done.stderr


# Resuming


@needs_root
@pytest.mark.parametrize("given", ["all", "the folder", "spec.json", "run.json"])
def test_a_run_of_another_user_is_resumed_only_if_that_is_asked_for(given: str, command: Command) -> None:
    Path("job.py").write_text(
        "from pathlib import Path\nfrom domyn_swarm import SwarmJob\nPath('executed').touch()\n"
        "class Job(SwarmJob):\n    input_columns = ('text',)\n    output_columns = ('upper',)\n"
        "    async def transform_item(self, item):\n        return item.upper()\n"
    )
    texts(3)
    files = ("--input", "in.parquet", "--output", "out.parquet", "--limit", "2")
    assert command("job", "submit", "job.py:Job", *files).returncode == 0
    Path("executed").unlink()
    record = json.loads((FOLDER / "run.json").read_text())
    (FOLDER / "run.json").write_text(json.dumps({**record, "state": "failed"}))
    if given == "all":
        given_away(FOLDER)
    else:
        os.chown(FOLDER if given == "the folder" else FOLDER / given, NOBODY, NOBODY)
    refused = command("job", "resume", "out")
    assert (refused.returncode, "--trust" in refused.stderr, Path("executed").exists()) == (2, True, False)
    assert not (FOLDER / "submission.json").exists()
    trusted = command("job", "resume", "out", "--trust")
    assert (trusted.returncode, Path("executed").exists()) == (0, True), trusted.stderr


# Reading


def fifo(path: Path) -> None:
    os.mkfifo(path)


DAMAGED: dict[str, Callable[[Path], object]] = {
    "a FIFO": fifo,
    "a directory": Path.mkdir,
    "200 MB": lambda path: (path.touch(), os.truncate(path, 200 * 2**20)),
    "deep": lambda path: path.write_text('{"name":' + "[" * 200_000 + "]" * 200_000 + "}"),
    "brackets": lambda path: path.write_text("[" * (15 * 2**20)),
    "quotes": lambda path: path.write_text('\\"' * 2**20),
    "digits": lambda path: path.write_text('{"number": ' + "9" * 2**20 + "}"),
    "dates": lambda path: path.write_text(json.dumps({**SUBMISSION, "submitted": "yesterday"})),
    "naive dates": lambda path: path.write_text(json.dumps({**SUBMISSION, "submitted": "2026-01-02T03:04:05"})),
    "first dates": lambda path: path.write_text(json.dumps({**SUBMISSION, "submitted": "0001-01-01T00:00:00+23:00"})),
    "types": lambda path: path.write_text(json.dumps({**SUBMISSION, "handle": 5, "log": [], "placement": "x"})),
    "a list": lambda path: path.write_text("[]"),
    "nothing": Path.touch,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


def test_records_that_cannot_be_read_are_shown_as_such_among_others(command: Command) -> None:
    ran(command)
    for damage, make in DAMAGED.items():
        for name in ("submission.json", "run.json"):
            folder = Path(".domyn-swarm", f"{damage.replace(' ', '-')}-{name[:3]}")
            folder.mkdir()
            make(folder / name)
    began = time.monotonic()
    runs = listed(command, timeout=120)
    assert time.monotonic() - began < 100
    assert (runs.pop("out")["state"], len(runs)) == ("done", 2 * len(DAMAGED))
    assert {name: run for name, run in runs.items() if run["state"] not in ("unknown", "lost")} == {}
    told = ("cannot be read", "no record was written")
    assert {name: run["detail"] for name, run in runs.items() if not any(one in run["detail"] for one in told)} == {}
    for line in ("job status", "job show", "checkpoint inspect", "job logs", "job rm --yes"):
        for name in ("a-FIFO-sub", "a-FIFO-run", "deep-sub"):
            done = command(*line.split(), f".domyn-swarm/{name}", timeout=60)
            assert "Traceback" not in done.stderr, (line, done.stderr)


def test_folders_that_one_may_not_look_into_end_no_listing(command: Command) -> None:
    ran(command)
    Path("other").mkdir()
    Path("other/.domyn-swarm").symlink_to("loop")
    Path("other/loop").symlink_to(".domyn-swarm")
    Path(".domyn-swarm/.domyn-swarm").symlink_to(".")
    assert listed(command)["out"]["state"] == "done"
