"""Credentials in every place where people put them: nothing that is left behind or shown holds one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domyn_swarm import make_spec, masking
from domyn_swarm.checkpoint.submission import Placement
from domyn_swarm.engine.recording.command_line import command_of
from domyn_swarm.engine.recording.run_record import without_secrets
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.redaction import HIDDEN, missing, public_fields, public_options, public_storage, public_text
from domyn_swarm.references import resolved
from domyn_swarm.storage.files import filesystem
from tests.conftest import Command, job, write
from tests.servers.chaos import chaos
from tests.test_secrets import files

RUN = ".domyn-swarm/out.parquet"
COUNT = iter(range(10**6))


def secret(kind: str) -> str:
    return f"{kind}-S3CR3T-{next(COUNT):05d}-q7Zx9"


USER, PASSWORD, QUERY, FRAGMENT = (secret(kind) for kind in ("user", "password", "query", "fragment"))
KWARGS = {
    "request": {
        "temperature": 0.5,
        "extra_body": {
            "api_key": secret("body"), "top_k": 3,
            "vendor": {"deep": {"password": secret("deep")}, "list": [secret("l")]}, "unheard_of": secret("unheard"),
            "headers": {"X-Api-Key": secret("header"), "Accept": "x"},
        },
        "user": "somebody",
    },
    "headers": {"Authorization": f"Bearer {secret('bearer')}", "Cookie": secret("cookie"), "x-api-key": secret("g")},
    "extra_query": {"sig": secret("sig"), "api-version": "2024"},
    "client_secret": secret("client"),
    "auth": {"token": secret("auth")},
    "proxy": f"http://{USER}:{PASSWORD}@proxy:3128",
    "callback": f"https://hooks.test/x?token={QUERY}#{FRAGMENT}",
    "note": "sk-proj-S3CR3T0123456789abcdef",
    "clear": "See https://a.test/?q=cats, and mind the token limit of max_tokens.",
    "max_tokens": 7,
    "eos_token": "</s>",
}  # fmt: skip
STORAGE = {
    "key": secret("key"), "secret": secret("secret"), "token": secret("token"), "password": secret("pw"),
    "sas_token": secret("sas"), "connection_string": f"AccountKey={secret('conn')}", "something_new": secret("new"),
    "endpoint_url": f"http://{USER}:{PASSWORD}@store.test", "anon": False,
    "client_kwargs": {
        "region_name": "eu-1", "aws_secret_access_key": secret("aws"), "aws_session_token": secret("session"),
        "headers": {"Authorization": secret("h")},
    },
    "config_kwargs": {"proxies": {"https": f"http://p:{secret('proxy')}@proxy"}, "signature_version": "s3v4"},
}  # fmt: skip
JOB = """
from typing import Any
from domyn_swarm import SwarmJob

class Careless(SwarmJob):
    input_columns = ("text",)
    output_columns = ("upper",)
    request: dict[str, Any] | None = None
    headers: dict[str, Any] | None = None
    extra_query: dict[str, Any] | None = None
    client_secret: str = ""
    auth: dict[str, Any] | None = None
    proxy: str = ""
    callback: str = ""
    note: str = ""
    clear: str = ""
    max_tokens: int = 0
    eos_token: str = ""

    async def transform_item(self, text: str) -> str:
        if text == "bad":
            raise ValueError(f"refused: {vars(self)}")
        if text == "worse":
            raise SystemError(f"broken: {self.client_secret}")
        return text.upper()
"""


def leaks(content: str) -> list[str]:
    return sorted(
        {content[max(0, at - 30) : at + 20] for at in range(len(content)) if content.startswith("S3CR3T", at)}
    )


def check_nothing_is_left(*shown: Any) -> None:
    texts = [*files("."), *((f"shown {number}", f"{one.stdout}\n{one.stderr}") for number, one in enumerate(shown))]
    assert {
        name: found for name, text in texts if name not in ("job.py", "options.json") and (found := leaks(text))
    } == {}


@pytest.fixture
def careless() -> list[str]:
    """A command with credentials wherever there is a place for them."""
    Path("job.py").write_text(JOB)
    write("in.parquet", {"text": ["fine", "bad", "good"]})
    storage = json.dumps({"storage_options": {"auto_mkdir": True}})
    return [
        "job", "submit", "job.py:Careless", "--input", "in.parquet", "--output", "out.parquet", "--retries", "0",
        "--job-kwargs", json.dumps(KWARGS), "--backend-write-kwargs", storage,
        "--endpoint", f"https://{USER}:{PASSWORD}@models.test/v1?key={QUERY}",
    ]  # fmt: skip


def test_runs_leave_nothing_behind_and_show_nothing(careless: list[str], command: Command) -> None:
    done = command("--verbose", *careless)
    assert done.returncode == 3, done.stderr
    ways: list[list[str]] = [
        ["job", "show", RUN], ["job", "show", RUN, "--format", "json"], ["job", "status", RUN], ["job", "list"],
        ["job", "row", RUN, "1"], ["checkpoint", "inspect", RUN, "--json"], ["job", "diff", RUN, RUN],
        [*careless, "--dry-run"], [*careless, "--detach"], ["job", "resume", RUN],
    ]  # fmt: skip
    shown = [command(*way) for way in ways]
    assert "secrets" in shown[-2].stderr
    assert shown[-2].returncode == 2
    assert (shown[-1].returncode, "--job-kwargs: it held a secret" in shown[-1].stderr) == (2, True)
    check_nothing_is_left(done, *shown)
    again = command(*careless)
    assert again.returncode == 3, "the same command is the same job"
    spec = json.loads(Path(RUN, "spec.json").read_text())
    assert spec["job_kwargs"]["clear"] == KWARGS["clear"]
    assert spec["job_kwargs"]["request"]["extra_body"]["top_k"] == 3
    assert spec["endpoints"] == ["https://***@models.test/v1?key=***"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--backend-read-kwargs", json.dumps({"storage_options": STORAGE, "columns": 5})],
        ["--backend-read-kwargs", json.dumps({"storage_options": STORAGE})],
        ["--input", f"https://{USER}:{PASSWORD}@127.0.0.1:9/in.parquet?X-Amz-Signature={QUERY}"],
        ["--input", f"s3://{USER}:{PASSWORD}@bucket/in.parquet"],
        ["--job-kwargs", json.dumps({**KWARGS, "unknown_field": 1})],
        ["--job-kwargs", json.dumps({**KWARGS, "max_tokens": "many"})],
        ["--max-concurrency", "0"],
        ["--on-error", "fail"],
    ],
)  # fmt: skip
def test_refusals_and_broken_runs_show_nothing(wrong: list[str], careless: list[str], command: Command) -> None:
    done = command("--verbose", *careless, *wrong)
    assert done.returncode in (1, 2, 3), done.stderr
    check_nothing_is_left(done)


def test_requests_that_carry_a_credential_leave_it_out_of_traces_and_failures(command: Command) -> None:
    write("in.parquet", {"item": ["fine", "rude"]})
    key = secret("inside")
    request = {"extra_body": {"api_key": key}}
    with chaos("--when", "rude=400") as server:
        done = command(
            "--verbose", "job", "submit", "--input", "in.parquet", "--input-column", "item", "--output", "out.parquet",
            "--endpoint", server.url, "--retries", "0", "--job-kwargs", json.dumps({"request": request}),
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        shown = command("job", "row", RUN, "1")
    check_nothing_is_left(done, shown)


def test_no_digest_that_is_left_behind_depends_on_a_secret(command: Command) -> None:
    """Whoever has a digest of a secret can try what it is."""
    write("in.parquet", {"text": ["a"]})
    Path("job.py").write_text(JOB)
    left = []
    for value in ("first", "second"):
        storage = json.dumps({"storage_options": {"auto_mkdir": True, "secret": secret(value)}})
        done = command(
            "job", "submit", "job.py:Careless", "--input", "in.parquet", "--output", "out.parquet",
            "--backend-write-kwargs", storage, "--backend-read-kwargs", storage,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        record = json.loads(Path(RUN, "run.json").read_text())
        left.append((record["content"], record["ids"], Path("out.parquet").stat().st_ino))
    assert left[0] == left[1]


def test_a_reference_is_kept_and_looked_up_when_it_is_used(command: Command) -> None:
    write("in.parquet", {"text": ["a"]})
    Path("job.py").write_text(JOB.replace("return text.upper()", "return text + self.client_secret[:5]"))
    arguments = [
        "job", "submit", "job.py:Careless", "--input", "in.parquet", "--output", "out.parquet",
        "--job-kwargs", '{"client_secret": "env:MY_SECRET"}',
    ]  # fmt: skip
    refused = command(*arguments)
    assert (refused.returncode, "there is no environment variable MY_SECRET" in refused.stderr) == (2, True)
    value = secret("hello")
    done = command(*arguments, env={"MY_SECRET": value})
    assert done.returncode == 0, done.stderr
    spec, record = (json.loads(Path(RUN, name).read_text()) for name in ("spec.json", "run.json"))
    assert spec["job_kwargs"] == {"client_secret": "env:MY_SECRET"}
    assert record["identity"]["job_kwargs.client_secret"] in ("env:MY_SECRET", HIDDEN)
    resumed = command("job", "resume", RUN, env={"MY_SECRET": value})
    assert resumed.returncode == 0, resumed.stderr
    check_nothing_is_left(done, resumed)


def test_references_in_storage_options_reach_the_filesystem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_SECRET", "q9-Store-S3CR3T-x7")
    fs, _ = filesystem(
        "s3://bucket/x", {"key": "k", "secret": "env:STORE_SECRET", "client_kwargs": {"region_name": "x"}}
    )
    assert fs.secret == "q9-Store-S3CR3T-x7"
    assert masking.masked("q9-Store-S3CR3T-x7") == HIDDEN
    with pytest.raises(ConfigurationError, match="no environment variable NOT_THERE"):
        filesystem("s3://bucket/x", {"secret": "env:NOT_THERE"})


def test_what_is_harmless_stays() -> None:
    assert public_storage(STORAGE) == {
        "endpoint_url": "http://***@store.test", "anon": False, "client_kwargs": {"region_name": "eu-1"},
        "config_kwargs": {"signature_version": "s3v4"},
    }  # fmt: skip
    for text in (
        "s3://bucket/in_?.parquet", "abfs://container@account.dfs.core.windows.net/x", "hdfs://user@name/x",
        "in.parquet", "a text with https://a.test/?q=1 in it", "simplecache::s3://bucket/x", "https://a.test/v1?api-version=3",
    ):  # fmt: skip
        assert public_text(text) == text
    schema = {"type": "json_schema", "json_schema": {"schema": {"properties": {"password": {"type": "string"}}}}}
    harmless = {
        "request": {"response_format": schema, "max_tokens": 5, "stop": ["\n"], "chat_template_kwargs": {"x": "y"}},
        "prompt": "The password is in the text.", "tokenizer": "t", "pad_token": "<pad>", "key_column": "id",
    }  # fmt: skip
    assert public_fields(harmless) == harmless


def test_nothing_of_a_command_that_is_shown_is_secret() -> None:
    spec = make_spec({
        "input": f"https://{USER}:{PASSWORD}@a.test/in.parquet?sig={QUERY}", "output": "out.parquet",
        "job": job("Upper"), "backend_write_kwargs": {"storage_options": STORAGE},
        "endpoints": [f"https://{USER}@a.test"],
    })  # fmt: skip
    assert leaks(command_of(spec) + repr(without_secrets(spec))) == []
    assert set(missing(public_options({"endpoints": spec.endpoints, "input": spec.input}))) == {"endpoints", "input"}
    words = Placement(slurm_args=f"--export=ALL,API_KEY={PASSWORD} --time=10").public.slurm_args
    assert words == "--export=ALL,API_KEY=*** --time=10"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=4))
def test_what_is_public_already_stays_as_it_is(value: dict[str, Any]) -> None:
    for public in (public_fields, public_storage, lambda one: public_options({"job_kwargs": one})["job_kwargs"]):
        once = public(value)
        assert public(once) == once


def test_a_variable_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match="env:NOT_THERE"):
        resolved({"a": [{"b": "env:NOT_THERE"}]})
