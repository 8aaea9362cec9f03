"""Jobs of a user's own that send requests: with `ask`, or with the official client, and what of them fails how."""

from __future__ import annotations

import asyncio
import gc
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp import web

from domyn_swarm import RunResult, SwarmJob
from domyn_swarm.errors import ConfigurationError, JobError, SwarmError
from domyn_swarm.jobs import EndpointJob
from tests.conftest import Command, rows, tree, write
from tests.test_completion_jobs import echo, failures, last, said, submit
from tests.test_endpoint import Handler, answering, serving

# What users write.


class Asks(EndpointJob):
    """One request with `ask`, and what came of it."""

    input_columns = ("item",)
    output_columns = ("text", "attempts", "seconds")
    tone: str = "kind"

    async def transform_item(self, item: str) -> tuple[str, int, float]:
        messages = [{"role": "system", "content": self.tone}, {"role": "user", "content": item}]
        answer = await self.ask("chat/completions", {"messages": messages, "max_tokens": 9})
        return answer.body["choices"][0]["message"]["content"], answer.attempts, answer.seconds


class Parses(EndpointJob):
    """Takes a number from the answer, and raises ValueError when it is none."""

    output_columns = ("number",)

    async def transform_item(self, item: str) -> int:
        answer = await self.ask("chat/completions", {"messages": [{"role": "user", "content": item}]})
        return int(answer.body["choices"][0]["message"]["content"])


class Official(EndpointJob):
    """One request with the official client."""

    output_columns = ("text",)
    clients: ClassVar[list[Any]] = []

    async def transform_item(self, item: str) -> str | None:
        client = self.client
        self.clients.append(client)
        messages: Any = [{"role": "user", "content": item}]
        answer = await client.chat.completions.create(model=self.model, messages=messages)
        text: str | None = answer.choices[0].message.content
        return text


class GivesUp(EndpointJob):
    """Ends the run at a row `bad`, unless the file `mended` is there."""

    output_columns = ("text",)

    async def transform_item(self, item: str) -> str:
        if item == "bad" and not Path("mended").exists():
            raise JobError("The licence has expired.", "Renew it.")
        answer = await self.ask("chat/completions", {"messages": [{"role": "user", "content": item}]})
        text: str = answer.body["choices"][0]["message"]["content"]
        return text


class Blocking(EndpointJob):
    """A plain def cannot wait for `ask`."""

    output_columns = ("text",)

    def transform_item(self, item: str) -> str:
        return item


class Lists(EndpointJob):
    """Several rows at a time, each with a request of its own."""

    output_columns = ("text",)

    async def transform_items(self, items: list[str]) -> list[Any]:
        async def one(item: str) -> Any:
            answer = await self.ask("chat/completions", {"messages": [{"role": "user", "content": item}]})
            return answer.body["choices"][0]["message"]["content"]

        return await asyncio.gather(*map(one, items), return_exceptions=True)


class NamedLikeInsides(EndpointJob):
    """Fields with names that a user could well choose, and that the package might use as well."""

    output_columns = ("text",)
    counts: int = 1
    requests: int = 2
    replicas: int = 3
    key: str = "k"
    places: str = "here"
    resources: tuple[str, ...] = ()
    timeout: float = 4.0
    reply: str = "r"
    tokens: int = 5

    async def transform_item(self, item: str) -> str:
        answer = await self.ask("chat/completions", {"messages": [{"role": "user", "content": item}]})
        text: str = answer.body["choices"][0]["message"]["content"]
        fields = (self.counts, self.requests, self.replicas, self.key, self.places, self.timeout, self.reply)
        return " ".join(map(str, [text, *fields]))


class CountsCars(SwarmJob):
    """A field that is named like a method of the package's, in a job that knows nothing of endpoints."""

    output_columns = ("text",)
    traffic: str = "heavy"  # type: ignore[assignment]

    async def transform_item(self, item: str) -> str:
        return f"{item} in {self.traffic} traffic"


class ChoosesModel(EndpointJob):
    """A field for the model, in place of the option."""

    output_columns = ("text",)
    model: str = "large"

    async def transform_item(self, item: str) -> str:
        answer = await self.ask("chat/completions", {"messages": [{"role": "user", "content": item}]})
        text: str = answer.body["choices"][0]["message"]["content"]
        return text


# How they are run here.


def start(job: type[SwarmJob], *urls: str, **options: Any) -> RunResult:
    """Run a job of this file over in.parquet, one row at a time."""
    options = {"endpoints": list(urls), "output_columns": list(job.output_columns), "max_concurrency": 1, **options}
    return submit("", f"{__name__}:{job.__name__}", **options)


def ran(job: type[SwarmJob], items: list[Any], handler: Handler = echo, **options: Any) -> RunResult:
    write("in.parquet", {"item": items})
    with serving(handler) as server:
        return start(job, server.url, **options)


def texts(path: str = "out.parquet") -> list[Any]:
    return [row["text"] for row in rows(path)]


def refusing_first(status: int, times: int = 1, **response: Any) -> tuple[Handler, Counter[str]]:
    """A server that answers the first `times` requests for each text with `status`; and what it was asked."""
    asked: Counter[str] = Counter()

    async def handler(body: Any) -> web.Response:
        asked[last(body)] += 1
        return web.Response(status=status, **response) if asked[last(body)] <= times else await echo(body)

    return handler, asked


# ask.


def test_ask_sends_the_model_the_parameters_of_request_and_the_content() -> None:
    write("in.parquet", {"item": ["hello"]})
    with serving(echo) as server:
        start(Asks, server.url, job_kwargs={"tone": "rude", "request": {"temperature": 0, "max_tokens": 5}})
    assert server.bodies == [
        {
            "model": "small",
            "temperature": 0,
            "max_tokens": 9,  # what the job says wins
            "messages": [{"role": "system", "content": "rude"}, {"role": "user", "content": "hello"}],
        }
    ]


def test_an_answer_tells_its_body_how_many_requests_and_how_long_it_took() -> None:
    handler, _ = refusing_first(503, headers={"Retry-After": "0"})
    ran(Asks, ["hello"], handler, retries=2)
    (row,) = rows("out.parquet")
    assert (row["text"], row["attempts"]) == ("<hello>", 2)
    assert 0 < row["seconds"] < 60


def test_a_request_that_fails_is_not_tried_again_by_the_runner_on_top() -> None:
    handler, asked = refusing_first(500, times=100, text="boom")
    ran(Asks, ["hello"], handler, retries=2)
    assert asked == {"hello": 3}
    assert failures() == [("EndpointError", "POST chat/completions: status 500: boom", 3)]


def test_what_a_list_of_rows_gathers_is_told_apart_by_row() -> None:
    async def handler(body: Any) -> web.Response:
        return web.Response(status=400, text="no") if last(body) == "bad" else await echo(body)

    ran(Lists, ["a", "bad", "c"], handler)
    assert texts() == ["<a>", None, "<c>"]
    assert failures() == [("EndpointError", "POST chat/completions: status 400: no", 1)]


def test_an_answer_that_cannot_be_parsed_is_asked_for_again_as_often_as_retries_say() -> None:
    left = iter(["many", "a few", "7"])
    result = ran(Parses, ["how many?"], answering(lambda: said(next(left))), retries=2)
    assert rows("out.parquet") == [{"item": "how many?", "number": 7}]
    assert result.exit_status == 0


def test_an_answer_that_can_never_be_parsed_is_the_rows_failure() -> None:
    write("in.parquet", {"item": ["how many?"]})
    with serving(answering(lambda: said("many"))) as server:
        start(Parses, server.url, retries=2)
    assert len(server.bodies) == 3
    assert failures() == [("ValueError", "invalid literal for int() with base 10: 'many'", 3)]


# The official client.


def test_the_official_client_asks_the_same_endpoint_with_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOMYN_SWARM_API_KEY", "sk-4711")
    write("in.parquet", {"item": ["hello"]})
    with serving(echo) as server:
        start(Official, server.url, model="large")
    assert server.bodies == [{"model": "large", "messages": [{"role": "user", "content": "hello"}]}]
    assert server.headers[-1]["Authorization"] == "Bearer sk-4711"
    assert texts() == ["<hello>"]


def test_without_a_key_the_official_client_works_as_well() -> None:
    ran(Official, ["hello"])
    assert texts() == ["<hello>"]


def test_a_rate_limit_met_by_the_official_client_is_waited_for_as_long_as_it_says() -> None:
    times: list[float] = []

    async def handler(body: Any) -> web.Response:
        times.append(asyncio.get_running_loop().time())
        return web.Response(status=429, headers={"Retry-After": "1"}) if len(times) == 1 else await echo(body)

    result = ran(Official, ["hello"], handler, retries=1)
    assert texts() == ["<hello>"]
    assert times[1] - times[0] > 0.99  # timers may be a little early
    assert result.exit_status == 0


def test_what_the_official_client_says_is_no_use_to_try_again_is_not() -> None:
    handler, asked = refusing_first(400, times=100, text='{"error": {"message": "not in this tone"}}')
    ran(Official, ["hello"], handler, retries=5)
    assert asked == {"hello": 1}
    ((kind, message, attempts),) = failures()
    assert (kind, attempts) == ("BadRequestError", 1)
    assert "not in this tone" in message


def test_requests_of_the_official_client_are_counted_once_each() -> None:
    handler, asked = refusing_first(500, times=100)
    ran(Official, ["hello"], handler, retries=2)
    assert asked == {"hello": 3}  # the client itself does not try again
    ((kind, _, attempts),) = failures()
    assert (kind, attempts) == ("InternalServerError", 3)


def test_an_answer_that_takes_the_official_client_too_long_is_the_rows_failure() -> None:
    async def handler(body: Any) -> web.Response:
        await asyncio.sleep(60 if last(body) == "slow" else 0)
        return await echo(body)

    ran(Official, ["a", "slow", "c"], handler, retries=0, timeout=1)
    assert texts() == ["<a>", None, "<c>"]
    assert [kind for kind, _, _ in failures()] == ["APITimeoutError"]


@pytest.mark.parametrize("job", [Asks, Official])
def test_several_endpoints_take_turns(job: type[SwarmJob]) -> None:
    write("in.parquet", {"item": [f"row {number}" for number in range(12)]})
    with serving(echo) as one, serving(echo) as other, serving(echo) as third:
        start(job, one.url, other.url, third.url)
    assert [len(server.bodies) for server in (one, other, third)] == [4, 4, 4]
    assert texts() == [f"<row {number}>" for number in range(12)]


def test_the_official_clients_are_one_for_each_endpoint_and_closed_when_the_run_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Official, "clients", [])
    write("in.parquet", {"item": ["a", "b", "c", "d"]})
    with serving(echo) as one, serving(echo) as other:
        start(Official, one.url, other.url)
        assert len(set(map(id, Official.clients))) == 2
        assert [client.is_closed() for client in Official.clients] == [True] * 4
    gc.collect()
    assert "Unclosed" not in caplog.text


def test_the_official_client_is_closed_when_the_run_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Official, "clients", [])
    with pytest.raises(JobError):
        ran(Official, ["a"], answering(lambda: web.Response(status=400)), on_error="fail")
    assert [client.is_closed() for client in Official.clients] == [True]


def test_without_the_package_the_run_ends_at_once_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no row's fault, and no other row would fare better."""
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SwarmError) as ended:
        ran(Official, ["a", "b"], retries=1)
    assert ended.value.message == "self.client needs the package openai."
    assert ended.value.hint.startswith("Run: pip install 'domyn-swarm[openai]'")


def test_without_the_clients_own_extra_the_run_ends_at_once_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The package may be there without what it needs for aiohttp."""
    import openai

    def missing(**_: Any) -> Any:
        raise RuntimeError("To use the aiohttp client you must have installed the package with the `aiohttp` extra")

    monkeypatch.setattr(openai, "DefaultAioHttpClient", missing)
    with pytest.raises(SwarmError) as ended:
        ran(Official, ["a", "b"], retries=1)
    assert ended.value.hint.startswith("Run: pip install 'domyn-swarm[openai]'")


def test_a_job_that_only_asks_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    ran(Asks, ["a"])
    assert texts() == ["<a>"]


# The end of a run.


def test_a_job_error_ends_the_run_and_the_same_command_goes_on_from_there(command: Command) -> None:
    Path("asks.py").write_text(
        textwrap.dedent("""
            from pathlib import Path
            from domyn_swarm.errors import JobError
            from domyn_swarm.jobs import EndpointJob

            class GivesUp(EndpointJob):
                input_columns = ("item",)
                output_columns = ("text",)

                async def transform_item(self, item):
                    if item == "bad" and not Path("mended").exists():
                        raise JobError("The licence has expired.", "Renew it.")
                    answer = await self.ask("chat/completions", {"messages": [{"role": "user", "content": item}]})
                    return answer.body["choices"][0]["message"]["content"]
        """)
    )
    write("in.parquet", {"item": ["a", "b", "bad", "d"]})
    with serving(echo) as server:
        arguments = (
            "job", "submit", "asks.py:GivesUp", "--input", "in.parquet", "--output", "out.parquet",
            "--endpoint", server.url, "--max-concurrency", "1",
        )  # fmt: skip
        broken = command(*arguments)
        assert broken.returncode == 1
        assert "Error: The licence has expired.\nRenew it.\n2 rows of this run are kept in " in broken.stderr
        assert "Run the same command again to resume." in broken.stderr
        assert not Path("out.parquet").exists()
        Path("mended").touch()
        done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert [last(body) for body in server.bodies] == ["a", "b", "bad", "d"]
    assert texts() == ["<a>", "<b>", "<bad>", "<d>"]


def test_a_job_error_is_no_failure_of_a_row_and_is_not_tried_again() -> None:
    with pytest.raises(JobError, match=r"^The licence has expired\.\nRenew it\."):
        ran(GivesUp, ["bad"], retries=5)
    assert not Path("out.errors.parquet").exists()


# Concurrency.


def test_a_concurrency_that_is_found_out_goes_with_async_methods() -> None:
    items = [f"row {number}" for number in range(300)]
    result = ran(Asks, items, max_concurrency="auto")
    assert texts() == [f"<{item}>" for item in items]
    assert result.exit_status == 0


def test_a_concurrency_that_is_found_out_goes_with_the_official_client_and_a_rate_limit() -> None:
    handler, _ = refusing_first(429, headers={"Retry-After": "0"})
    items = [f"row {number}" for number in range(12)]
    result = ran(Official, items, handler, max_concurrency="auto", retries=1)
    assert texts() == [f"<{item}>" for item in items]
    assert result.exit_status == 0


def test_a_concurrency_that_is_found_out_is_refused_for_a_plain_def() -> None:
    write("in.parquet", {"item": ["a"]})
    before = tree()
    with serving(echo) as server, pytest.raises(ConfigurationError) as refused:
        start(Blocking, server.url, max_concurrency="auto")
    error = refused.value
    assert (error.code, error.option, error.step) == ("job.not_async", "max_concurrency", "transform_item")
    assert tree() == before


# Names.


def test_fields_may_have_names_that_the_package_might_use_itself() -> None:
    ran(NamedLikeInsides, ["a"], job_kwargs={"counts": 7, "key": "x"})
    assert texts() == ["<a> 7 2 3 x here 4.0 r"]


def test_a_field_that_hides_a_method_is_refused_by_name() -> None:
    write("in.parquet", {"item": ["stuck"]})
    with pytest.raises(ConfigurationError, match="a field hides the method 'traffic'"):
        start(CountsCars, job_kwargs={"traffic": "light"})


@pytest.mark.parametrize(
    ("kwargs", "model"), [({}, "large"), ({"model": "large"}, "large"), ({"model": "small"}, "small")]
)
def test_a_field_that_is_called_model_is_the_model(kwargs: dict[str, str], model: str) -> None:
    write("in.parquet", {"item": ["a"]})
    with serving(echo) as server:
        start(ChoosesModel, server.url, job_kwargs=kwargs)
    assert [body["model"] for body in server.bodies] == [model]
