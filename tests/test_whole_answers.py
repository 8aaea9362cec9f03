"""All that an answer holds as output columns: calls of tools, refusals, log probabilities, the answer itself."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web

from domyn_swarm.errors import ConfigurationError
from tests.conftest import rows, table, write
from tests.test_chat_jobs import MULTI_TURN
from tests.test_completion_jobs import CHAT, COMPLETION, answers, failures, last, submit
from tests.test_endpoint import answering, serving

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
LOGPROBS = {"content": [{"token": "yes", "logprob": -0.25, "bytes": [121], "top_logprobs": []}]}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
FULL = {
    "id": "r1",
    "model": "large-2024",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": LOGPROBS,
            "message": {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": [CALL]},
        }
    ],
    "usage": USAGE,
    "more": {"ü": [1, None]},
}


def choice(reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"finish_reason": reason, "message": {"role": "assistant", "content": None, **message}}


def ask(choices: Any, columns: list[str], job: str = CHAT, **options: Any) -> int:
    """Run one row over a server that answers with `choices`, or with a body; how many requests it got."""
    body = choices if isinstance(choices, dict) else {"choices": choices, "usage": USAGE}
    write("in.parquet", {"item": ["hello"]})
    with serving(answering(lambda: web.json_response(body))) as server:
        submit(server.url, job, output_columns=columns, **{"retries": 3, **options})
    return len(server.bodies)


def only() -> dict[str, Any]:
    (row,) = rows("out.parquet")
    return {name: value for name, value in row.items() if name != "item"}


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_every_part_of_an_answer_may_be_a_column(engine: str) -> None:
    json_columns = ["message", "tool_calls", "logprobs", "response"]
    plain = ["answer", "model", "refusal", "cached_tokens", "reasoning_tokens"]
    ask(FULL, [*json_columns, *plain], data_backend=engine)
    row = only()
    message = FULL["choices"][0]["message"]  # type: ignore[index]
    assert [json.loads(row.pop(name)) for name in json_columns] == [message, [CALL], LOGPROBS, FULL]
    assert row == {"answer": "yes", "model": "large-2024", "refusal": None, "cached_tokens": 5, "reasoning_tokens": 2}


def test_parts_that_an_answer_lacks_are_null_and_their_columns_have_types_all_the_same() -> None:
    names = ["tool_calls", "logprobs", "refusal", "model", "cached_tokens", "reasoning_tokens"]
    ask({"choices": [{"message": {"content": "yes", "tool_calls": []}}]}, ["answer", *names])
    assert only() == {"answer": "yes", **dict.fromkeys(names)}
    schema = table("out.parquet").schema
    kinds = [schema.field(name).type for name in names]
    assert [pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in kinds] == [True] * 4 + [False] * 2
    assert kinds[4:] == [pa.int64(), pa.int64()]


@pytest.mark.parametrize(
    ("usage", "cached", "reasoning"),
    [
        ({"prompt_cache_hit_tokens": 4}, 4, None),
        ({"cache_read_input_tokens": 3, "reasoning_tokens": 1}, 3, 1),
        ({"cached_tokens": 0, "completion_tokens_details": None}, 0, None),
        ({"prompt_tokens_details": {"cached_tokens": "x"}}, None, None),
        ([], None, None),
    ],
)
def test_cached_and_reasoning_tokens_are_found_where_servers_put_them(usage: Any, cached: Any, reasoning: Any) -> None:
    ask({"choices": [choice(content="a")], "usage": usage}, ["cached_tokens", "reasoning_tokens"])
    assert only() == {"cached_tokens": cached, "reasoning_tokens": reasoning}


def test_with_several_choices_what_each_has_is_a_list_and_what_the_answer_has_is_not() -> None:
    two = [choice(content="a"), choice("tool_calls", tool_calls=[CALL])]
    ask(two, ["answer", "tool_calls", "cached_tokens", "model"], job_kwargs={"request": {"n": 2}})
    assert only() == {
        "answer": ["a", None],
        "tool_calls": [None, json.dumps([CALL], separators=(",", ":"))],
        "cached_tokens": 5,
        "model": None,
    }


# What a model says in place of a text.


@pytest.mark.parametrize("holder", ["tool_calls", "message", "response"])
@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [CALL]},
        {"tool_calls": [CALL], "content": ""},
        {"function_call": {"name": "weather", "arguments": "{}"}},
    ],
    ids=["null", "empty", "older"],
)
def test_a_call_of_a_tool_is_an_answer_where_a_column_holds_it(holder: str, message: dict[str, Any]) -> None:
    requests = ask([choice("tool_calls", **message)], ["answer", holder], job_kwargs={"request": {"tools": TOOLS}})
    row = only()
    assert (requests, row["answer"]) == (1, None)
    assert "weather" in row[holder]


def test_a_call_of_a_tool_fails_its_row_where_only_a_text_was_asked_for_and_says_which_column_takes_it() -> None:
    requests = ask([choice("tool_calls", tool_calls=[CALL])], ["answer"], job_kwargs={"request": {"tools": TOOLS}})
    assert (requests, answers()) == (1, [None])
    ((kind, message, _),) = failures()
    assert kind == "EndpointError"
    assert "weather" in message
    assert "tool_calls" in message


def test_calls_alone_need_no_text() -> None:
    ask([choice("tool_calls", tool_calls=[CALL])], ["tool_calls"])
    assert json.loads(only()["tool_calls"]) == [CALL]


def test_a_refusal_is_an_answer_where_a_column_holds_it() -> None:
    assert ask([choice(refusal="no, thanks")], ["answer", "refusal"]) == 1
    assert only() == {"answer": None, "refusal": "no, thanks"}


def test_no_text_and_nothing_in_its_place_fails_the_row_whatever_columns_there_are() -> None:
    ask([choice("length")], ["answer", "refusal", "tool_calls", "message", "response"], retries=0)
    assert [kind for kind, _, _ in failures()] == ["EndpointError"]


def test_an_answer_that_broke_off_is_none_whatever_columns_there_are() -> None:
    ask([choice("error", tool_calls=[CALL])], ["answer", "tool_calls"], retries=0)
    assert [kind for kind, _, _ in failures()] == ["EndpointError"]


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def test_a_call_stands_beside_data_that_a_schema_describes() -> None:
    said = iter([choice("tool_calls", tool_calls=[CALL]), choice(content='{"city": "Rome"}')])
    write("in.parquet", {"item": ["a", "b"]})
    with serving(answering(lambda: web.json_response({"choices": [next(said)]}))) as server:
        submit(
            server.url, output_columns=["city", "whole", "tool_calls"], max_concurrency=1,
            job_kwargs={"schema": SCHEMA, "request": {"tools": TOOLS}},
        )  # fmt: skip
    assert len(server.bodies) == 2
    first, second = rows("out.parquet")
    assert (first["city"], first["whole"], json.loads(first["tool_calls"])) == (None, None, [CALL])
    assert (second["city"], second["whole"], second["tool_calls"]) == ("Rome", {"city": "Rome"}, None)


def test_a_second_answer_counts_the_tokens_of_both_and_is_the_response() -> None:
    said = iter(["nonsense", '{"city": "Rome"}'])

    def response() -> web.Response:
        text = next(said)
        return web.json_response({"id": text, "choices": [choice(content=text)], "usage": USAGE})

    write("in.parquet", {"item": ["a"]})
    with serving(answering(response)) as server:
        names = ["answer", "prompt_tokens", "cached_tokens", "reasoning_tokens", "response", "attempts"]
        submit(server.url, output_columns=names, job_kwargs={"schema": SCHEMA})
    row = only()
    assert (row["prompt_tokens"], row["cached_tokens"], row["reasoning_tokens"], row["attempts"]) == (14, 10, 4, 2)
    assert json.loads(row["response"]) == {
        "id": '{"city": "Rome"}', "choices": [choice(content='{"city": "Rome"}')], "usage": USAGE
    }  # fmt: skip


def test_a_completion_has_the_parts_that_apply_to_it() -> None:
    body = {"model": "m", "choices": [{"text": "x", "logprobs": {"tokens": ["x"]}}], "usage": USAGE}
    ask(body, ["text", "logprobs", "response", "model", "cached_tokens"], COMPLETION)
    row = only()
    assert (json.loads(row.pop("logprobs")), json.loads(row.pop("response"))) == ({"tokens": ["x"]}, body)
    assert row == {"text": "x", "model": "m", "cached_tokens": 5}
    ask(body, ["message"], COMPLETION, output="other.parquet")  # a name like any other
    assert rows("other.parquet")[0]["message"] == "x"


def test_names_that_are_almost_those_of_parts_are_refused_unless_they_are_ordinary_words() -> None:
    ask([choice(content="yes")], ["messages", "tool_calls"])
    assert only() == {"messages": "yes", "tool_calls": None}
    for name in ("tool_call", "logprob", "cached_token"):
        with pytest.raises(ConfigurationError) as raised:
            ask([choice(content="yes")], [name], output="refused.parquet")
        assert (raised.value.code, raised.value.column) == ("output_columns.unknown", name)


# Request parameters of a row.


async def echo(body: Any) -> web.Response:
    return web.json_response({"model": body["model"], "choices": [choice(content=f"<{last(body)}>")]})


def parameters_sent(values: Any, job: str = CHAT, **options: Any) -> list[Any]:
    """What requests hold beside their content, with `values` as the column `params`."""
    params = values if isinstance(values, pa.Array) else pa.array(values)
    write("in.parquet", pa.table({"item": pa.array(["hello"] * len(params)), "params": params}))
    kwargs = {"request_column": "params", **options.pop("job_kwargs", {})}
    with serving(
        echo if job != COMPLETION else answering(lambda: web.json_response({"choices": [{"text": "x"}]}))
    ) as s:
        submit(s.url, job, max_concurrency=1, job_kwargs=kwargs, **options)
    return [{name: value for name, value in body.items() if name not in ("messages", "prompt")} for body in s.bodies]


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_the_parameters_of_a_row_are_merged_over_those_of_all(engine: str) -> None:
    structs = [
        {"temperature": 0.5, "stop": ["\n"], "model": None, "tools": None},
        {"temperature": None, "stop": None, "model": "large", "tools": json.dumps(TOOLS)},
        None,
    ]
    sent = parameters_sent(structs, data_backend=engine, job_kwargs={"request": {"temperature": 1, "seed": 7}})
    assert sent == [
        {"model": "small", "temperature": 0.5, "seed": 7, "stop": ["\n"]},
        {"model": "large", "temperature": 1, "seed": 7, "tools": TOOLS},
        {"model": "small", "temperature": 1, "seed": 7},
    ]
    assert answers() == ["<hello>"] * 3


def test_the_parameters_of_a_row_may_be_json_text() -> None:
    texts = ['{"max_tokens": 5, "stop": null, "extra_body": {"top_k": 3}}', "{}", None, "null"]
    assert parameters_sent(texts) == [
        {"model": "small", "max_tokens": 5, "stop": None, "top_k": 3},
        *[{"model": "small"}] * 3,
    ]


@pytest.mark.parametrize("job", [MULTI_TURN, COMPLETION])
def test_other_jobs_take_them_too(job: str) -> None:
    column = "conversation" if job == MULTI_TURN else "completion"
    assert parameters_sent([{"seed": 1}, {"seed": 2}], job, output_columns=[column]) == [
        {"model": "small", "seed": 1},
        {"model": "small", "seed": 2},
    ]


def test_they_stand_beside_a_prompt_over_columns() -> None:
    write("in.parquet", {"a": ["x"], "b": ["y"], "params": ['{"seed": 1}']})
    kwargs = {"prompt": "{a}{b}", "request_column": "params"}
    with serving(echo) as server:
        submit(server.url, input_columns=["a", "b"], job_kwargs=kwargs)
        submit(server.url, input_columns=[], job_kwargs=kwargs, output="other.parquet")
    assert [(body["seed"], last(body)) for body in server.bodies] == [(1, "xy")] * 2


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"messages": []}', "messages"),
        ('{"stream": true}', "stream"),
        ('{"extra_body": {"stream": true}}', "stream"),
        ('{"n": 3}', "`n`"),
        ("[1]", "no object"),
        ("0.5", "no object"),
        ("{", "no JSON"),
        ('{"temperature": NaN}', "NaN"),
    ],
)
def test_parameters_that_cannot_be_used_fail_their_row_alone_and_send_nothing(value: str, words: str) -> None:
    assert parameters_sent([value, '{"seed": 1}'], retries=3) == [{"model": "small", "seed": 1}]
    ((kind, message, attempts),) = failures()
    assert (kind, attempts) == ("ItemError", 1)
    assert "'params'" in message
    assert words in message


def test_a_row_may_ask_for_as_many_choices_as_it_likes_where_there_are_several_anyway() -> None:
    sent = parameters_sent(['{"n": 3}', None], job_kwargs={"request": {"n": 2}})
    assert [body["n"] for body in sent] == [3, 2]


def test_a_model_that_only_one_row_names_is_that_rows_failure_when_the_server_does_not_have_it() -> None:
    async def handler(body: Any) -> web.Response:
        if body["model"] not in ("small", "lora"):
            error = {"message": f"The model `{body['model']}` does not exist.", "code": 404}
            return web.json_response({"error": error}, status=404)
        return await echo(body)

    models = [*[{"model": f"none-{number}"} for number in range(5)], {"model": "lora"}, {"model": None}]
    write("in.parquet", {"item": list("abcdefg"), "params": models})
    with serving(handler) as server:
        result = submit(
            server.url, max_concurrency=1, output_columns=["answer", "model"], job_kwargs={"request_column": "params"}
        )
    assert (result.failed, result.done_now) == (5, 2)
    assert [(row["answer"], row["model"]) for row in rows("out.parquet")][5:] == [("<f>", "lora"), ("<g>", "small")]


def test_a_column_of_parameters_alone_is_no_content() -> None:
    write("in.parquet", {"item": ["a"]})
    with pytest.raises(ConfigurationError) as raised:
        submit("demo", job_kwargs={"request_column": "item"})
    assert (raised.value.code, raised.value.column) == ("column.unnamed", "item")
