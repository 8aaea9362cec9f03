"""What an answer says, on a server of its own process: which texts count, which are a row's failure, what is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from domyn_swarm import RunResult
from domyn_swarm.cli.main import app
from tests.conftest import rows, write
from tests.servers.modes import Modes, playing
from tests.test_completion_jobs import COMPLETION, answers, failures, submit

ANSWER = {"content": "the answer"}


Asked = Callable[..., tuple[RunResult, int]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modes]:
    with playing("choices_in_turn", tmp_path_factory.mktemp("server") / "requests.jsonl") as server:
        yield server


@pytest.fixture
def asked(server: Modes) -> Asked:
    """Run rows that the server answers with these choices, one for each row or several in turn.

    How the run ended, and after how many requests.
    """

    def submitted(*choices: Any, **options: Any) -> tuple[RunResult, int]:
        server.forget()
        told = [choice if isinstance(choice, list) else [choice] for choice in choices]
        write("in.parquet", {"item": [json.dumps(one) for one in told]})
        options = {"max_concurrency": 1, "retries": 2, "job_kwargs": {"messages_as": "text"}, **options}
        return submit(server.url, **options), len(server.bodies())

    return submitted


def message(finish_reason: str | None = "stop", **said: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", **said}, "finish_reason": finish_reason}


# Which texts count.


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_empty_texts_are_failures_by_their_finish_reason_on_every_engine(asked: Asked, engine: str) -> None:
    choices = [
        message("content_filter", content=""),
        message("length", content="", reasoning_content="thinking"),
        message("stop", content="ok"),
    ]
    result, requests = asked(*choices, data_backend=engine)
    assert (result.done_now, result.failed, result.exit_status) == (1, 2, 3)
    assert answers() == [None, None, "ok"]
    assert failures() == [
        ("EndpointError", "The answer has no text (finish_reason 'content_filter').", 1),
        ("EndpointError", "The answer has no text (finish_reason 'length'), only 8 characters of reasoning.", 1),
    ]
    assert requests == 3


@pytest.mark.parametrize(
    ("choice", "requests"),
    [
        (message("length", content=" \n"), 1),
        (message("SAFETY", content=""), 1),
        (message("tool_calls", content=""), 1),
        (message("content_filter", content=None), 1),
        (message("length", content=[]), 1),
        (message("length", content=[{"type": "thinking", "thinking": "hm"}]), 1),
        (message("stop", content=None, refusal="I can't."), 1),
        (message("stop", content="", refusal="I can't."), 1),
        (message("stop", content=[{"type": "refusal", "refusal": "I can't."}]), 1),
        (message("abort", content=""), 3),
        (message("abort", content=None), 3),
        (message("error", content=""), 3),
        (message("error", content="half an ans"), 3),
        (message(None, content=None), 3),
        ({**message("stop", content="half an ans"), "error": {"code": 502, "message": "upstream"}}, 3),
        ({**message(None, content=""), "error": {"code": 400, "message": "no"}}, 1),
        ({**message("error", content=""), "error": "it broke"}, 3),
        ({"finish_reason": "stop"}, 1),
    ],
    ids=str,
)
def test_what_is_no_text_is_its_rows_failure_and_is_asked_again_where_that_can_help(
    asked: Asked, choice: dict[str, Any], requests: int
) -> None:
    result, made = asked(choice)
    assert (result.failed, made) == (1, requests)
    ((kind, said, attempts),) = failures()
    assert (kind, attempts) == ("EndpointError", requests)
    if words := choice.get("message", {}).get("refusal"):
        assert said == f"The answer has no text (finish_reason 'stop'), it refuses: {words}."


@pytest.mark.parametrize("finish_reason", ["stop", "STOP", "end_turn", "", None])
def test_an_empty_text_is_an_answer_if_the_model_ended_with_it_by_itself(
    asked: Asked, finish_reason: str | None
) -> None:
    result, _ = asked(message(finish_reason, content=""))
    assert (result.failed, answers()) == (0, [""])


def test_a_text_that_was_cut_off_is_an_answer(asked: Asked) -> None:
    asked(message("length", content="half an ans"), output_columns=["answer", "finish_reason"])
    assert [(row["answer"], row["finish_reason"]) for row in rows("out.parquet")] == [("half an ans", "length")]


def test_an_answer_that_broke_off_is_asked_for_again_and_attempts_count_that(asked: Asked) -> None:
    told = [message("abort", content=""), message("stop", content="ok")]
    result, requests = asked(told, output_columns=["answer", "attempts"])
    assert (result.failed, requests) == (0, 2)
    assert [(row["answer"], row["attempts"]) for row in rows("out.parquet")] == [("ok", 2)]


def test_facts_alone_need_no_text(asked: Asked) -> None:
    asked(message("content_filter", content=""), output_columns=["finish_reason"])
    assert [row["finish_reason"] for row in rows("out.parquet")] == ["content_filter"]


@pytest.mark.parametrize(("reason", "failed"), [("length", 1), ("content_filter", 1), ("stop", 0)])
def test_the_texts_of_completions_are_judged_alike(reason: str, failed: int) -> None:
    body = json.dumps({"choices": [{"text": "", "finish_reason": reason}]})
    write("in.parquet", {"item": ["a"]})
    with playing("raw", text=body) as server:
        assert submit(server.url, COMPLETION).failed == failed


# Parts and reasoning.

TEXT = {"type": "text", "text": "the answer"}


@pytest.mark.parametrize(
    "said",
    [
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, TEXT]},
        {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, TEXT]},
        {"content": [{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "the "}, {"text": "answer"}]},
        {"content": ["the ", "answer"], "thinking": "hm"},
        {"content": TEXT, "reasoning": {"content": "hm"}},
        {**ANSWER, "reasoning_content": "hm"},
        {**ANSWER, "reasoning": "hm", "reasoning_content": ""},
        {**ANSWER, "thinking": "hm"},
        {**ANSWER, "reasoning_text": "hm"},
        {**ANSWER, "reasoning_content": [{"type": "text", "text": "hm"}]},
        {**ANSWER, "reasoning_details": [{"type": "reasoning.text", "text": "h"}, {"summary": "m"}]},
        {**ANSWER, "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "x"}]},
    ],
    ids=str,
)
def test_the_text_is_the_answer_and_the_thinking_is_the_reasoning(asked: Asked, said: dict[str, Any]) -> None:
    asked(message(**said), output_columns=["answer", "reasoning"])
    assert [(row["answer"], row["reasoning"]) for row in rows("out.parquet")] == [("the answer", "hm")]


def test_thoughts_in_front_of_a_text_stay_there_and_are_the_reasoning_too(asked: Asked) -> None:
    asked(message(content="<think>\nhm\n</think>\nyes"), output_columns=["answer", "reasoning"])
    assert [(row["answer"], row["reasoning"]) for row in rows("out.parquet")] == [("<think>\nhm\n</think>\nyes", "hm")]


# What is read, and what is shown of what is not.


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_half_of_a_surrogate_pair_costs_one_request_and_no_row(engine: str) -> None:
    body = '{"choices": [{"message": {"content": "half \\ud83d"}, "logprobs": NaN, "seed": 123456789012345678901}]}'
    write("in.parquet", {"item": ["a"]})
    with playing("raw", text=f"\ufeff{body}") as server:
        result = submit(server.url, data_backend=engine)
        assert len(server.bodies()) == 1
    assert (result.failed, answers()) == (0, ["half \ufffd"])


def test_a_page_in_place_of_an_answer_is_shown_in_the_failure_and_in_the_rows_story(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("in.parquet", {"item": ["a"]})
    with playing("raw", text="<title>Please sign in</title>" + "x" * 500, type="text/html") as server:
        submit(server.url, retries=1)
    ((_, said, _),) = failures()
    app(["job", "row", ".domyn-swarm/out.parquet", "0"], standalone_mode=False)
    shown = capsys.readouterr().out
    for text in (said, shown):
        assert f"(text/html): <title>Please sign in</title>{'x' * 271}…" in text
