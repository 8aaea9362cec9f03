"""The key for an endpoint: nothing that a run leaves behind holds a piece of it, whatever the endpoint says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from domyn_swarm import masking
from domyn_swarm.endpoint.client import EndpointClient
from domyn_swarm.errors import EndpointError
from domyn_swarm.masking import hide, masked
from tests.conftest import Command, command_line, rows, start_command, stop, tree, write
from tests.servers.chaos import FORMS, Chaos, chaos
from tests.servers.modes import playing
from tests.test_endpoint import raw_server

KEY = "sk-Zq8+Lw3Xv9/Rt5Kp2=Hd7Bn4Mc6Js1Fg"
PIECE = 8
FROM_ENVIRONMENT = {"OPENAI_API_KEY": KEY}
TEXTS = ["fine 0", "rude 1", "fine 2", "odd 3", "fine 4"]
READS_AS_THE_KEY = pytest.mark.parametrize("form", ["plain", "escaped"])


def pieces(text: str) -> set[str]:
    return {text[at : at + PIECE] for at in range(len(text) - PIECE + 1)}


SECRET = {piece for form in FORMS.values() for piece in pieces(form(KEY))}


def leaks(content: str | bytes) -> list[str]:
    """The pieces of the key in `content`, in any of the forms that a server may give it."""
    text = content.decode("latin-1") if isinstance(content, bytes) else content
    return sorted(piece for piece in SECRET if piece in text)


def files(folder: str | Path = ".") -> Iterator[tuple[str, str]]:
    """Every file below `folder`: its bytes as they are, and what is in them where that is compressed."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            yield str(path), path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet" and path.is_file():
            table = pq.read_table(path, partitioning=None)
            yield f"{path}, decompressed", f"{table.to_pylist()} {table.schema} {table.schema.metadata}"


def check_nothing_is_shown(done: Any = None, folder: str | Path = ".") -> None:
    """No file below `folder` holds a piece of the key, and neither do stdout and stderr."""
    left = [*files(folder), *([("stdout", done.stdout), ("stderr", done.stderr)] if done else [])]
    assert {name: found for name, content in left if (found := leaks(content))} == {}


def submit(server: Chaos, *options: str) -> list[str]:
    return [
        "--verbose", "job", "submit", "--input", "in.parquet", "--input-column", "item", "--output", "out.parquet",
        "--endpoint", server.url, *options,
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def rows_to_ask() -> None:
    write("in.parquet", {"item": TEXTS})


def test_the_search_finds_what_it_looks_for() -> None:
    write("leak.parquet", {"text": [f"{number} {FORMS['half'](KEY)}" for number in range(100)]}, compression="zstd")
    for form in FORMS.values():
        assert leaks(f"who is {form(KEY)}?")
        assert leaks(f"who is {form(KEY)[5 : 5 + PIECE]}?")
    assert "leak.parquet, decompressed" in [name for name, content in files() if leaks(content)]
    assert leaks("who is ***?") == []


# What is no key.


@pytest.mark.parametrize("key", ["none", "lm-studio"])
def test_a_key_of_common_words_may_stand_in_paths(key: str, command: Command) -> None:
    write(f"{key}/in.parquet", {"item": [f"what is {key}?"]})
    with playing("echo") as server:
        done = command(
            "job", "submit", "--input", f"{key}/in.parquet", "--output", f"{key}/out.parquet", "--endpoint", server.url,
            "--input-column", "item", env={"OPENAI_API_KEY": key},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rows(f"{key}/out.parquet") == [{"item": f"what is {key}?", "answer": f"what is {key}?"}]
    assert "***" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "key", ["not-needed", "sk-no-key-required", "your-api-key-here", "placeholder", "xxxxxxxxxxxx"]
)
def test_common_words_are_no_keys(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_known", set())
    hide(key)
    assert masked(f"who is {key}?") == f"who is {key}?"


@pytest.mark.parametrize("key", ["hunter2-hunter2", "correct-horse-battery", "sk-test-4711", "notakey1", KEY])
def test_other_words_are_keys(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_known", set())
    hide(key)
    assert masked(f"who is {key}?") == "who is ***?"


# What an endpoint says of the key.


@pytest.mark.parametrize("form", FORMS)
def test_rows_that_fail_and_a_server_that_repeats_the_key(form: str, command: Command) -> None:
    with chaos("--when", "rude=400", "--repeat-key", form) as server:
        done = command(*submit(server), env=FROM_ENVIRONMENT)
    assert done.returncode == 3, done.stderr
    assert [row["_row_id"] for row in rows("out.errors.parquet")] == [1]
    check_nothing_is_shown(done)
    assert {
        "out.parquet", "out.errors.parquet", ".domyn-swarm/out.parquet/spec.json", ".domyn-swarm/out.parquet/run.json"
    } <= tree()  # fmt: skip


@READS_AS_THE_KEY
def test_rows_that_fail_and_a_server_that_repeats_the_key_with_status_200(form: str, command: Command) -> None:
    with chaos("--when", "odd=error-200", "--repeat-key", form) as server:
        done = command(*submit(server, "--retries", "0"), env=FROM_ENVIRONMENT)
    assert done.returncode == 3, done.stderr
    said = rows("out.errors.parquet")[0]["message"]
    assert said.startswith("The answer has no choices: {'error': {'message': 'no luck, ")
    check_nothing_is_shown(done)


@READS_AS_THE_KEY
def test_a_run_that_is_refused_before_it_starts(form: str, command: Command) -> None:
    with chaos("--models", "401", "--repeat-key", form) as server:
        done = command(*submit(server), env=FROM_ENVIRONMENT)
    assert done.returncode == 2
    assert "cannot be used: GET models: status 401: this is a 401, " in done.stderr
    check_nothing_is_shown(done)


@READS_AS_THE_KEY
def test_a_run_whose_every_request_is_refused(form: str, command: Command) -> None:
    with chaos("--share", "401=1", "--repeat-key", form) as server:
        done = command(*submit(server), env=FROM_ENVIRONMENT)
    assert done.returncode == 1
    assert "refuses every request: POST chat/completions: status 401: this is a 401, " in done.stderr
    assert "refuses every request" in json.loads(Path(".domyn-swarm/out.parquet/run.json").read_text())["error"]
    check_nothing_is_shown(done)


def test_a_key_that_json_has_to_escape_is_found_in_what_a_server_says(command: Command) -> None:
    quoted = 'sk-"Zq8+Lw3"\\Xv9/Rt5Kp2=Hd7Bn4'
    with chaos("--when", "rude=400", "--repeat-key", "plain") as server:
        done = command(*submit(server), env={"OPENAI_API_KEY": quoted})
    assert done.returncode == 3, done.stderr
    message = rows("out.errors.parquet")[0]["message"]
    assert message.startswith("POST chat/completions: status 400: this is a 400, ")
    assert [piece for piece in pieces(quoted) if piece in message] == []


NO_HTTP = {
    "a status line": f"HTTP/1.1 {KEY}\r\n\r\n",
    "a header": f"HTTP/1.1 200 OK\r\nwho is {KEY}\r\n\r\n",
    "a redirection": f"HTTP/1.1 307 Elsewhere\r\nLocation: ftp://elsewhere/{KEY}\r\nContent-Length: 0\r\n\r\n",
    "bad gzip": f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(KEY)}\r\n\r\n{KEY}",
}


@pytest.mark.parametrize("reply", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_answer_at_all_and_holds_the_key(reply: str) -> None:
    async def ask(url: str) -> None:
        async with EndpointClient(url, api_key=KEY) as client:
            await client.post("chat/completions", b"{}")

    with (
        raw_server(lambda connection: connection.sendall(reply.encode())) as url,
        pytest.raises(EndpointError, match="POST chat/completions: ") as failed,
    ):
        asyncio.run(ask(url))
    assert leaks(str(failed.value)) == []


OFFICIAL = """
from domyn_swarm.jobs import EndpointJob

class Official(EndpointJob):
    output_columns = ("answer",)

    async def transform_item(self, item):
        messages = [{"role": "user", "content": item}]
        answer = await self.client.chat.completions.create(model=self.model, messages=messages)
        return answer.choices[0].message.content
"""


def test_a_job_that_uses_the_official_client(command: Command) -> None:
    Path("jobs.py").write_text(OFFICIAL)
    with chaos("--when", "rude=400", "--when", "odd=401", "--repeat-key", "plain") as server:
        _verbose, _job, _submit, *options = submit(server, "--retries", "0")
        done = command("--verbose", "job", "submit", "jobs.py:Official", *options, env=FROM_ENVIRONMENT)
    assert done.returncode == 3, done.stderr
    assert [row["type"] for row in rows("out.errors.parquet")] == ["BadRequestError", "AuthenticationError"]
    check_nothing_is_shown(done)


# Runs that end otherwise.


@pytest.mark.stress
def test_a_run_that_is_done_and_the_processes_that_do_it(key_file: str) -> None:
    write("in.parquet", {"item": [f"fine {number}" for number in range(40)]})
    with chaos("--latency", "0.1") as server:
        arguments = submit(server, "--max-concurrency", "4", "--api-key-file", key_file)
        process = subprocess.Popen(command_line(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            while server.count() < 8:
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            shown = command_lines()
            meanwhile = dict(files())
            out, err = process.communicate(timeout=60)
        finally:
            stop(process, signal.SIGKILL)
    assert process.returncode == 0, err
    assert key_file in shown[process.pid]
    assert {pid: line for pid, line in shown.items() if leaks(line)} == {}
    assert ".domyn-swarm/out.parquet/lock-000001" in meanwhile
    assert [name for name, content in meanwhile.items() if leaks(content)] == []
    check_nothing_is_shown(subprocess.CompletedProcess(arguments, 0, out, err))


def test_a_run_that_breaks_with_a_traceback(command: Command) -> None:
    write("in.parquet", {"item": [f"fine {number}" for number in range(40)]})
    with chaos("--share", "reset=1", "--repeat-key", "plain") as server:
        arguments = submit(server, "--max-concurrency", "2", "--retries", "0", "--on-error", "fail")
        done = command(*arguments, env={"DOMYN_SWARM_API_KEY": KEY})
    assert done.returncode == 1
    assert "Traceback" in done.stderr, "it was asked to be verbose"
    check_nothing_is_shown(done)


def test_a_run_whose_endpoint_goes_away(key_file: str) -> None:
    write("in.parquet", {"item": [f"fine {number}" for number in range(200)]})
    with chaos("--latency", "0.05") as server:
        options = ("--max-concurrency", "2", "--retry-timeout", "1", "--api-key-file", key_file)
        arguments = submit(server, *options)
        process = start_command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            while server.count() < 8:
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            server.kill()
            out, err = process.communicate(timeout=60)
        finally:
            stop(process, signal.SIGKILL)
    assert process.returncode == 1
    assert "Error: No endpoint has answered for 1 s" in err
    check_nothing_is_shown(subprocess.CompletedProcess(arguments, 1, out, err))


@pytest.mark.stress
def test_workers_in_other_processes_that_are_refused_in_the_end(key_file: str, command: Command) -> None:
    write("in.parquet", {"item": [*TEXTS, *(f"fine {number}" for number in range(5, 150))]})
    # Ray keeps what its processes say, and has room in socket paths for a short folder only.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as logs,
        chaos("--when", "rude=400", "--after", "10=401", "--repeat-key", "plain") as server,
    ):
        environment = {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": logs, "RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}
        options = ["--data-backend", "ray", "--max-concurrency", "1", "--api-key-file", key_file]
        done = command(*submit(server, *options), env=environment)
        said = [*files(logs)]
    assert done.returncode == 1, done.stderr
    assert "refuses every request: POST chat/completions: status 401: this is a 401, ***!" in done.stderr
    assert "Traceback" in done.stderr, "it was asked to be verbose"
    parts = [row for part in Path(".domyn-swarm/out.parquet/parts").glob("*.parquet") for row in rows(part)]
    assert "status 400: this is a 400, ***!" in str(parts)
    assert len(said) > 10
    assert {name: found for name, content in said if (found := leaks(content))} == {}
    check_nothing_is_shown(done)


# A key where it does not belong.


KWARGS = {
    "as it is": {"request": {"user": KEY}},
    "in a text": {"system_prompt": f"Your key is {KEY}, tell nobody."},
    "as a name": {KEY: 1},
    "of the wrong type": {"request": KEY},
    "as an option": {"model": KEY},
    "as a number": {"max_concurrency": KEY},
}


@pytest.mark.parametrize("kwargs", KWARGS.values(), ids=KWARGS)
def test_a_key_in_the_job_kwargs_is_refused_without_a_word_of_it(kwargs: dict[str, Any], command: Command) -> None:
    with chaos() as server:
        before = tree()
        done = command(*submit(server, "--job-kwargs", json.dumps(kwargs)), env=FROM_ENVIRONMENT)
        assert server.count() == 0
    assert done.returncode == 2
    assert tree() == before
    check_nothing_is_shown(done)


def test_job_kwargs_that_are_no_json_are_refused_without_a_word_of_the_key_in_them(command: Command) -> None:
    with chaos() as server:
        done = command(*submit(server, "--job-kwargs", f'{{"request": {{"user": "{KEY}"}}'), env=FROM_ENVIRONMENT)
    assert done.returncode == 2
    assert "--job-kwargs: " in done.stderr
    check_nothing_is_shown(done)


def test_a_key_in_the_job_kwargs_of_a_run_that_goes_on_is_refused_without_a_word_of_it(command: Command) -> None:
    with chaos("--when", "rude=400") as server:
        assert command(*submit(server), env=FROM_ENVIRONMENT).returncode == 3
        kwargs = json.dumps({"system_prompt": f"Your key is {KEY}."})
        done = command(*submit(server, "--job-kwargs", kwargs), env=FROM_ENVIRONMENT)
    assert done.returncode == 2
    check_nothing_is_shown(done)


def test_a_key_in_the_job_kwargs_of_a_rehearsal_is_not_shown(command: Command) -> None:
    with chaos() as server:
        options = ("--job-kwargs", json.dumps(KWARGS["in a text"]), "--dry-run")
        done = command(*submit(server, *options), env=FROM_ENVIRONMENT)
    check_nothing_is_shown(done)


@pytest.mark.parametrize("option", ["--endpoint", "--checkpoint-tag", "--model", "--api-key-file"])
def test_a_key_in_another_option_is_refused_without_a_word_of_it(option: str, command: Command) -> None:
    plain = KEY.replace("/", "-")  # which would be a folder
    value = f"http://127.0.0.1:9/{plain}/v1" if option == "--endpoint" else plain
    with chaos() as server:
        before = tree()
        done = command(*submit(server, option, value), env={"OPENAI_API_KEY": plain})
        assert server.count() == 0
    assert done.returncode == 2
    assert tree() == before
    assert [piece for piece in pieces(plain) if piece in done.stdout + done.stderr] == []


def test_a_key_that_json_has_to_escape_is_refused_in_the_job_kwargs_too(command: Command) -> None:
    quoted = 'sk-"Zq8+Lw3"\\Xv9/Rt5Kp2=Hd7Bn4'
    with chaos() as server:
        kwargs = json.dumps({"request": {"user": quoted}})
        done = command(*submit(server, "--job-kwargs", kwargs), env={"OPENAI_API_KEY": quoted})
        assert server.count() == 0
    assert done.returncode == 2
    assert tree() <= {"in.parquet", "requests.jsonl"}


@pytest.mark.parametrize("placeholder", ["EMPTY", "key", "content", "E"])
def test_a_word_that_stands_for_a_key_where_none_is_needed_may_occur_in_options_and_answers(
    placeholder: str, command: Command
) -> None:
    write("in.parquet", {"item": ["is it empty?", "the key", "content"]})
    with chaos() as server:
        done = command(*submit(server), env={"OPENAI_API_KEY": placeholder})
    assert done.returncode == 0, done.stderr
    assert [row["answer"] for row in rows("out.parquet")] == [
        "IS IT EMPTY? (12 characters)", "THE KEY (7 characters)", "CONTENT (7 characters)"
    ]  # fmt: skip


def command_lines() -> dict[int, str]:
    """The arguments of every process, as anybody on the machine can read them."""
    lines = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
    lines.pop(os.getpid(), None)
    return lines
