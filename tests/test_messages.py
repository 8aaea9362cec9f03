"""Messages as parquet files hold them: what is sent for a row, and what no request can be made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from tests.conftest import write
from tests.servers.modes import Modes, playing
from tests.test_completion_jobs import failures, submit

USER = {"role": "user", "content": "hi"}
STRINGS = pa.list_(pa.map_(pa.string(), pa.string()))


Sent = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modes]:
    with playing("plain", tmp_path_factory.mktemp("server") / "requests.jsonl") as server:
        yield server


@pytest.fixture
def sent(server: Modes) -> Sent:
    """The messages that are sent for the rows of `items`; one that fails sends none."""

    def submitted(items: Any, *, engine: str = "pandas", **kwargs: Any) -> list[Any]:
        server.forget()
        write("in.parquet", {"item": items})
        submit(server.url, max_concurrency=1, retries=0, data_backend=engine, job_kwargs=kwargs, resume=False)
        return [body["messages"] for body in server.bodies()]

    return submitted


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_what_was_never_set_is_not_sent(sent: Sent, engine: str) -> None:
    picture = {"type": "image_url", "text": None, "image_url": {"url": "data:", "detail": None}}
    text = {"type": "text", "text": "look", "image_url": {"url": None, "detail": None}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    nothing = {"tool_calls": [], "audio": {"id": None}, "name": None}
    rows = [
        [{"role": "user", "content": [text, picture], **nothing}],
        [{"role": "assistant", "content": None, **nothing, "tool_calls": [call]}],
        [{"role": "user", "content": [{**picture, "image_url": {"detail": "low"}}], "audio": {"id": "a"}, "name": "x"}],
    ]
    assert sent(rows, engine=engine)[:2] == [
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "data:"}},
                ],
            }
        ],
        [{"role": "assistant", "tool_calls": [call]}],
    ]


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_messages_may_be_maps(sent: Sent, engine: str) -> None:
    calls = '[{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]'
    maps = [[[("role", "user"), ("content", "hi")], [("role", "assistant"), ("content", None), ("tool_calls", calls)]]]
    assert sent(pa.array(maps, STRINGS), engine=engine) == [
        [USER, {"role": "assistant", "tool_calls": json.loads(calls)}]
    ]


def test_a_call_of_a_function_needs_no_content(sent: Sent) -> None:
    call = {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}
    assert sent([[USER, {**call, "content": None}]]) == [[USER, call]]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (json.dumps([USER]), [USER]),
        (f" {json.dumps({'messages': [USER], 'id': 7})}", [USER]),
        (json.dumps(USER), [USER]),
    ],
)
def test_messages_may_be_json_text(sent: Sent, text: str, messages: list[Any]) -> None:
    assert sent([text]) == [messages]


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": 1}', "[role] x", '[{"role": "user"}]', '[{"content": "x"}]', "[]"])
def test_other_texts_are_texts_whatever_they_hold(sent: Sent, text: str) -> None:
    assert sent([text]) == [[{"role": "user", "content": text}]]


def test_texts_stay_texts_on_request_and_in_a_prompt(sent: Sent) -> None:
    text = json.dumps([USER])
    assert sent([text], messages_as="text") == [[{"role": "user", "content": text}]]
    assert sent([text], prompt="{item}") == [[{"role": "user", "content": text}]]


def test_one_message_and_a_struct_of_messages_are_messages(sent: Sent) -> None:
    assert sent([USER]) == [[USER]]
    assert sent([{"messages": [USER], "source": "x"}]) == [[USER]]


def test_sharegpt_messages_are_read_on_request(sent: Sent) -> None:
    said = [("system", "be brief"), ("human", "hi"), ("gpt", "yes?"), ("observation", "7"), ("user", "go")]
    rows = [[{"from": who, "value": value, "weight": None} for who, value in said]]
    expected = [
        [
            {"role": "system", "content": "be brief"},
            USER,
            {"role": "assistant", "content": "yes?"},
            {"role": "tool", "content": "7"},
            {"role": "user", "content": "go"},
        ]
    ]
    assert sent(rows, messages_as="sharegpt") == expected
    assert sent([{"conversations": rows[0]}], messages_as="sharegpt") == expected
    assert sent([json.dumps(rows[0])], messages_as="sharegpt") == expected
    assert sent(["a text"], messages_as="sharegpt") == [[{"role": "user", "content": "a text"}]]


def test_sharegpt_messages_that_nobody_asked_for_are_failures_that_say_how(sent: Sent) -> None:
    assert sent([[{"from": "human", "value": "hi"}]]) == []
    assert failures()[0][1] == "message 0 has no role, but `from` and `value`: set messages_as to sharegpt"
    assert sent([[{"from": "alien", "value": "hi"}]], messages_as="sharegpt") == []
    assert failures()[0][1].startswith("message 0 is from 'alien', which is none of system, human, ")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": None, "content": None}], "message 0 has no role"),
        ([{"role": "user", "content": None}], "message 0 has no content"),
        ([{"role": "user", "content": [{"type": None, "text": None}]}], "message 0 has no content"),
        ([None, USER], "message 0 is null, not a role and a content"),
        ([{"role": "user", "content": "x", "score": float("nan")}], "the messages hold NaN, which JSON does not have"),
    ],
)
def test_what_is_no_message_is_its_rows_failure(sent: Sent, messages: Any, message: str) -> None:
    assert sent([messages]) == []
    assert failures() == [("ItemError", message, 1)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "is NaN"),
        (float("-inf"), "is -infinity"),
        ([1.0, float("inf")], "holds infinity"),
        ({"a": [float("nan")]}, "holds NaN"),
    ],
)
@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_a_number_that_json_does_not_have_is_refused_like_null(sent: Sent, value: Any, said: str, engine: str) -> None:
    assert sent([value, value], engine=engine, prompt="How much is {item}?") == []
    assert failures()[0] == ("ItemError", f"the prompt needs 'item', which {said}", 1)


def test_numbers_that_json_has_are_sent(sent: Sent) -> None:
    assert sent([Decimal("1.50")], prompt="{item}") == [[{"role": "user", "content": "1.50"}]]
