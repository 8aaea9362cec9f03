"""The jobs that come with the package against OpenAI-compatible servers that this project did not write.

llama.cpp is the real engine, from the wheel xllamacpp, with a model of random weights (tests/servers/tiny_llama.py):
what it says has no sense, but is 16 printable characters when 16 tokens are asked for. llmock repeats what it is told,
fails when it is asked to, and judges how its clients take it. Each has an environment of its own in pytest's cache.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from filelock import FileLock

from tests.conftest import Command, rows, table, tree, write

TINY_LLAMA = Path(__file__).parent / "servers/tiny_llama.py"
KEY = "sk-test"
WRONG_KEY = "sk-never-to-be-seen-4711"
pytestmark = pytest.mark.stress  # the servers are installed, once

PATIENCE = 60.0  # seconds for a server to be ready, and to end

COMPLETION = "domyn_swarm.jobs:CompletionJob"
EMBEDDING = "domyn_swarm.jobs:EmbeddingJob"
MULTI_TURN = "domyn_swarm.jobs:MultiTurnChatCompletionJob"

SHORT = {"max_tokens": 16, "temperature": 0}
SENSELESS = re.compile(r"[ -~]{16}")
"""What llama.cpp says to SHORT: a token is a byte, and all but printable ASCII is most unlikely."""

TEXTS = ["to the teller", "grüß dich", "", "one\ntwo", '{"a": "b"}', "{curly}", "to the teller"]


# The servers.


@dataclass(frozen=True)
class Server:
    """A server that runs: its address, and what its clients' environment holds."""

    name: str
    root: str
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.root}/v1"


@pytest.fixture(scope="session")
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """llama.cpp, which wants the key, and has two slots of 2,048 tokens."""
    packages = ["xllamacpp>=2026.9.11063", "gguf>=0.19"]
    environment = installed(request.config, "xllamacpp", packages, "import gguf, xllamacpp")
    folder = tmp_path_factory.mktemp("llama")
    port = free_port()
    with running([environment / "bin/python", TINY_LLAMA, "tiny.gguf", port], folder, port) as root:
        yield Server("llama", root, {"OPENAI_API_KEY": KEY})


@pytest.fixture(scope="session")
def llmock_for_all(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = installed(request.config, "llmock", ["llmock>=0.2.2"], "import llmock")
    folder = tmp_path_factory.mktemp("llmock")
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", port, "--response-style", "echo", "--log-level", "warning"]
    with running([environment / "bin/llmock", "serve", *options], folder, port) as root:
        yield Server("llmock", root)


@pytest.fixture
def llmock(llmock_for_all: Server) -> Server:
    """llmock, which repeats what it is told and wants no key; it has seen no requests yet."""
    asked(llmock_for_all, "_llmock/reset", {})
    return llmock_for_all


@pytest.fixture(params=["llama", "llmock"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the servers."""
    found: Server = request.getfixturevalue(request.param)
    return found


def installed(config: pytest.Config, name: str, packages: Sequence[str], proof: str) -> Path:
    """A virtual environment with `packages`, kept from run to run; made anew if it cannot run `proof`."""
    assert config.cache
    folder = config.cache.mkdir("servers") / name
    python = folder / "bin/python"
    with FileLock(f"{folder}.lock"):  # two runs of the tests at once
        if not python.exists() or subprocess.run([python, "-c", proof], check=False).returncode:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return folder


@contextlib.contextmanager
def running(command: Sequence[Any], folder: Path, port: int) -> Iterator[str]:
    """Run a server in `folder`, from when it is ready to the end; yields its address."""
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(list(map(str, command)), cwd=folder, stdout=output, stderr=output) as process,
    ):
        try:
            deadline = time.monotonic() + PATIENCE
            while not is_ready(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=PATIENCE) as response:
            return bool(response.status == 200)
    except OSError:  # nobody listens yet, or loads the model
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def asked(server: Server, path: str, content: Any = None) -> Any:
    """What the server answers without this project in between: to a POST of `content`, if there is any."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    body = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{server.root}/{path}", body, headers), timeout=60) as response:
        return json.load(response)


def scripted(server: Server, *behaviours: dict[str, Any]) -> None:
    """Have llmock behave so at the next chat requests, one after the other."""
    matching = [{**one, "match": {"path": "/v1/chat/completions"}} for one in behaviours]
    asked(server, "_llmock/scenario", {"behaviors": matching})


def posted(server: Server) -> list[Any]:
    """The bodies of the requests that llmock has got."""
    return [one["body"] for one in asked(server, "_llmock/requests")["requests"] if one["method"] == "POST"]


# The command, and what it writes.


def submit(
    command: Command,
    server: Server,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    status: int = 0,
    **job_kwargs: Any,
) -> str:
    """`job submit` over in.parquet; what it says, once it has ended with `status`."""
    done = command(
        "job", "submit", *arguments, "--input", "in.parquet", "--output", "out.parquet", "--endpoint", server.url,
        "--job-kwargs", json.dumps(job_kwargs), env=server.env if env is None else env,
    )  # fmt: skip
    told: str = done.stdout + done.stderr
    assert done.returncode == status, told
    return told


def named(option: str, *columns: str) -> list[str]:
    """The option once for each of the columns."""
    return [word for column in columns for word in (option, column)]


TEXT = named("--input-column", "text")
FACTS = ("finish_reason", "prompt_tokens", "completion_tokens", "attempts", "latency")


def outputs(*columns: str) -> list[Any]:
    """The column of out.parquet, or tuples of several."""
    found = [tuple(row[column] for column in columns) for row in rows("out.parquet")]
    return [one for (one,) in found] if len(columns) == 1 else found


def failures() -> list[tuple[int, str, str, int]]:
    return [(row["_row_id"], row["type"], row["message"], row["attempts"]) for row in rows("out.errors.parquet")]


def type_of(column: str) -> pa.DataType:
    return table("out.parquet").schema.field(column).type


def echo(text: str) -> str:
    """What llmock says to a message: its words, and something else if there are none."""
    return f"Hello! You said: {' '.join(text.split())}" if text else "Hello! This is a mock response from gpt-4o."


def llama_tokens(text: str) -> int:
    """How long `text` is for llama.cpp: a token for each byte and one in front, but " t" is one, too."""
    return 1 + len(text.encode()) - text.count(" t")


# Chat.


def test_the_default_job_gets_a_text_for_every_row(command: Command, server: Server) -> None:
    write("in.parquet", {"text": TEXTS})
    submit(command, server, *TEXT, request=SHORT)
    expected = {
        "llama": [SENSELESS.pattern] * len(TEXTS),
        "llmock": [re.escape(echo(text)) for text in TEXTS],
    }[server.name]
    assert outputs("text") == TEXTS
    for answer, pattern in zip(outputs("answer"), expected, strict=True):
        assert re.fullmatch(pattern, answer)
    assert type_of("answer") == pa.string()
    assert not Path("out.errors.parquet").exists()


def test_facts_about_an_answer_are_columns_beside_it(command: Command, server: Server) -> None:
    write("in.parquet", {"text": ["to the teller", "hello"]})
    submit(command, server, *TEXT, *named("--output-column", "said", *FACTS), request=SHORT)
    expected = {
        "llama": [
            ("length", llama_tokens("user: to the teller\nassistant: "), 16, 1),
            ("length", llama_tokens("user: hello\nassistant: "), 16, 1),
        ],
        "llmock": [("stop", 3, 7, 1), ("stop", 1, 5, 1)],  # it takes four characters for a token
    }[server.name]
    assert outputs(*FACTS[:-1]) == expected
    assert all(0 < seconds < 60 for seconds in outputs("latency"))
    assert list(map(type_of, FACTS)) == [pa.string(), pa.int64(), pa.int64(), pa.int64(), pa.float64()]


def test_a_prompt_takes_its_columns_and_follows_the_system_prompt(command: Command, server: Server) -> None:
    write("in.parquet", {"text": ["good day", "so long"], "id": [7, 8], "language": ["French", None]})
    told = submit(
        command, server, *named("--output-column", "answer", "prompt_tokens"),
        system_prompt="Be brief.", prompt="Into {language}, number {id}: {text}", request=SHORT, status=3,
    )  # fmt: skip
    answer, tokens = outputs("answer", "prompt_tokens")[0]
    if server.name == "llmock":
        assert answer == "Hello! You said: Be brief. Into French, number 7: good day"
    else:
        sent = "system: Be brief.\nuser: Into French, number 7: good day\nassistant: "
        assert tokens == llama_tokens(sent)
    assert failures() == [(1, "ItemError", "the prompt needs 'language', which is null", 1)]
    assert "failed       1 (see out.errors.parquet)" in told


def test_several_choices_are_a_list_and_so_are_their_reasons(command: Command, server: Server) -> None:
    write("in.parquet", {"text": ["one", "two"]})
    submit(
        command, server, *TEXT, *named("--output-column", "answers", "finish_reason"),
        request={"max_tokens": 16, "n": 2},
    )  # fmt: skip
    if server.name == "llmock":
        assert outputs("answers") == [["Hello! You said: one"] * 2, ["Hello! You said: two"] * 2]
        assert outputs("finish_reason") == [["stop", "stop"]] * 2
    else:
        assert [len(answers) for answers in outputs("answers")] == [2, 2]
        assert all(SENSELESS.fullmatch(answer) for answers in outputs("answers") for answer in answers)
        assert outputs("finish_reason") == [["length", "length"]] * 2
    assert type_of("answers") == pa.list_(pa.field("element", pa.string()))


def test_a_conversation_gets_an_answer_where_one_is_missing(command: Command, server: Server) -> None:
    def turn(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    conversations = [
        [turn("user", "a"), turn("assistant", "b"), turn("user", "c")],
        [turn("system", "s"), turn("user", "d"), turn("assistant", "e"), turn("user", "f"), turn("user", "g")],
    ]
    write("in.parquet", {"messages": conversations})
    columns = ("conversation", "completion_tokens", "attempts")
    submit(command, server, MULTI_TURN, *named("--output-column", *columns), request=SHORT)
    assert outputs("attempts") == [1, 2], "the second has two turns to answer, with a request each"
    first, second = outputs("conversation")
    if server.name == "llmock":
        assert first == [*conversations[0], turn("assistant", "Hello! You said: a b c")]
        assert second == [
            *conversations[1][:-1],
            turn("assistant", "Hello! You said: s d e f"),
            turn("user", "g"),
            turn("assistant", "Hello! You said: s d e f Hello! You said: s d e f g"),
        ]
    else:
        assert first[:-1] == conversations[0]
        assert [*second[:4], second[5]] == conversations[1]
        for said in (first[-1], second[4], second[6]):
            assert said["role"] == "assistant"
            assert SENSELESS.fullmatch(said["content"])
        assert outputs("completion_tokens") == [16, 32]


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_the_answers_are_the_same_on_every_engine(command: Command, llmock: Server, engine: str) -> None:
    write("in.parquet", {"text": [f"row {number}" for number in range(500)]})
    submit(command, llmock, *TEXT, "--data-backend", engine, "--batch-size", "64")
    assert rows("out.parquet") == [
        {"text": f"row {number}", "answer": f"Hello! You said: row {number}"} for number in range(500)
    ]
    assert len(posted(llmock)) == 500


# Data as answers.

REVIEW = {
    "title": "Review",
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "mood": {"enum": ["good", "bad"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 1, "maxItems": 3},
    },
    "required": ["title", "stars", "mood", "tags"],
    "additionalProperties": False,
}
"""Bounded in all its parts: the model of random weights has no reason ever to end a string."""

PROPERTIES = ("title", "stars", "mood", "tags")


def assert_is_a_review(title: str, stars: int, mood: str, tags: list[str]) -> None:
    """What REVIEW asks for, said once more without a validator."""
    assert isinstance(title, str)
    assert len(title) <= 12
    assert stars in (1, 2, 3, 4, 5)
    assert mood in ("good", "bad")
    assert 1 <= len(tags) <= 3
    assert all(len(tag) <= 6 for tag in tags)


def test_the_properties_of_a_schema_are_columns(command: Command, server: Server) -> None:
    write("in.parquet", {"text": TEXTS})
    columns = named("--output-column", *PROPERTIES, "review", "finish_reason", "attempts")
    submit(command, server, *TEXT, *columns, schema=REVIEW, request={"temperature": 0, "max_tokens": 400})
    for values in outputs(*PROPERTIES):
        assert_is_a_review(*values)
    assert [tuple(review[name] for name in PROPERTIES) for review in outputs("review")] == outputs(*PROPERTIES)
    assert outputs("finish_reason", "attempts") == [("stop", 1)] * len(TEXTS)
    strings = pa.list_(pa.field("element", pa.string()))
    assert list(map(type_of, PROPERTIES)) == [pa.string(), pa.int64(), pa.string(), strings]


def test_a_pydantic_model_of_the_users_is_a_schema(command: Command, server: Server) -> None:
    Path("reviews.py").write_text(
        "from enum import Enum\n"
        "from typing import Annotated\n"
        "from pydantic import BaseModel, Field\n"
        "class Mood(Enum):\n"
        "    GOOD = 'good'\n"
        "    BAD = 'bad'\n"
        "class Author(BaseModel):\n"
        "    name: Annotated[str, Field(max_length=8)]\n"
        "    known: bool\n"
        "class Review(BaseModel):\n"
        "    stars: Annotated[int, Field(ge=1, le=5)]\n"
        "    mood: Mood\n"
        "    author: Author\n"
    )
    write("in.parquet", {"text": TEXTS})
    columns = named("--output-column", "stars", "mood", "author")
    submit(command, server, *TEXT, *columns, schema="reviews:Review", request={"temperature": 0, "max_tokens": 400})
    for stars, mood, author in outputs("stars", "mood", "author"):
        assert stars in (1, 2, 3, 4, 5)
        assert mood in ("good", "bad")
        assert author.keys() == {"name", "known"}
        assert len(author["name"]) <= 8
        assert author["known"] in (True, False)


def test_data_that_is_cut_off_is_its_rows_failure(command: Command, llama: Server) -> None:
    write("in.parquet", {"text": ["hello"]})
    submit(command, llama, *TEXT, schema=REVIEW, request={"temperature": 0, "max_tokens": 5}, status=3)
    [(row, kind, message, attempts)] = failures()
    assert (row, kind, attempts) == (0, "StructureError", 1)
    assert message.startswith("the answer is not JSON: ")
    assert message.endswith(" (it was cut off: finish_reason 'length')")


def test_an_answer_that_is_no_data_is_sent_back_once(command: Command, llmock: Server) -> None:
    scripted(llmock, {"type": "reply", "text": "Sure! Here it comes."})
    write("in.parquet", {"text": ["hello"]})
    columns = named("--output-column", *PROPERTIES, "attempts")
    submit(command, llmock, *TEXT, *columns, schema=REVIEW)
    [(*values, attempts)] = outputs(*PROPERTIES, "attempts")
    assert_is_a_review(*values)
    assert attempts == 2
    first, second = posted(llmock)
    assert first["response_format"] == second["response_format"]
    assert first["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "Review", "schema": REVIEW, "strict": True},
    }
    assert second["messages"][:2] == [*first["messages"], {"role": "assistant", "content": "Sure! Here it comes."}]
    assert second["messages"][2]["role"] == "user"
    assert "not JSON" in second["messages"][2]["content"]


# Text completions.


def test_a_completion_follows_each_text(command: Command, llama: Server) -> None:
    write("in.parquet", {"text": TEXTS})
    columns = named("--output-column", "completion", *FACTS)
    submit(command, llama, COMPLETION, *TEXT, *columns, request=SHORT)
    assert all(SENSELESS.fullmatch(text) for text in outputs("completion"))
    assert outputs(*FACTS[:-1]) == [("length", llama_tokens(text), 16, 1) for text in TEXTS]


def test_a_server_without_the_route_ends_the_run_at_once_and_what_was_there_stays(
    command: Command, llmock: Server
) -> None:
    texts = [f"row {number}" for number in range(500)]
    write("in.parquet", {"text": texts})
    told = submit(command, llmock, COMPLETION, *TEXT, "--max-concurrency", "4", status=1)
    assert f"Error: {llmock.url} refuses every request: POST completions: status 404: Not Found" in told
    assert "Run the same command again to resume." in told
    assert 1 <= len(posted(llmock)) <= 4, "those that were in flight"
    assert not Path("out.parquet").exists()
    assert not Path("out.errors.parquet").exists()
    assert [row["text"] for row in rows("in.parquet")] == texts


# Embeddings.


def test_every_text_gets_its_own_vector(command: Command, server: Server) -> None:
    texts = ["to the teller", "grüß dich", "one\ntwo", "a", "b", "c", "to the teller"]
    write("in.parquet", {"text": texts})
    # One request at a time: llama.cpp rounds otherwise when it has two to think about.
    submit(command, server, EMBEDDING, *TEXT, "--batch-size", "3", "--max-concurrency", "1")
    assert type_of("embedding") == pa.list_(pa.field("element", pa.float32()))
    vectors = outputs("embedding")
    model = asked(server, "v1/models")["data"][0]["id"]
    for text, vector in zip(texts, vectors, strict=True):
        [alone] = asked(server, "v1/embeddings", {"model": model, "input": [text], "encoding_format": "float"})["data"]
        assert vector == pytest.approx(alone["embedding"], abs=1e-3)
    assert {len(vector) for vector in vectors} == {{"llama": 64, "llmock": 1536}[server.name]}
    assert vectors[0] == pytest.approx(vectors[-1], abs=1e-3)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-3)
    if server.name == "llmock":
        assert [len(body["input"]) for body in posted(server)][: -len(texts)] == [3, 3, 1]


def test_a_text_that_is_too_long_for_an_embedding_fails_alone(command: Command, llama: Server) -> None:
    """The engine calls it the server's own fault, a 500, and says so of all texts of the request."""
    write("in.parquet", {"text": ["a", "b", "x" * 1000, "d", "e"]})
    submit(command, llama, EMBEDDING, *TEXT, "--retries", "1", status=3)
    assert [vector and len(vector) for vector in outputs("embedding")] == [64, 64, None, 64, 64]
    [(row, kind, message, _)] = failures()
    assert (row, kind) == (2, "EndpointError")
    assert "input (1001 tokens) is too large to process" in message


# Servers that the run starts.


@pytest.mark.parametrize("engine", ["pandas", "polars", "ray"])
def test_a_run_starts_the_engine_itself(request: pytest.FixtureRequest, command: Command, engine: str) -> None:
    packages = ["xllamacpp>=2026.9.11063", "gguf>=0.19"]
    python = installed(request.config, "xllamacpp", packages, "import gguf, xllamacpp") / "bin/python"
    write("in.parquet", {"text": TEXTS * 3})
    given = [json.dumps({"request": SHORT}), "--serve", f"{python} {TINY_LLAMA} tiny-{{port}}.gguf {{port}}"]
    ran = command(
        "job", "submit", "--input", "in.parquet", "--output", "out.parquet", *TEXT, "--job-kwargs", *given,
        "--serve-replicas", "2", "--data-backend", engine, env={"OPENAI_API_KEY": KEY}, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert [row["text"] for row in rows("out.parquet")] == TEXTS * 3
    assert all(SENSELESS.fullmatch(row["answer"]) for row in rows("out.parquet"))
    assert len(list(Path().glob("tiny-*.gguf"))) == 2


# The key.


@pytest.mark.parametrize("way", ["OPENAI_API_KEY", "--api-key-file"])
def test_a_key_is_taken_from_the_environment_or_a_file(command: Command, llama: Server, way: str) -> None:
    Path("key.txt").write_text(f"{KEY}\n")
    write("in.parquet", {"text": ["hello"]})
    given = [way, "key.txt"] if way.startswith("--") else []
    env = {"OPENAI_API_KEY": WRONG_KEY} if given else {way: KEY}  # the file wins
    submit(command, llama, *TEXT, *given, env=env, request=SHORT)
    assert SENSELESS.fullmatch(outputs("answer")[0])


@pytest.mark.parametrize("way", ["OPENAI_API_KEY", "--api-key-file", None])
def test_a_key_that_is_wrong_or_missing_is_refused_before_the_run(
    command: Command, llama: Server, way: str | None
) -> None:
    Path("key.txt").write_text(WRONG_KEY)
    write("in.parquet", {"text": ["hello"]})
    before = tree()
    given = ["--api-key-file", "key.txt"] if way == "--api-key-file" else []
    env = {"OPENAI_API_KEY": WRONG_KEY} if way == "OPENAI_API_KEY" else {}
    told = submit(command, llama, *TEXT, *given, env=env, status=2)
    assert told.splitlines()[0] == (
        f"Error: --endpoint: {llama.url} cannot be used: GET models: status 401: Invalid API Key"
    )
    assert tree() == before
    assert WRONG_KEY not in told


# Rows that fail, and requests that are tried again.


def test_a_row_that_is_longer_than_the_context_fails_alone_with_the_engines_message(
    command: Command, llama: Server
) -> None:
    write("in.parquet", {"text": ["short", "x" * 3000, "also short"]})
    submit(command, llama, *TEXT, *named("--output-column", "answer", "attempts"), request=SHORT, status=3)
    answers = outputs("answer")
    assert [bool(answer and SENSELESS.fullmatch(answer)) for answer in answers] == [True, False, True]
    assert outputs("attempts") == [1, None, 1]
    tokens = llama_tokens(f"user: {'x' * 3000}\nassistant: ")
    message = f"request ({tokens} tokens) exceeds the available context size (2048 tokens), try increasing it"
    assert failures() == [(1, "EndpointError", f"POST chat/completions: status 400: {message}", 1)]


def test_a_rate_limit_is_waited_for_and_the_row_then_succeeds(command: Command, llmock: Server) -> None:
    scripted(
        llmock,
        {"type": "fail", "status": 429, "retry_after": 1, "times": 1},
        {"type": "reply", "text": "scripted"},
    )
    write("in.parquet", {"text": ["hello"]})
    submit(command, llmock, *TEXT, *named("--output-column", "answer", "attempts", "latency"))
    [(answer, attempts, latency)] = outputs("answer", "attempts", "latency")
    assert (answer, attempts) == ("scripted", 2)
    refused, answered = (one for one in asked(llmock, "_llmock/requests")["requests"] if one["method"] == "POST")
    assert answered["started_at"] - refused["ended_at"] >= 1
    assert 0 < latency < answered["ended_at"] - refused["started_at"], "it is without the wait"
    # llmock judges: an error would be a client that comes back too early, or gives up.
    verdict = asked(llmock, "_llmock/verdict")
    assert verdict["findings"] == []
    assert verdict["faults_injected"] == 1


def test_failures_of_the_server_cost_no_row(command: Command, llmock: Server) -> None:
    statuses = (500, 503, 429, 502, 529)
    scripted(llmock, *({"type": "fail", "status": status, "times": 4} for status in statuses))
    texts = [f"row {number}" for number in range(100)]
    write("in.parquet", {"text": texts})
    submit(command, llmock, *TEXT, "--retries", "20", *named("--output-column", "answer", "attempts"))
    assert outputs("answer") == [f"Hello! You said: {text}" for text in texts]
    assert sum(outputs("attempts")) == 100 + 4 * len(statuses)
    verdict = asked(llmock, "_llmock/verdict")
    assert (verdict["errors"], verdict["faults_injected"]) == (0, 4 * len(statuses))


# A job of the user's own.


def test_a_job_of_the_users_asks_with_the_official_client(command: Command, server: Server) -> None:
    Path("mine.py").write_text(
        "from domyn_swarm.jobs import EndpointJob\n"
        "class Mine(EndpointJob):\n"
        "    input_columns = ('text',)\n"
        "    output_columns = ('said', 'tokens')\n"
        "    async def transform_item(self, text):\n"
        "        answer = await self.client.chat.completions.create(\n"
        "            model=self.model, messages=[{'role': 'user', 'content': text}], max_tokens=16, temperature=0\n"
        "        )\n"
        "        return answer.choices[0].message.content, answer.usage.completion_tokens\n"
    )
    write("in.parquet", {"text": TEXTS})
    submit(command, server, "mine.py:Mine")
    if server.name == "llmock":
        assert outputs("said") == [echo(text) for text in TEXTS]
        assert {body["model"] for body in posted(server)} == {"gpt-4o"}, "the first that it lists"
    else:
        assert all(SENSELESS.fullmatch(said) for said in outputs("said"))
        assert outputs("tokens") == [16] * len(TEXTS)
