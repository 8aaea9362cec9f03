"""Jobs of steps: a module of functions, models as parameters, and what each row's failures and calls come to."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web

from domyn_swarm import RunResult, SwarmError, make_spec, run
from domyn_swarm.errors import ConfigurationError, DataError
from domyn_swarm.options.resolve import spec_for
from tests.conftest import Command, rows, table, tree, write
from tests.test_completion_jobs import echo, failures, last, said
from tests.test_endpoint import serving

QUESTIONS = ["why?", "how?", "who?"]
CHAIN = '''
from domyn_swarm import Chat

STYLE = "one sentence"


def prompt(question: str) -> str:
    """What is asked."""
    return f"In {STYLE}: {question}"


async def answer(prompt: str, chat: Chat) -> str:
    return await chat(prompt, temperature=0)


async def score(question: str, answer: str, judge: Chat) -> int:
    return await judge(f"{question} {answer}", schema={"type": "integer"})
'''


def steps(code: str) -> str:
    Path("steps.py").write_text(textwrap.dedent(code))
    return "steps.py"


def submit(code: str, **options: Any) -> RunResult:
    """Run the steps of `code` over in.parquet, with the options as on the command line."""
    return run(spec_for(steps(code), {"input": "in.parquet", "output": "out.parquet", **options}))


def refused(code: str, **options: Any) -> SwarmError:
    """What a run is refused with, having written nothing."""
    job = steps(code)
    before = tree()
    with pytest.raises(SwarmError) as raised:
        run(spec_for(job, {"input": "in.parquet", "output": "out.parquet", **options}))
    assert raised.value.exit_status == 2
    assert tree() == before
    return raised.value


async def grade(body: Any) -> web.Response:
    return said(str(len(last(body))))


# Columns, fields and types.


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_pure_steps_make_columns_of_the_types_that_they_declare(engine: str) -> None:
    write("in.parquet", {"text": ["a b", "c"], "other": [1, 2]})
    submit(
        """
        def words(text: str) -> list[str]:
            return text.split()

        async def count(words: list[str]) -> float:
            return len(words)

        def facts(words: list[str], text: str) -> dict:
            return {"first": words[0], "chars": len(text)}
        """,
        data_backend=engine,
    )
    assert rows("out.parquet") == [
        {"text": "a b", "other": 1, "count": 2.0, "facts": {"first": "a", "chars": 3}},
        {"text": "c", "other": 2, "count": 1.0, "facts": {"first": "c", "chars": 1}},
    ]
    assert table("out.parquet").schema.field("count").type == pa.float64()


def test_a_step_of_one_output_may_make_dicts_tuples_and_nulls() -> None:
    write("in.parquet", {"n": [0, 1]})
    submit("def pair(n: int) -> tuple | None:\n    return (n, n) if n else None\n")
    assert rows("out.parquet") == [{"n": 0, "pair": None}, {"n": 1, "pair": [1, 1]}]


TWO = """
def first(text: str) -> str:
    return text.upper()

def second(first: str) -> str:
    return first + "!"

def unused(missing: str) -> str:
    return missing
"""


def test_output_columns_pick_steps_and_only_what_they_need_is_computed() -> None:
    write("in.parquet", {"text": ["a"]})
    submit(TWO, output_columns=["second"])
    assert rows("out.parquet") == [{"text": "a", "second": "A!"}]


def test_keep_adds_steps_to_the_output() -> None:
    write("in.parquet", {"text": ["a"]})
    submit(TWO, output_columns=["second"], keep=["first"])
    assert rows("out.parquet") == [{"text": "a", "second": "A!", "first": "A"}]


FIELDS = """
def out(text: str, times: int, end: str = "!") -> str:
    return text * times + end
"""


def test_fields_come_from_job_kwargs_or_from_the_signature() -> None:
    write("in.parquet", {"text": ["a"], "end": ["?"]})
    submit(FIELDS, job_kwargs={"times": 2})
    assert rows("out.parquet") == [{"text": "a", "end": "?", "out": "aa!"}]


def test_a_parameter_with_a_default_is_a_column_where_it_is_named() -> None:
    write("in.parquet", {"text": ["a"], "end": ["?"], "times": [3]})
    submit(FIELDS, input_columns=["end"])
    assert rows("out.parquet") == [{"text": "a", "end": "?", "times": 3, "out": "aaa?"}]


def test_a_field_of_another_type_is_refused() -> None:
    write("in.parquet", {"text": ["a"]})
    error = refused(FIELDS, job_kwargs={"times": "two"})
    assert isinstance(error, ConfigurationError)
    assert "'times' of out (steps.py, line 2)" in str(error)


def test_modifiers_of_hamilton_work() -> None:
    write("in.parquet", {"text": ["a b"]})
    code = """
    from hamilton.function_modifiers import config, extract_fields, parameterize, source, tag, value

    @config.when(style="loud")
    def said__loud(text: str) -> str:
        return text.upper()

    @config.when(style="calm")
    async def said__calm(text: str) -> str:
        return text

    @extract_fields({"head": str, "tail": str})
    async def parts(said: str) -> dict[str, str]:
        head, tail = said.split()
        return {"head": head, "tail": tail}

    @tag(of="tests")
    @parameterize(twice={"part": source("head"), "times": value(2)}, thrice={"part": source("tail"), "times": value(3)})
    async def repeated(part: str, times: int) -> str:
        return part * times
    """
    submit(code, job_kwargs={"style": "loud"})
    assert rows("out.parquet") == [{"text": "a b", "twice": "AA", "thrice": "BBB"}]
    submit(code, job_kwargs={"style": "calm"}, output="calm.parquet")
    assert rows("calm.parquet") == [{"text": "a b", "twice": "aa", "thrice": "bbb"}]


def test_a_module_of_the_working_folder_is_named_with_dots(command: Command) -> None:
    write("in.parquet", {"text": ["a"]})
    Path("flows").mkdir()
    Path("flows/clean.py").write_text("def out(text: str) -> str:\n    return text.upper()\n")
    done = command("job", "submit", "flows.clean", "--input", "in.parquet", "--output", "out.parquet")
    assert done.returncode == 0, done.stderr
    assert rows("out.parquet") == [{"text": "a", "out": "A"}]


# What is refused.

ASKS = "from domyn_swarm import Chat\n\n"


@pytest.mark.parametrize(
    ("code", "expected", "kind", "parts"),
    [
        ("def a(b: str) -> str:\n    return b\n\ndef b(a: str) -> str:\n    return a\n", "step.cycle",
         ConfigurationError, ["a <- b <- a", "a (steps.py, line 1)", "b (steps.py, line 4)"]),
        ("def out(txet: str) -> str:\n    return txet\n", "step.parameter", DataError,
         ["out (steps.py, line 1)", "'txet'", "Did you mean 'text'?"]),
        ("def out(text: str):\n    return text\n", "step.annotation", ConfigurationError, ["out (steps.py, line 1)"]),
        ("def out(text) -> str:\n    return text\n", "step.annotation", ConfigurationError,
         ["out (steps.py, line 1)", "'text'"]),
        ("def out(text: Missing) -> str:\n    return text\n", "job.import", SwarmError, ["steps.py", "Missing"]),
        ("def text(other: str) -> str:\n    return other\n", "step.is_column", DataError, ["text (steps.py, line 1)"]),
        ("def a(text: str) -> str:\n    return text\n\ndef out(a: int) -> str:\n    return ''\n", "step.graph",
         ConfigurationError, ["out", "a", "steps.py"]),
        ("_a = 1\n", "step.none", ConfigurationError, ["steps.py"]),
        (f"{ASKS}async def out(text: str, judge: Chat) -> str:\n    return await judge(text)\n", "endpoint.missing",
         ConfigurationError, ["out (steps.py, line 3)", "'judge'"]),
        ("from typing import Iterator\n\ndef out(text: str) -> Iterator[str]:\n    yield text\n", "step.signature",
         ConfigurationError, ["out (steps.py, line 3)"]),
    ],
)  # fmt: skip
def test_a_module_that_makes_no_job_is_refused(
    code: str, expected: str, kind: type[SwarmError], parts: list[str]
) -> None:
    write("in.parquet", {"text": ["a"], "other": ["b"]})
    error = refused(code)
    assert isinstance(error, kind)
    assert error.code == expected
    assert all(part in str(error) for part in parts), str(error)


@pytest.mark.parametrize(
    ("options", "expected", "option", "parts"),
    [
        ({"output_columns": ["secnod"]}, "step.unknown", "output_columns", ["'secnod'", "'second'"]),
        ({"output_columns": ["second", "second"]}, "column.duplicate", "output_columns", ["'second'"]),
        ({"keep": ["frist"]}, "step.unknown", "keep", ["'first'"]),
        ({"recompute": ["frist"]}, "step.unknown", "recompute", ["'first'"]),
        ({"input_columns": ["number"]}, "step.no_parameter", "input_columns", ["'number'"]),
        ({"job_kwargs": {"tone": "kind"}}, "job.unknown_field", "job_kwargs", ["'tone'"]),
        ({"job_kwargs": {"first": "A"}}, "job.unknown_field", "job_kwargs", ["'first'", "step"]),
        ({"endpoints": ["juge=http://127.0.0.1:9/v1"]}, "model.not_asked", "endpoints", ["'juge'"]),
        ({"models": ["juge=large"]}, "model.not_asked", "models", ["'juge'"]),
        ({"native_backend": True}, "job.no_method", "native_backend", []),
    ],
)
def test_options_that_name_what_is_not_there_are_refused(
    options: dict[str, Any], expected: str, option: str, parts: list[str]
) -> None:
    write("in.parquet", {"text": ["a"], "missing": ["b"], "number": [1]})
    error = refused(TWO, **options)
    assert (error.code, error.option) == (expected, option)
    assert all(part in str(error) for part in parts), str(error)


@pytest.mark.parametrize(
    ("option", "value"),
    [("keep", "answer"), ("recompute", "answer"), ("models", "judge=large"), ("api_key_files", "judge=key")],
)
def test_options_of_steps_are_refused_for_a_class(option: str, value: str) -> None:
    write("in.parquet", {"text": ["a"]})
    with pytest.raises(ConfigurationError) as error:
        run(make_spec({"input": "in.parquet", "output": "out.parquet", option: [value]}))
    assert (error.value.code, error.value.option) == ("option.conflict", option)


@pytest.mark.parametrize("option", ["models", "api_key_files"])
def test_a_value_without_a_name_is_refused_where_one_is_needed(option: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        make_spec({"input": "in.parquet", "output": "out.parquet", option: ["large"]})
    assert (error.value.code, error.value.option) == ("option.invalid", option)


# Models.


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_a_chain_over_two_models_asks_each_once_for_each_row(engine: str) -> None:
    write("in.parquet", {"question": QUESTIONS})
    with serving(echo, models=["small"]) as first, serving(grade, models=["big"]) as second:
        submit(
            CHAIN, data_backend=engine, endpoints=[first.url, f"judge={second.url}"], keep=["answer"],
            models=["judge=big"],
        )  # fmt: skip
    assert rows("out.parquet") == [
        {"question": question, "score": 2 * len(question) + 20, "answer": f"<In one sentence: {question}>"}
        for question in QUESTIONS
    ]
    assert sorted(map(last, first.bodies)) == sorted(f"In one sentence: {one}" for one in QUESTIONS)
    assert len(second.bodies) == len(QUESTIONS)
    assert {body["model"] for body in first.bodies} == {"small"}
    assert {(body["model"], body["response_format"]["type"]) for body in second.bodies} == {("big", "json_schema")}
    assert {body["temperature"] for body in first.bodies} == {0}


def test_flags_bind_a_model_by_name_and_a_url_with_an_equals_sign_is_no_name(command: Command) -> None:
    write("in.parquet", {"question": QUESTIONS})
    Path("judge.key").write_text("secret-of-the-judge\n")
    with serving(echo) as first, serving(grade, models=["big", "a=b"]) as second:
        done = command(
            "job", "submit", steps(CHAIN), "--input", "in.parquet", "--output", "out.parquet",
            "--endpoint", f"{first.url}?key=judge", "--endpoint", f"judge={second.url}", "--model", "large",
            "--model", "judge=a=b", "--api-key-file", "judge=judge.key",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert {body["model"] for body in first.bodies} == {"large"}
    assert {body["model"] for body in second.bodies} == {"a=b"}
    assert {one.get("Authorization") for one in first.headers} == {None}
    assert {one.get("Authorization") for one in second.headers} == {"Bearer secret-of-the-judge"}
    assert json.loads(Path(".domyn-swarm/out.parquet/spec.json").read_text())["models"] == ["judge=a=b"]


def test_a_name_may_ask_for_another_model_of_the_same_endpoint() -> None:
    write("in.parquet", {"question": ["why?"]})
    with serving(grade) as server:
        submit(CHAIN, endpoints=[server.url], model=["small", "judge=large"])
    assert [body["model"] for body in server.bodies] == ["small", "large"]


def test_a_class_job_takes_an_equals_sign_as_it_is() -> None:
    write("in.parquet", {"messages": ["hello"]})
    job = "domyn_swarm.jobs:ChatCompletionJob"
    with serving(echo, models=["a=b"]) as server:
        run(spec_for(job, {"input": "in.parquet", "output": "out.parquet", "endpoints": [server.url], "model": "a=b"}))
    assert server.bodies[0]["model"] == "a=b"


def test_a_reply_has_everything_and_a_misfit_is_sent_back_once() -> None:
    write("in.parquet", {"question": ["why?"]})
    code = """
    from domyn_swarm import Chat

    async def out(question: str, chat: Chat) -> dict:
        reply = await chat.reply(question, schema={"type": "object", "properties": {"n": {"type": "integer"}}})
        return {"n": reply.data["n"], "text": reply.text, "finish": reply.finish_reason, "attempts": reply.attempts,
                "tokens": reply.usage["prompt_tokens"], "calls": len(reply.tool_calls), "thoughts": reply.reasoning}
    """
    texts = ['{"n": "many"}', '{"n": 7}']

    async def handler(body: Any) -> web.Response:
        message = {"content": texts[len(server.bodies) - 1], "reasoning_content": "hm"}
        answer = {"choices": [{"message": message, "finish_reason": "stop"}]}
        return web.json_response({**answer, "usage": {"prompt_tokens": 5, "completion_tokens": 2}})

    with serving(handler) as server:
        submit(code, endpoints=[server.url])
    assert rows("out.parquet")[0]["out"] == {
        "n": 7, "text": '{"n": 7}', "finish": "stop", "attempts": 2, "tokens": 10, "calls": 0, "thoughts": "hm",
    }  # fmt: skip
    assert [len(body["messages"]) for body in server.bodies] == [1, 3]


def test_completions_and_embeddings_are_models_too() -> None:
    write("in.parquet", {"text": ["a"]})
    code = """
    from domyn_swarm import Completion, Embedding

    async def more(text: str, writer: Completion) -> str:
        return await writer(text, max_tokens=3)

    async def vector(text: str, embed: Embedding) -> list[float]:
        return await embed(text)
    """

    async def handler(body: Any) -> web.Response:
        if "input" in body:
            return web.json_response({"data": [{"embedding": [1.0, 0.5], "index": 0}]})
        return web.json_response({"choices": [{"text": body["prompt"] + "b", "finish_reason": "length"}]})

    with serving(handler) as server:
        submit(code, endpoints=[server.url])
    assert rows("out.parquet") == [{"text": "a", "more": "ab", "vector": [1.0, 0.5]}]


@pytest.mark.parametrize("request_", ["model='x'", "n=2", "temperature=float('nan')", "schema={'type': 'odd'}"])
def test_a_request_that_no_row_can_send_ends_the_run(request_: str) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    code = f"""
    from domyn_swarm import Chat

    async def out(text: str, chat: Chat) -> str:
        return await chat(text, {request_})
    """
    with serving(echo) as server, pytest.raises(SwarmError) as raised:
        submit(code, endpoints=[server.url])
    assert raised.value.exit_status == 1
    assert not server.bodies
    assert not Path("out.parquet").exists()


# Calls in flight.

PARALLEL = """
from domyn_swarm import Chat

async def left(text: str, chat: Chat) -> str:
    return await chat("left " + text)

async def right(text: str, chat: Chat) -> str:
    return await chat("right " + text)

def both(left: str, right: str) -> str:
    return left + right

async def last(both: str, chat: Chat) -> str:
    return await chat(both)
"""


def test_independent_steps_of_a_row_run_at_the_same_time() -> None:
    write("in.parquet", {"text": ["a"]})
    together = asyncio.Event()

    async def handler(body: Any) -> web.Response:
        if len(server.bodies) == 2:
            together.set()
        await asyncio.wait_for(together.wait(), 20)
        return await echo(body)

    with serving(handler) as server:
        submit(PARALLEL, endpoints=[server.url], max_concurrency=2)
    assert rows("out.parquet") == [{"text": "a", "last": "<<left a><right a>>"}]


@pytest.mark.parametrize("limit", [1, 3])
def test_the_limit_is_of_calls_and_a_row_that_began_ends_before_others_begin(limit: int) -> None:
    write("in.parquet", {"text": [f"{number:02}" for number in range(20)]})
    in_flight: list[int] = [0]
    begun: list[int] = []

    async def handler(body: Any) -> web.Response:
        in_flight.append(in_flight[-1] + 1)
        open_rows = {text[-2:] for text in map(last, server.bodies) if text[0] in "lr"}
        begun.append(len(open_rows) - sum(text[0] == "<" for text in map(last, server.bodies)))
        await asyncio.sleep(0.002)
        in_flight.append(in_flight[-1] - 1)
        return await echo(body)

    with serving(handler) as server:
        submit(PARALLEL, endpoints=[server.url], max_concurrency=limit)
    assert [row["last"] for row in rows("out.parquet")] == [f"<<left {n:02}><right {n:02}>>" for n in range(20)]
    assert max(in_flight) == limit
    assert max(begun) <= limit
    assert Counter(last(body)[0] for body in server.bodies) == {"l": 20, "r": 20, "<": 20}


def test_steps_that_wait_for_nothing_may_be_independent() -> None:
    write("in.parquet", {"n": list(range(300))})
    code = """
    import asyncio

    async def a(n: int) -> int:
        return n + 1

    async def b(n: int) -> int:
        if n % 7 == 0:
            async with asyncio.timeout(20):
                await asyncio.sleep(0)
        return n + 2

    async def c(a: int, n: int) -> int:
        await asyncio.sleep(0)
        return a + n

    def out(a: int, b: int, c: int) -> int:
        return a + b + c
    """
    submit(code, max_concurrency=3)
    assert [row["out"] for row in rows("out.parquet")] == [4 * n + 4 for n in range(300)]


# Failures.


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_a_failure_is_its_steps_and_a_resume_makes_the_missing_calls(engine: str) -> None:
    write("in.parquet", {"question": [f"q{number}" for number in range(10)]})
    code = """
    from domyn_swarm import Chat

    async def answer(question: str, chat: Chat) -> str:
        return await chat(question)

    async def score(answer: str, judge: Chat) -> str:
        return await judge("grade " + answer)

    def shout(answer: str) -> str:
        return answer.upper()
    """

    async def moody(body: Any) -> web.Response:
        if last(body) == "grade <q3>" and not mended:
            return web.json_response({"error": {"message": "no"}}, status=400)
        return await echo(body)

    mended: list[bool] = []
    options = {"data_backend": engine, "keep": ["answer"]}
    with serving(echo) as first, serving(moody) as second:
        options["endpoints"] = [first.url, f"judge={second.url}"]
        result = submit(code, **options)
        assert (result.exit_status, result.failed) == (3, 1)
        assert rows("out.parquet")[3] == {"question": "q3", "score": None, "shout": "<Q3>", "answer": "<q3>"}
        ((kind, message, attempts),) = failures()
        assert (kind, attempts) == ("EndpointError", 1)
        assert message.startswith("score: ")
        mended.append(True)
        first.bodies.clear()
        second.bodies.clear()
        assert submit(code, **options).exit_status == 0
    assert list(map(last, second.bodies)) == ["grade <q3>"]
    assert rows("out.parquet")[3] == {
        "question": "q3", "score": "<grade <q3>>", "shout": "<Q3>", "answer": "<q3>",
    }  # fmt: skip


def test_a_row_that_is_tried_again_calls_no_step_twice() -> None:
    write("in.parquet", {"text": ["a", "b"]})
    code = """
    from domyn_swarm import Chat

    TRIES = []

    async def answer(text: str, chat: Chat) -> str:
        return await chat(text)

    async def flaky(answer: str) -> str:
        TRIES.append(answer)
        if TRIES.count(answer) < 3:
            raise RuntimeError("not yet")
        return answer + "!"
    """
    with serving(echo) as server:
        submit(code, endpoints=[server.url])
    assert sorted(map(last, server.bodies)) == ["a", "b"]
    assert [row["flaky"] for row in rows("out.parquet")] == ["<a>!", "<b>!"]


def test_an_error_of_a_plain_step_is_not_tried_again_and_names_all_that_failed() -> None:
    write("in.parquet", {"text": ["7", "x"]})
    code = """
    CALLS = []

    def number(text: str) -> int:
        with open("calls", "a") as file:
            file.write(text)
        return int(text)

    async def other(text: str) -> str:
        return {"7": "seven"}[text]

    def fine(text: str) -> str:
        return text
    """
    result = submit(code, retries=0)
    assert result.failed == 1
    assert rows("out.parquet") == [
        {"text": "7", "number": 7, "other": "seven", "fine": "7"},
        {"text": "x", "number": None, "other": None, "fine": "x"},
    ]
    ((kind, message, attempts),) = failures()
    assert (kind, attempts) == ("KeyError", 1)
    assert message == "other: 'x' (number failed, too)"
    assert Path("calls").read_text() == "7x"


def test_a_value_that_does_not_fit_its_annotation_is_its_rows_failure() -> None:
    write("in.parquet", {"text": ["1", "x"]})
    submit('def out(text: str) -> int:\n    return int(text) if text != "x" else text\n')
    assert [row["out"] for row in rows("out.parquet")] == [1, None]
    assert [kind for kind, _, _ in failures()] == ["OutputError"]


# Changes of the code.


def test_comments_and_formatting_change_nothing() -> None:
    write("in.parquet", {"question": ["why?"]})
    with serving(grade) as server:
        submit(CHAIN, endpoints=[server.url])
        asked = len(server.bodies)
        same = CHAIN.replace('    """What is asked."""\n', "    # what is asked\n").replace("=0)", " = 0)")
        assert submit(same, endpoints=[server.url]).exit_status == 0
        assert len(server.bodies) == asked


def test_helpers_and_constants_that_a_step_uses_belong_to_it() -> None:
    write("in.parquet", {"text": ["a"]})
    code = """
    END = ["!"]

    def _helper(text: str) -> str:
        return text + END[0]

    def out(text: str) -> str:
        return _helper(text)

    def _other() -> str:
        return "unused"
    """
    submit(code)
    assert submit(code.replace("unused", "changed")).done_now == 0
    for old, new, made in (('"!"', '"?"', "a?"), ("text + END", "END", "!")):
        assert submit(code.replace(old, new)).done_now == 1
        assert rows("out.parquet") == [{"text": "a", "out": made}]


# A starter job, and the steps in view.


def test_a_new_job_of_steps_runs_by_the_command_that_is_printed(command: Command) -> None:
    made = command("init", "job", "my_steps.py", "--steps")
    line = "domyn-swarm job submit my_steps.py --input my_steps.parquet --output out/my_steps.parquet --endpoint demo"
    assert made.stdout.endswith(f"Run it with:\n\n  {line}\n")
    assert command(*line.split()[1:]).returncode == 0
    assert list(rows("out/my_steps.parquet")[0]) == ["text", "verdict"]


def test_the_graph_shows_steps_and_models_between_the_rows_and_what_applies_them(command: Command) -> None:
    shown = command("job", "graph", steps(CHAIN), "--model", "judge=big", "--json")
    nodes = {node["name"]: node for node in json.loads(shown.stdout)["nodes"]}
    assert nodes["prompt"]["inputs"] == ["batches"]
    assert nodes["answer"]["inputs"] == ["prompt", "model chat"]
    assert nodes["score"]["inputs"] == ["batches", "answer", "model judge"]
    assert nodes["model judge"]["value"] == "big"
    assert "score" in nodes["transformed"]["inputs"]


def test_the_history_of_a_row_names_the_step_of_each_request(command: Command) -> None:
    write("in.parquet", {"question": ["why?"]})
    with serving(grade) as server:
        submit(CHAIN, endpoints=[server.url])
    shown = command("job", "row", ".domyn-swarm/out.parquet", "0").stdout
    assert "POST chat/completions of step answer" in shown
    assert "POST chat/completions of step score" in shown


# On Ray.


@pytest.mark.stress
def test_steps_run_in_ray_workers() -> None:
    write("in.parquet", {"question": [f"q{number}" for number in range(40)]})
    with serving(echo) as first, serving(grade) as second:
        submit(CHAIN, data_backend="ray", endpoints=[first.url, f"judge={second.url}"], keep=["answer"])
    found = sorted(rows("out.parquet"), key=lambda row: int(row["question"][1:]))
    assert [row["answer"] for row in found] == [f"<In one sentence: q{number}>" for number in range(40)]
    assert [row["score"] for row in found] == [len(f"q{n} <In one sentence: q{n}>") for n in range(40)]
    assert (len(first.bodies), len(second.bodies)) == (40, 40)
