"""Chat jobs beyond one text in, one text out: prompts over columns, facts beside the answer, whole conversations."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web

from domyn_swarm import RunResult
from domyn_swarm.cli.main import app
from domyn_swarm.edges import on_command_line
from domyn_swarm.errors import ConfigurationError, SwarmError
from tests.conftest import Command, rows, table, tree, write
from tests.test_completion_jobs import answers, echo, failures, last, said, submit
from tests.test_endpoint import Handler, Server, answering, serving

MULTI_TURN = "domyn_swarm.jobs:MultiTurnChatCompletionJob"


def texts(server: Server) -> list[str]:
    """What the requests ask, in the order in which they came."""
    return [last(body) for body in server.bodies]


def prompted(prompt: str, columns: dict[str, Any] | pa.Table, **options: Any) -> list[str]:
    """The texts that are asked for the rows of `columns`, all of which are input columns."""
    write("in.parquet", columns)
    names = list(columns) if isinstance(columns, dict) else columns.column_names
    with serving(echo) as server:
        submit(
            server.url,
            max_concurrency=1,
            **{"input_columns": names, "job_kwargs": {"prompt": prompt}, "retries": 0, **options},
        )
    return texts(server)


def refused(*arguments: str) -> SwarmError:
    """What `job submit` refuses with, having written nothing; `arguments` come after those that every job needs."""
    before = tree()
    with pytest.raises(SwarmError) as raised:
        app(["job", "submit", "--input", "in.parquet", "--output", "out.parquet", *arguments], standalone_mode=False)
    assert raised.value.exit_status == 2
    assert tree() == before
    return raised.value


def kwargs(**fields: Any) -> tuple[str, str]:
    return "--job-kwargs", json.dumps(fields)


# A prompt over columns.


def test_the_command_line_takes_the_input_columns_from_the_prompt(command: Command) -> None:
    write("in.parquet", {"id": [1, 2], "text": ["good day", "bye"], "language": ["French", "Dutch"]})
    with serving(echo) as server:
        done = command(
            "job", "submit", "--input", "in.parquet", "--output", "out.parquet", "--endpoint", server.url,
            "--max-concurrency", "1", *kwargs(prompt="Translate into {language}: {text}"),
        )  # fmt: skip
    assert (done.returncode, done.stderr.count("Error")) == (0, 0)
    assert texts(server) == ["Translate into French: good day", "Translate into Dutch: bye"]
    assert rows("out.parquet") == [
        {"id": 1, "text": "good day", "language": "French", "answer": "<Translate into French: good day>"},
        {"id": 2, "text": "bye", "language": "Dutch", "answer": "<Translate into Dutch: bye>"},
    ]


def test_a_dry_run_shows_the_columns_of_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    write("in.parquet", {"id": [1], "text": ["a"], "language": ["French"]})
    arguments = ["--input", "in.parquet", "--output", "out.parquet", "--dry-run", *kwargs(prompt="{language} {text}")]
    app(["job", "submit", *arguments], standalone_mode=False)
    assert "items      language, text\n" in capsys.readouterr().out


def test_a_prompt_over_one_column_gets_its_value() -> None:
    assert prompted("Shout: {item}!", {"item": ["a", ""]}) == ["Shout: a!", "Shout: !"]


def test_a_prompt_may_use_fewer_columns_than_there_are_and_one_of_them_twice() -> None:
    assert prompted("{b}, {b} and {a}", {"a": ["x"], "b": ["y"], "c": ["z"]}) == ["y, y and x"]


def test_an_input_column_that_is_named_twice_is_one_column() -> None:
    columns = {"item": ["a"]}
    assert prompted("Shout: {item}!", columns, input_columns=["item", "item"]) == ["Shout: a!"]


def test_the_prompt_is_the_users_message_after_the_system_prompt() -> None:
    write("in.parquet", {"item": ["a"]})
    with serving(echo) as server:
        submit(server.url, job_kwargs={"prompt": "Shout: {item}", "system_prompt": "be {loud}"})
    assert server.bodies[0]["messages"] == [
        {"role": "system", "content": "be {loud}"},  # no template
        {"role": "user", "content": "Shout: a"},
    ]


def test_doubled_braces_are_braces_and_those_in_values_are_left_alone() -> None:
    assert prompted('{{"text": "{item}"}}', {"item": ["{item}", "{{}}", "}"]}) == [
        '{"text": "{item}"}',
        '{"text": "{{}}"}',
        '{"text": "}"}',
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a “quoted” text\n", "a “quoted” text\n"),
        (5, "5"),
        (-0.25, "-0.25"),
        (True, "true"),
        (["a", "ü", None], '["a","ü",null]'),
        ({"name": "Zoë", "tags": [1, 2]}, '{"name":"Zoë","tags":[1,2]}'),
        ([dt.date(2024, 2, 29)], '["2024-02-29"]'),
        (dt.date(2024, 2, 29), "2024-02-29"),
        (dt.datetime(2024, 2, 29, 12, 30), "2024-02-29T12:30:00"),
        (dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC), "2024-02-29T12:30:00Z"),
        (dt.time(12, 30), "12:30:00"),
        (Decimal("1.50"), "1.50"),
    ],
    ids=repr,
)
def test_what_is_no_text_is_shown_as_json_and_dates_and_decimals_without_quotes(value: Any, shown: str) -> None:
    assert prompted("<{value}>", {"value": [value]}) == [f"<{shown}>"]


def test_a_null_that_the_prompt_needs_is_its_rows_failure_and_is_not_tried_again() -> None:
    columns = {"text": ["a", None, "c", "d"], "language": ["French", "Dutch", None, "Greek"], "note": [None] * 4}
    assert prompted("{language}: {text}", columns, retries=5) == ["French: a", "Greek: d"]
    assert answers() == ["<French: a>", None, None, "<Greek: d>"]
    assert failures() == [
        ("ItemError", "the prompt needs 'text', which is null", 1),
        ("ItemError", "the prompt needs 'language', which is null", 1),
    ]


def test_an_empty_prompt_is_sent_as_it_is() -> None:
    assert prompted("", {"item": ["a"]}) == [""]


@pytest.mark.parametrize("prompt", ["{", "a { b", "}", "{item", "{item!}", "{item!rr}"])
def test_what_is_no_template_is_refused(prompt: str) -> None:
    write("in.parquet", {"item": ["a"]})
    error = refused("--endpoint", "demo", *kwargs(prompt=prompt))
    assert (error.code, error.option) == ("prompt.template", "prompt")
    assert "{{ and }}" in error.hint


@pytest.mark.parametrize(
    ("prompt", "field"),
    [("{}", "{}"), ("{0}", "{0}"), ("{item.x}", "{item.x}"), ("{item[0]}", "{item[0]}"), ('{"a": 1}', '{"a"}')],
)
def test_a_template_over_what_is_no_column_is_refused(prompt: str, field: str) -> None:
    write("in.parquet", {"item": ["a"]})
    error = refused("--endpoint", "demo", "--input-column", "item", *kwargs(prompt=prompt))
    assert (error.code, error.option) == ("prompt.template", "prompt")
    assert f"holds {field}," in error.message
    assert "{column}" in error.hint


@pytest.mark.parametrize("prompt", ["{item!x}", "{item:03d}", "{item:{width}}"])
def test_a_template_that_no_row_can_fill_is_refused_before_any_row_is_tried(prompt: str) -> None:
    write("in.parquet", {"item": [5]})
    error = refused("--endpoint", "demo", *kwargs(prompt=prompt))
    assert error.code == "prompt.template"


def test_a_prompt_over_a_column_that_is_not_among_the_input_columns_is_refused() -> None:
    write("in.parquet", {"text": ["a"], "language": ["French"]})
    error = refused("--endpoint", "demo", "--input-column", "text", *kwargs(prompt="{language}: {text}"))
    assert (error.code, error.option, error.column) == ("prompt.column", "prompt", "language")
    assert "--input-column language" in on_command_line(error)


def test_a_prompt_over_a_column_that_the_input_lacks_is_refused() -> None:
    write("in.parquet", {"text": ["a"]})
    error = refused("--endpoint", "demo", *kwargs(prompt="{language}: {text}"))
    assert (error.code, error.option, error.column) == ("column.missing", "input_columns", "language")
    assert error.choices == ("text",)


def test_a_conversation_may_start_from_a_prompt() -> None:
    write("in.parquet", {"item": ["a"]})
    with serving(echo) as server:
        submit(server.url, MULTI_TURN, job_kwargs={"prompt": "Say {item}."}, output_columns=["said"])
    assert rows("out.parquet")[0]["said"] == [
        {"role": "user", "content": "Say a."},
        {"role": "assistant", "content": "<Say a.>"},
    ]


# Output columns.

USED = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def full(body: Any) -> web.Response:
    """An answer with all that an answer may have."""
    message = {"role": "assistant", "content": f"<{last(body)}>", "reasoning_content": "hm"}
    return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": USED})


async def answer_in_full(body: Any) -> web.Response:
    return full(body)


def test_facts_about_the_answer_stand_beside_its_text_in_any_order_under_any_name() -> None:
    write("in.parquet", {"item": ["hello"]})
    names = ["attempts", "completion_tokens", "my text", "latency", "finish_reason", "prompt_tokens", "reasoning"]
    with serving(answer_in_full) as server:
        submit(server.url, output_columns=names)
    assert table("out.parquet").column_names == ["item", *names]
    (row,) = rows("out.parquet")
    assert 0 < row.pop("latency") < 60
    assert row == {
        "item": "hello",
        "attempts": 1,
        "completion_tokens": 3,
        "my text": "<hello>",
        "finish_reason": "stop",
        "prompt_tokens": 7,
        "reasoning": "hm",
    }


def test_facts_alone_need_no_column_for_the_text() -> None:
    write("in.parquet", {"item": ["hello"]})
    with serving(answer_in_full) as server:
        submit(server.url, output_columns=["completion_tokens", "finish_reason"])
        submit(server.url, output_columns=["finish_reason"], output="one.parquet")
    assert rows("out.parquet") == [{"item": "hello", "completion_tokens": 3, "finish_reason": "stop"}]
    assert rows("one.parquet") == [{"item": "hello", "finish_reason": "stop"}]


def test_attempts_counts_the_requests_that_the_answer_took() -> None:
    asked: Counter[str] = Counter()

    async def handler(body: Any) -> web.Response:
        asked[last(body)] += 1
        return web.Response(status=500) if last(body) == "twice" and asked["twice"] == 1 else full(body)

    write("in.parquet", {"item": ["once", "twice"]})
    with serving(handler) as server:
        submit(server.url, output_columns=["answer", "attempts"], retries=1)
    assert rows("out.parquet") == [
        {"item": "once", "answer": "<once>", "attempts": 1},
        {"item": "twice", "answer": "<twice>", "attempts": 2},
    ]


@pytest.mark.parametrize(
    ("message", "reasoning"),
    [
        ({"reasoning_content": "as vLLM says it"}, "as vLLM says it"),
        ({"reasoning": "as others do"}, "as others do"),
        ({"reasoning_content": None, "reasoning": "both keys"}, "both keys"),
        ({}, None),
    ],
)
def test_reasoning_goes_by_two_names(message: dict[str, Any], reasoning: str | None) -> None:
    write("in.parquet", {"item": ["hello"]})
    choice = {"message": {"content": "yes", **message}}
    with serving(answering(lambda: web.json_response({"choices": [choice]}))) as server:
        submit(server.url, output_columns=["answer", "reasoning"])
    assert rows("out.parquet") == [{"item": "hello", "answer": "yes", "reasoning": reasoning}]


@pytest.mark.parametrize("usage", [{}, {"usage": None}, {"usage": {}}, {"usage": {"prompt_tokens": None}}])
def test_facts_that_an_answer_does_not_tell_are_null(usage: dict[str, Any]) -> None:
    write("in.parquet", {"item": ["hello"]})
    body = {"choices": [{"message": {"content": "yes"}}], **usage}
    with serving(answering(lambda: web.json_response(body))) as server:
        submit(server.url, output_columns=["answer", "finish_reason", "prompt_tokens", "completion_tokens"])
    assert rows("out.parquet") == [
        {"item": "hello", "answer": "yes", "finish_reason": None, "prompt_tokens": None, "completion_tokens": None}
    ]


@pytest.mark.parametrize("job", ["ChatCompletionJob", "MultiTurnChatCompletionJob"])
def test_two_names_that_are_no_facts_are_refused(job: str) -> None:
    write("in.parquet", {"item": ["hello"]})
    outputs = [f"--output-column={name}" for name in ("answer", "latency", "told")]
    error = refused(f"domyn_swarm.jobs:{job}", "--endpoint", "demo", "--input-column", "item", *outputs)
    assert (error.code, error.option) == ("output_columns.duplicate", "output_columns")
    assert "'answer' and 'told'" in error.message


# Several choices.


def choices(*contents: str) -> web.Response:
    """An answer with a choice for each of `contents`."""
    made = [{"message": {"content": text, "reasoning": f"why {text}"}, "finish_reason": "stop"} for text in contents]
    return web.json_response({"choices": made, "usage": USED})


def test_several_choices_are_a_list_and_so_is_what_each_of_them_tells() -> None:
    write("in.parquet", {"item": ["hello"]})
    with serving(answering(lambda: choices("a", "b"))) as server:
        submit(
            server.url,
            job_kwargs={"request": {"n": 2}},
            output_columns=["answer", "finish_reason", "reasoning", "completion_tokens"],
        )
    assert server.bodies[0]["n"] == 2
    assert rows("out.parquet") == [
        {
            "item": "hello",
            "answer": ["a", "b"],
            "finish_reason": ["stop", "stop"],
            "reasoning": ["why a", "why b"],
            "completion_tokens": 3,
        }
    ]


def test_several_choices_without_any_facts_are_a_list_of_texts() -> None:
    write("in.parquet", {"item": ["hello", "bye"]})
    with serving(answering(lambda: choices("a", "b", "c"))) as server:
        submit(server.url, job_kwargs={"request": {"n": 3}})
    assert answers() == [["a", "b", "c"], ["a", "b", "c"]]
    assert table("out.parquet").schema.field("answer").type == pa.list_(pa.string())


def test_with_several_choices_asked_for_a_single_one_is_a_list_as_well() -> None:
    """Some servers give fewer than they are asked for; the column is one of lists all the same."""

    async def handler(body: Any) -> web.Response:
        return choices("a") if last(body) == "few" else choices("a", "b")

    write("in.parquet", {"item": ["many", "few"]})
    with serving(handler) as server:
        submit(server.url, job_kwargs={"request": {"n": 2}}, retries=0, max_concurrency=1)
    assert answers() == [["a", "b"], ["a"]]


def test_one_choice_that_is_asked_for_by_number_is_a_text() -> None:
    write("in.parquet", {"item": ["hello"]})
    with serving(answering(lambda: choices("a"))) as server:
        submit(server.url, job_kwargs={"request": {"n": 1}})
    assert answers() == ["a"]


# Parameters.


def test_what_stands_in_extra_body_goes_into_the_body_as_with_the_official_client() -> None:
    write("in.parquet", {"item": ["hello"]})
    extra = {"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}}
    with serving(echo) as server:
        submit(server.url, job_kwargs={"request": {"temperature": 0, "extra_body": extra}})
    assert server.bodies == [
        {
            "model": "small",
            "temperature": 0,
            "top_k": 5,
            "chat_template_kwargs": {"enable_thinking": False},
            "messages": [{"role": "user", "content": "hello"}],
        }
    ]


def test_an_extra_body_of_null_is_none() -> None:
    write("in.parquet", {"item": ["hello"]})
    with serving(echo) as server:
        submit(server.url, job_kwargs={"request": {"extra_body": None}})
    assert server.bodies == [{"model": "small", "messages": [{"role": "user", "content": "hello"}]}]


@pytest.mark.parametrize("extra", [["top_k"], "top_k", 5])
def test_an_extra_body_that_is_no_object_is_refused(extra: Any) -> None:
    write("in.parquet", {"item": ["hello"]})
    error = refused("--endpoint", "demo", "--input-column", "item", *kwargs(request={"extra_body": extra}))
    assert (error.code, error.option) == ("request.invalid", "job_kwargs")
    assert "extra_body" in error.message


@pytest.mark.parametrize("name", ["extra_headers", "extra_query", "timeout", "stream", "model", "messages"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["in request", "in extra_body"])
def test_parameters_that_are_not_for_the_request_to_set_are_refused(name: str, *, wrapped: bool) -> None:
    write("in.parquet", {"item": ["hello"]})
    request = {"extra_body": {name: 1}} if wrapped else {name: 1}
    error = refused("--endpoint", "demo", "--input-column", "item", *kwargs(request=request))
    assert error.code == "request.reserved"
    assert f"`request` holds {name}." in error.message


# Conversations.


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def converse(
    conversation: Any, handler: Handler = echo, **options: Any
) -> tuple[RunResult, list[list[dict[str, Any]]], Any]:
    """Run one row; the result, the messages of each request, and the output's conversation."""
    write("in.parquet", {"item": [conversation]})
    with serving(handler) as server:
        options = {"retries": 0, "output_columns": ["conversation"], **options}
        result = submit(server.url, MULTI_TURN, max_concurrency=1, **options)
    return result, [body["messages"] for body in server.bodies], rows("out.parquet")[0].get("conversation")


def test_each_turn_of_the_users_is_answered_in_order_with_the_conversation_so_far() -> None:
    _, requests, conversation = converse([user("a"), user("b"), user("c")])
    assert requests == [
        [user("a")],
        [user("a"), assistant("<a>"), user("b")],
        [user("a"), assistant("<a>"), user("b"), assistant("<b>"), user("c")],
    ]
    assert conversation == [user("a"), assistant("<a>"), user("b"), assistant("<b>"), user("c"), assistant("<c>")]


def test_answers_that_are_given_are_kept_and_not_asked_for_again() -> None:
    _, requests, conversation = converse([user("a"), assistant("given"), user("b")])
    assert requests == [[user("a"), assistant("given"), user("b")]]
    assert conversation == [user("a"), assistant("given"), user("b"), assistant("<b>")]


def test_a_given_answer_may_follow_a_turn_that_has_to_be_answered() -> None:
    _, requests, conversation = converse([user("a"), user("b"), assistant("given")])
    assert requests == [[user("a")]]
    assert conversation == [user("a"), assistant("<a>"), user("b"), assistant("given")]


def test_system_messages_stay_where_they_are_and_the_system_prompt_goes_first() -> None:
    given = [system("be brief"), user("a"), system("be long"), user("b")]
    _, requests, conversation = converse(given, job_kwargs={"system_prompt": "be kind"})
    assert requests[0] == [system("be kind"), system("be brief"), user("a")]
    assert requests[1] == [
        system("be kind"), system("be brief"), user("a"), assistant("<a>"), system("be long"), user("b"),
    ]  # fmt: skip
    assert conversation == [*requests[1], assistant("<b>")]


def test_tool_calls_that_are_given_and_their_results_are_part_of_the_conversation() -> None:
    called = {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "7"}
    _, requests, conversation = converse([user("a"), called, result, user("b")])
    assert requests == [[user("a"), called, result, user("b")]]
    filled = [{"tool_calls": None, "tool_call_id": None, "content": None, **one} for one in (user("a"), called, result)]
    assert conversation[:3] == filled
    assert (conversation[4]["role"], conversation[4]["content"]) == ("assistant", "<b>")


def test_a_text_is_a_conversation_of_one_turn() -> None:
    _, requests, conversation = converse("hello")
    assert requests == [[user("hello")]]
    assert conversation == [user("hello"), assistant("<hello>")]


def test_a_conversation_is_a_list_of_structs() -> None:
    converse("hello")
    message = pa.struct({"role": pa.string(), "content": pa.string()})
    assert table("out.parquet").schema.field("conversation").type == pa.list_(message)


@pytest.mark.parametrize(
    "conversation", [[user("a"), assistant("b")], [system("a")], [user("a"), assistant("b"), system("c")]]
)
def test_a_conversation_without_an_open_turn_is_its_rows_failure(conversation: Any) -> None:
    result, requests, _ = converse(conversation, retries=5)
    assert requests == []
    assert failures() == [("ItemError", "the conversation has no turn of the user's that is not answered already", 1)]
    assert result.exit_status == 3


def test_messages_in_parts_are_answered_and_kept() -> None:
    """Parquet has one type for all contents: where the user's is a list of parts, the assistant's must be one, too."""
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    _, requests, conversation = converse([user(parts)], answering(lambda: said("a cat")))
    assert requests == [[user(parts)]]
    assert (failures() if conversation is None else []) == []
    assert conversation[1]["role"] == "assistant"
    assert conversation[1]["content"][0]["text"] == "a cat"


def test_a_turn_that_fails_fails_the_row_and_no_other_row() -> None:
    async def handler(body: Any) -> web.Response:
        if last(body) == "bad":
            return web.json_response({"error": {"message": "not in this tone"}}, status=400)
        return await echo(body)

    write("in.parquet", {"item": [[user("a"), user("bad"), user("c")], [user("d")]]})
    with serving(handler) as server:
        result = submit(server.url, MULTI_TURN, max_concurrency=1, output_columns=["conversation"], retries=3)
    assert texts(server) == ["a", "bad", "d"]
    assert [row["conversation"] for row in rows("out.parquet")] == [None, [user("d"), assistant("<d>")]]
    assert failures() == [
        ("EndpointError", "POST chat/completions: status 400: not in this tone", 2)
    ]  # the first turn was answered
    assert (result.done_now, result.failed) == (1, 1)


def test_a_turn_without_text_fails_the_row() -> None:
    converse("hello", answering(lambda: said(None, finish_reason="tool_calls")))
    assert failures() == [("EndpointError", "The answer has no text (finish_reason 'tool_calls').", 1)]


def test_a_turn_that_is_tried_again_costs_no_other_turn_a_request() -> None:
    refusals = iter([False, True, False])

    async def handler(body: Any) -> web.Response:
        return web.Response(status=500) if next(refusals) else await echo(body)

    _, requests, conversation = converse([user("a"), user("b")], handler, retries=1)
    assert [messages[-1] for messages in requests] == [user("a"), user("b"), user("b")]
    assert conversation == [user("a"), assistant("<a>"), user("b"), assistant("<b>")]


def test_facts_about_a_conversation_are_the_sums_over_its_answers_and_the_last_ones_reason() -> None:
    replies = iter(
        [
            web.json_response({"choices": [{"message": {"content": "1"}, "finish_reason": "length"}], "usage": USED}),
            web.Response(status=500),
            web.json_response({"choices": [{"message": {"content": "2"}, "finish_reason": "stop"}], "usage": USED}),
        ]
    )
    names = ["attempts", "conversation", "prompt_tokens", "completion_tokens", "finish_reason", "latency"]
    converse([user("a"), user("b")], answering(lambda: next(replies)), retries=1, output_columns=names)
    (row,) = rows("out.parquet")
    assert row.pop("latency") > 0
    assert row == {
        "item": [user("a"), user("b")],
        "attempts": 3,
        "conversation": [user("a"), assistant("1"), user("b"), assistant("2")],
        "prompt_tokens": 14,
        "completion_tokens": 6,
        "finish_reason": "stop",
    }


def test_conversations_go_on_at_the_same_time_and_stay_apart() -> None:
    def conversation(row: int) -> list[dict[str, Any]]:
        return [user(f"{row}.{turn}") for turn in range(row % 4 + 1)]

    def answered(row: int) -> list[dict[str, Any]]:
        return [message for one in conversation(row) for message in (one, assistant(f"<{one['content']}>"))]

    write("in.parquet", {"item": [conversation(row) for row in range(100)]})
    with serving(echo) as server:
        submit(server.url, MULTI_TURN, output_columns=["conversation"])
    assert [row["conversation"] for row in rows("out.parquet")] == [answered(row) for row in range(100)]


@pytest.mark.parametrize("options", [{"request": {"messages": []}}, {"schema": {}}, {"prompt": 5}])
def test_a_conversation_takes_no_fields_that_it_does_not_know(options: dict[str, Any]) -> None:
    write("in.parquet", {"item": ["hello"]})
    error = refused(MULTI_TURN, "--endpoint", "demo", "--input-column", "item", *kwargs(**options))
    assert isinstance(error, ConfigurationError)
    assert error.option == "job_kwargs"
