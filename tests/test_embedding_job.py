"""EmbeddingJob: a vector for each text, many texts in a request, and no text's trouble is another's."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web

from domyn_swarm import RunResult
from domyn_swarm.errors import ConfigurationError
from tests.conftest import rows, table, tree, write
from tests.servers.modes import playing
from tests.test_completion_jobs import failures, submit
from tests.test_endpoint import Handler, Server, answering, serving

EMBEDDING = "domyn_swarm.jobs:EmbeddingJob"


def vector(text: str) -> list[float]:
    """What the server here makes of a text: numbers that 32 bits hold exactly, and no two texts share."""
    return [float(len(text)), sum(map(ord, text)) / 8, -0.5]


def as_base64(numbers: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def embedded(texts: list[str], show: Callable[[list[float]], Any] = list) -> list[dict[str, Any]]:
    return [{"index": index, "embedding": show(vector(text))} for index, text in enumerate(texts)]


async def embed(body: Any) -> web.Response:
    return web.json_response({"data": embedded(body["input"])})


def refusing(*bad: str, status: int = 400) -> Handler:
    """A server that refuses a request with any of these texts, and names none of them unless it is alone."""

    async def handler(body: Any) -> web.Response:
        if wrong := [text for text in body["input"] if text in bad]:
            said = f"{wrong[0]!r} is too long" if len(body["input"]) == 1 else "an input is too long"
            return web.json_response({"error": {"message": said}}, status=status)
        return await embed(body)

    return handler


def run_over(texts: list[Any], handler: Handler = embed, **options: Any) -> tuple[RunResult, Server]:
    """Embed `texts`, one request at a time."""
    write("in.parquet", {"item": texts})
    with serving(handler) as server:
        options = {"output_columns": ["embedding"], "max_concurrency": 1, "retries": 0, **options}
        return submit(server.url, EMBEDDING, **options), server


def vectors() -> list[Any]:
    return [row["embedding"] for row in rows("out.parquet")]


def inputs(server: Server) -> list[list[str]]:
    return [body["input"] for body in server.bodies]


# What comes of a text.


@pytest.mark.parametrize("show", [list, as_base64], ids=["as numbers", "as base64"])
def test_a_vector_is_a_list_of_32_bit_floats_whatever_the_server_writes(show: Callable[[list[float]], Any]) -> None:
    async def handler(body: Any) -> web.Response:
        return web.json_response({"data": embedded(body["input"], show)})

    result, _ = run_over(["a", "bb"], handler)
    assert table("out.parquet").schema.field("embedding").type == pa.list_(pa.float32())
    assert vectors() == [[1.0, 12.125, -0.5], [2.0, 24.5, -0.5]]
    assert (result.done_now, result.exit_status) == (2, 0)


def test_numbers_that_32_bits_cannot_hold_are_rounded_to_them() -> None:
    run_over(["a"], answering(lambda: web.json_response({"data": [{"index": 0, "embedding": [0.1, 1]}]})))
    assert vectors() == [[struct.unpack("<f", struct.pack("<f", 0.1))[0], 1.0]]


def test_a_request_names_the_model_the_texts_and_base64() -> None:
    _, server = run_over(["a", "bb"], job_kwargs={"request": {"dimensions": 3, "user": "me"}}, model="large")
    assert server.bodies == [
        {"model": "large", "dimensions": 3, "user": "me", "input": ["a", "bb"], "encoding_format": "base64"}
    ]


@pytest.mark.parametrize("name", ["input", "model"])
def test_parameters_that_the_job_sets_itself_are_refused(name: str) -> None:
    write("in.parquet", {"item": ["a"]})
    before = tree()
    with serving(embed) as server, pytest.raises(ConfigurationError, match=f"`request` holds {name}."):
        submit(server.url, EMBEDDING, job_kwargs={"request": {name: "x"}})
    assert tree() == before


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_a_server_that_refuses_base64_is_asked_for_its_own_format_from_then_on(engine: str) -> None:
    write("in.parquet", {"item": ["a", "bb", "x", "dddd", "eeeee"]})
    with playing("no_base64") as server:
        options = {"output_columns": ["embedding"], "max_concurrency": 1, "retries": 0, "batch_size": 2}
        result = submit(server.url, EMBEDDING, data_backend=engine, **options)
        asked = [("encoding_format" in body, body["input"]) for body in server.bodies()]
    assert vectors() == [[1.0, 0.5], [2.0, 0.5], None, [4.0, 0.5], [5.0, 0.5]]
    assert result.failed == 1
    assert asked == [
        (True, ["a", "bb"]), (True, ["a"]), (False, ["a"]), (False, ["a", "bb"]),
        (False, ["x", "dddd"]), (False, ["x"]), (False, ["dddd"]), (False, ["eeeee"]),
    ]  # fmt: skip


def test_many_requests_in_flight_find_out_about_base64_together() -> None:
    texts = [f"{'t' * number}" for number in range(1, 41)]
    write("in.parquet", {"item": texts})
    with playing("no_base64") as server:
        result = submit(server.url, EMBEDDING, output_columns=["embedding"], batch_size=4, max_concurrency=8, retries=0)
        assert len(server.bodies()) <= 8 * 4 + 2
    assert (result.failed, [vector[0] for vector in vectors()]) == (0, [*range(1, 41)])


def test_a_format_that_the_request_names_is_the_only_one() -> None:
    _, server = run_over(["a"], job_kwargs={"request": {"encoding_format": "float"}})
    assert [body["encoding_format"] for body in server.bodies] == ["float"]
    assert vectors() == [vector("a")]


# Many texts in a request.


def test_a_request_has_at_most_batch_size_texts() -> None:
    texts = [f"text {number}" for number in range(10)]
    _, server = run_over(texts, batch_size=4)
    assert inputs(server) == [texts[:4], texts[4:8], texts[8:]]
    assert vectors() == [vector(text) for text in texts]


def test_vectors_belong_to_texts_by_index_and_not_by_place() -> None:
    async def handler(body: Any) -> web.Response:
        return web.json_response({"data": embedded(body["input"])[::-1]})

    run_over(["a", "bb", "ccc"], handler)
    assert vectors() == [vector("a"), vector("bb"), vector("ccc")]


def test_without_an_index_vectors_come_in_order() -> None:
    async def handler(body: Any) -> web.Response:
        return web.json_response({"data": [{"embedding": vector(text)} for text in body["input"]]})

    run_over(["a", "bb"], handler)
    assert vectors() == [vector("a"), vector("bb")]


def test_many_requests_in_flight_mix_nothing_up() -> None:
    texts = [f"{number} " * (number % 7 + 1) for number in range(500)]
    run_over(texts, batch_size=7, max_concurrency=16)
    assert vectors() == [vector(text) for text in texts]


# Texts that fail.


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_list_that_is_refused_is_sent_again_text_by_text_and_the_bad_one_fails_alone(status: int) -> None:
    result, server = run_over(["a", "bad", "c"], refusing("bad", status=status), retries=5)
    assert inputs(server) == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert vectors() == [vector("a"), None, vector("c")]
    assert failures() == [("EndpointError", f"POST embeddings: status {status}: 'bad' is too long", 1)]
    assert (result.done_now, result.failed, result.exit_status) == (2, 1, 3)


def test_a_single_text_that_is_refused_is_not_sent_again_where_the_server_is_known_to_take_base64() -> None:
    _, server = run_over(["a", "bad"], refusing("bad"), batch_size=1, retries=5)
    assert inputs(server) == [["a"], ["bad"]]
    assert failures() == [("EndpointError", "POST embeddings: status 400: 'bad' is too long", 1)]


def test_a_list_that_is_too_long_as_a_whole_is_embedded_all_the_same() -> None:
    async def handler(body: Any) -> web.Response:
        if len(body["input"]) > 2:
            return web.json_response({"error": {"message": "at most 2 inputs"}}, status=413)
        return await embed(body)

    result, _ = run_over(["a", "bb", "ccc"], handler)
    assert vectors() == [vector("a"), vector("bb"), vector("ccc")]
    assert result.exit_status == 0


def test_a_text_that_fails_otherwise_when_it_is_sent_alone_fails_alone() -> None:
    """The server refuses the list, and breaks on one of its texts: the other rows do not notice."""

    async def handler(body: Any) -> web.Response:
        if len(body["input"]) > 1:
            return web.json_response({"error": {"message": "an input is too long"}}, status=400)
        return web.Response(status=500, text="boom") if body["input"] == ["bad"] else await embed(body)

    run_over(["a", "bad", "c"], handler)
    assert failures() == [("EndpointError", "POST embeddings: status 500: boom", 1)]
    assert vectors() == [vector("a"), None, vector("c")]


def test_items_that_are_no_text_fail_alone_and_are_not_sent() -> None:
    _, server = run_over(["a", None, "c"], retries=5)
    assert inputs(server) == [["a", "c"]]
    assert vectors() == [vector("a"), None, vector("c")]
    assert failures() == [("ItemError", "a text is needed, the row has null", 1)]


def test_a_column_of_numbers_fails_without_a_request() -> None:
    _, server = run_over([5, 6])
    assert server.bodies == []
    assert failures() == [
        ("ItemError", "a text is needed, the row has int 5", 1),
        ("ItemError", "a text is needed, the row has int 6", 1),
    ]


def test_empty_texts_are_sent_and_fail_alone_where_the_server_does_not_take_them() -> None:
    run_over(["", "a"])
    assert vectors() == [vector(""), vector("a")]
    run_over(["", "a"], refusing(""), output="strict.parquet")
    assert [row["embedding"] for row in rows("strict.parquet")] == [None, vector("a")]


# Requests that fail.


def test_a_failure_of_the_endpoint_is_tried_again_with_the_whole_list() -> None:
    left = iter([True, False])

    async def handler(body: Any) -> web.Response:
        return web.Response(status=500) if next(left) else await embed(body)

    result, server = run_over(["a", "bb"], handler, retries=1)
    assert inputs(server) == [["a", "bb"], ["a", "bb"]]
    assert vectors() == [vector("a"), vector("bb")]
    assert result.exit_status == 0


def test_a_failure_that_stays_is_that_of_all_rows_of_its_list_and_of_no_other() -> None:
    async def handler(body: Any) -> web.Response:
        return web.Response(status=502, text="boom") if "bad" in body["input"] else await embed(body)

    run_over(["a", "bad", "c", "d"], handler, batch_size=2, retries=1)
    assert vectors() == [None, None, vector("c"), vector("d")]
    assert failures() == [("EndpointError", "POST embeddings: status 502: boom", 2)] * 2


# Answers that cannot be right.


@pytest.mark.parametrize(
    "body", [{}, {"data": None}, {"data": []}, {"data": embedded(["a"])}, {"data": embedded(["a", "b", "c"])}], ids=str
)
def test_an_answer_with_another_number_of_vectors_is_an_error(body: dict[str, Any]) -> None:
    run_over(["a", "bb"], answering(lambda: web.json_response(body)))
    assert vectors() == [None, None]
    for kind, message, _ in failures():
        assert kind == "EndpointError"
        assert re.match(r"The answer has no(t 2)? embeddings: \{", message)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"index": 0},
        {"index": 0, "embedding": None},
        {"index": 0, "embedding": "no base64!"},
        {"index": 0, "embedding": as_base64([1.0])[:-3]},
        {"index": 0, "embedding": ["a"]},
        {"index": 0, "embedding": [[1.0], [1.0, 2.0]]},
        {"index": 0, "embedding": [1.0, None]},
        {"index": 0, "embedding": []},
        {"index": 0, "embedding": ""},
        {"index": 7, "embedding": [1.0]},
        {"index": -1, "embedding": [1.0]},
        {"index": "0", "embedding": [1.0]},
        5,
    ],
    ids=str,
)
def test_an_answer_that_holds_what_is_no_vector_is_an_error(entry: Any) -> None:
    run_over(["a"], answering(lambda: web.json_response({"data": [entry]})))
    assert vectors() == [None]
    ((kind, message, _),) = failures()
    assert kind == "EndpointError"
    assert message.startswith("The answer holds what is no embedding: ")


def test_two_vectors_for_one_text_and_none_for_another_are_an_error() -> None:
    """Else a server that numbers all entries 0 gives a row the vector of another, and the rest null without a word."""

    async def handler(body: Any) -> web.Response:
        return web.json_response({"data": [{**entry, "index": 0} for entry in embedded(body["input"])]})

    result, _ = run_over(["a", "bb"], handler)
    assert vectors() == [None, None]
    assert result.failed == 2


# What it does not do.


def test_it_has_no_method_for_native_batches_and_says_so() -> None:
    write("in.parquet", {"item": ["a"]})
    before = tree()
    with pytest.raises(ConfigurationError, match="EmbeddingJob has no method transform_items_native") as refused:
        submit("demo", EMBEDDING, output_columns=["embedding"], native_backend=True)
    assert refused.value.exit_status == 2
    assert tree() == before


def test_two_output_columns_are_refused_before_anything_is_asked() -> None:
    write("in.parquet", {"item": ["a"]})
    before = tree()
    with serving(embed) as server, pytest.raises(ConfigurationError):
        submit(server.url, EMBEDDING, output_columns=["one", "two"])
    assert server.bodies == []
    assert tree() == before
