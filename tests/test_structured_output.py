"""ChatCompletionJob with `schema`: the answer is data that fits a JSON schema, or a second one is asked for, once."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web

from domyn_swarm import RunResult
from domyn_swarm.cli.main import app
from domyn_swarm.errors import MissingDependencyError, SwarmError
from tests.conftest import Command, rows, table, tree, write
from tests.test_completion_jobs import answers, failures, last, submit
from tests.test_endpoint import Server, answering, serving

PERSON = {
    "title": "Person",
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ANN = '{"name": "Ann", "age": 41}'
BACK = "That cannot be used: {}. Answer again, with JSON that fits the schema and nothing else."
MODELS = """
from __future__ import annotations
import datetime
from decimal import Decimal
from typing import Any, Literal
from pydantic import AliasChoices, BaseModel, Field

class Person(BaseModel):
    name: str
    age: int

class Aliased(BaseModel):
    full_name: str = Field(alias="fullName")

class AliasedOneWay(BaseModel):
    full_name: str = Field(validation_alias="fullName")

class AliasedByChoice(BaseModel):
    full_name: str = Field(validation_alias=AliasChoices("fullName", "name"))

class AliasedOut(BaseModel):
    full_name: str = Field(serialization_alias="fullName")

class Everything(BaseModel):
    price: Decimal
    when: datetime.datetime | None
    day: datetime.date
    mood: Literal["good", "bad"]
    either: int | str
    counts: dict[str, int]
    friends: list[Person]
    tags: set[str]
    anything: Any

class Node(BaseModel):
    value: int
    children: list[Node] = []

NOT_A_CLASS = 5
"""


def reply(content: str | Sequence[str], finish_reason: str = "stop") -> web.Response:
    """An answer with a choice for each text, which cost 5 tokens in and 2 out."""
    contents = [content] if isinstance(content, str) else content
    choices = [{"message": {"role": "assistant", "content": one}, "finish_reason": finish_reason} for one in contents]
    return web.json_response({"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": 2}})


def submit_with(schema: Any, *replies: web.Response, **options: Any) -> tuple[RunResult, Server]:
    """Run one row under `schema` on a server that gives `replies` in turn; a job may be tried again three times."""
    write("in.parquet", {"item": ["who?"]})
    left = iter(replies)
    with serving(answering(lambda: next(left))) as server:
        kwargs = {"schema": schema, **options.pop("job_kwargs", {})}
        return submit(server.url, job_kwargs=kwargs, **{"retries": 3, **options}), server


def by_row(replies: dict[str, Any], schema: Any, **options: Any) -> RunResult:
    """Run a row for each of `replies`, in their order; each row is answered with JSON of its own."""

    async def handler(body: Any) -> web.Response:
        return reply(json.dumps(replies[last(body)]))

    write("in.parquet", {"item": list(replies)})
    with serving(handler) as server:
        return submit(server.url, job_kwargs={"schema": schema}, max_concurrency=1, retries=0, **options)


def refused(schema: Any, *more: str) -> SwarmError:
    """What a job under `schema` is refused with, having asked nothing and written nothing."""
    write("in.parquet", {"item": ["who?"]})
    before = tree()
    arguments = ["--input", "in.parquet", "--output", "out.parquet", "--input-column", "item", "--endpoint", "demo"]
    with pytest.raises(SwarmError) as raised:
        app(["job", "submit", *arguments, "--job-kwargs", json.dumps({"schema": schema}), *more], standalone_mode=False)
    assert raised.value.exit_status == 2
    assert tree() == before
    return raised.value


def of(kind: Any) -> dict[str, Any]:
    """A schema of an object whose one property is `value`."""
    return {"type": "object", "properties": {"value": kind}, "required": ["value"]}


@pytest.fixture
def models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of pydantic models that the job can import; its name."""
    name = f"models_{folder.name}"
    (folder / f"{name}.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(folder))
    return name


# What is asked for, and what comes of it.


def test_the_server_is_asked_to_keep_to_the_schema() -> None:
    _, server = submit_with(PERSON, reply(ANN))
    assert server.bodies == [
        {
            "model": "small",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "Person", "schema": PERSON, "strict": True},
            },
            "messages": [{"role": "user", "content": "who?"}],
        }
    ]


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "object"}, {"name": "answer"}),
        ({"title": "", "type": "object"}, {"name": "answer"}),
        ({"title": "Größe & co", "type": "object"}, {"name": "Gr__e___co"}),
        ({"title": "x" * 100, "type": "object"}, {"name": "x" * 64}),
        ({"additionalProperties": False}, {"name": "answer", "strict": True}),
        ({"additionalProperties": True}, {"name": "answer"}),
    ],
)
def test_the_schemas_name_is_plain_and_it_is_strict_when_it_allows_no_other_property(
    schema: dict[str, Any], named: dict[str, Any]
) -> None:
    _, server = submit_with(schema, reply("{}"))
    assert server.bodies[0]["response_format"]["json_schema"] == {"schema": schema, **named}


def test_an_answer_that_fits_is_a_struct() -> None:
    result, server = submit_with(PERSON, reply(ANN))
    assert answers() == [{"name": "Ann", "age": 41}]
    assert table("out.parquet").schema.field("answer").type == pa.struct({"name": pa.string(), "age": pa.int64()})
    assert (len(server.bodies), result.exit_status) == (1, 0)


def test_properties_may_be_columns_beside_facts_about_the_answer() -> None:
    submit_with(PERSON, reply(ANN), output_columns=["age", "completion_tokens", "name"])
    assert table("out.parquet").column_names == ["item", "age", "completion_tokens", "name"]
    assert rows("out.parquet") == [{"item": "who?", "age": 41, "completion_tokens": 2, "name": "Ann"}]


def test_properties_may_be_columns_beside_the_whole() -> None:
    submit_with(PERSON, reply(ANN), output_columns=["name", "whole"])
    assert rows("out.parquet") == [{"item": "who?", "name": "Ann", "whole": {"name": "Ann", "age": 41}}]


def test_a_property_may_be_the_one_column() -> None:
    submit_with(PERSON, reply(ANN), output_columns=["age"])
    assert rows("out.parquet") == [{"item": "who?", "age": 41}]


def test_a_property_that_is_not_required_and_not_there_is_null() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    submit_with(schema, reply('{"name": "Ann"}'), output_columns=["age", "name"])
    assert rows("out.parquet") == [{"item": "who?", "age": None, "name": "Ann"}]


@pytest.mark.parametrize("name", ["reasoning", "latency", "attempts"])
def test_a_property_that_is_named_like_a_fact_is_the_property(name: str) -> None:
    """Asking for the reasoning before the verdict is what structured output is mostly used for."""
    schema = {"type": "object", "properties": {name: {"type": "string"}, "verdict": {"type": "string"}}}
    submit_with(schema, reply(json.dumps({name: "because", "verdict": "yes"})), output_columns=[name, "verdict"])
    assert rows("out.parquet") == [{"item": "who?", name: "because", "verdict": "yes"}]


def test_two_columns_that_are_neither_property_nor_fact_are_refused() -> None:
    error = refused(PERSON, "--output-column", "nome", "--output-column", "age", "--output-column", "whole")
    assert (error.code, error.option) == ("output_columns.duplicate", "output_columns")
    assert "'nome' and 'whole'" in error.message


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2]", [1, 2]),
        ({"enum": ["yes", "no"]}, '"yes"', "yes"),
        ({"type": "number"}, " 2.5\n", 2.5),
        ({"type": ["string", "null"]}, "null", None),
    ],
)
def test_an_answer_need_not_be_an_object(schema: dict[str, Any], text: str, value: Any) -> None:
    result, _ = submit_with(schema, reply(text))
    assert answers() == [value]
    assert result.exit_status == 0


def test_text_of_any_script_goes_through_schema_answer_and_message() -> None:
    schema = {
        "type": "object",
        "properties": {"名前": {"type": "string", "description": "¿Cómo? 🙂"}},
        "required": ["名前"],
    }
    _, server = submit_with(schema, reply('{"ñame": 1}'), reply('{"名前": "Ωμέγα \\ud83d\\ude42"}'))
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == schema
    assert server.bodies[1]["messages"][1]["content"] == '{"ñame": 1}'
    assert '"名前" is a required property' in last(server.bodies[1])
    assert answers() == [{"名前": "Ωμέγα 🙂"}]


def test_a_schema_may_refer_to_its_own_parts() -> None:
    schema = {
        "$defs": {"Person": PERSON},
        "type": "object",
        "properties": {"author": {"$ref": "#/$defs/Person"}, "readers": {"items": {"$ref": "#/$defs/Person"}}},
    }
    ann, bob = {"name": "Ann", "age": 41}, {"name": "Bob", "age": 7}
    bad = {"author": ann, "readers": [{"name": "Bob", "age": "seven"}]}
    _, server = submit_with(
        schema, reply(json.dumps(bad)), reply(json.dumps({"author": ann, "readers": [bob]})),
        output_columns=["author", "readers"],
    )  # fmt: skip
    assert "(at readers/0/age)" in last(server.bodies[1])
    assert rows("out.parquet") == [{"item": "who?", "author": ann, "readers": [bob]}]


def test_the_properties_of_a_schema_that_is_a_reference_may_be_columns() -> None:
    """What pydantic makes of a model that refers to itself."""
    schema = {"$defs": {"Person": PERSON}, "$ref": "#/$defs/Person"}
    submit_with(schema, reply(ANN), output_columns=["age", "name"])
    assert rows("out.parquet") == [{"item": "who?", "age": 41, "name": "Ann"}]


# Where the schema comes from.


def test_a_schema_may_stand_in_a_file() -> None:
    Path("person.json").write_text(json.dumps(PERSON))
    _, server = submit_with("person.json", reply(ANN))
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == PERSON
    assert answers() == [{"name": "Ann", "age": 41}]


def test_a_schema_may_be_a_pydantic_model_beside_the_command(command: Command) -> None:
    Path("things.py").write_text(MODELS)
    write("in.parquet", {"item": ["who?"]})
    with serving(answering(lambda: reply(ANN))) as server:
        done = command(
            "job", "submit", "--input", "in.parquet", "--output", "out.parquet", "--input-column", "item",
            "--endpoint", server.url, "--job-kwargs", '{"schema": "things:Person"}',
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert server.bodies[0]["response_format"]["json_schema"]["name"] == "Person"
    assert answers() == [{"name": "Ann", "age": 41}]


def test_a_pydantic_model_judges_the_answer_itself(models: str) -> None:
    _, server = submit_with(f"{models}:Person", reply('{"name": "Ann", "age": "old"}'), reply(ANN))
    assert "age" in last(server.bodies[1])
    assert "should be a valid integer" in last(server.bodies[1])
    assert answers() == [{"name": "Ann", "age": 41}]


@pytest.mark.parametrize("model", ["Aliased", "AliasedOneWay", "AliasedByChoice"])
def test_a_model_is_asked_for_by_alias_and_its_columns_go_by_the_names_of_its_fields(models: str, model: str) -> None:
    names = ["full_name", "whole"]
    _, server = submit_with(f"{models}:{model}", reply('{"fullName": "Ann Lee"}'), output_columns=names)
    asked = server.bodies[0]["response_format"]["json_schema"]["schema"]
    assert [*asked["properties"]] == ["fullName"]
    assert rows("out.parquet") == [{"item": "who?", "full_name": "Ann Lee", "whole": {"full_name": "Ann Lee"}}]


@pytest.mark.parametrize("model", ["Aliased", "AliasedOneWay", "AliasedByChoice", "AliasedOut"])
def test_an_alias_is_no_column(models: str, model: str) -> None:
    error = refused(f"{models}:{model}", "--output-column", "fullName", "--input-column", "item", "--endpoint", "demo")
    assert (error.code, error.option, error.column) == ("output_columns.unknown", "output_columns", "fullName")
    assert "'full_name'" in error.message


@pytest.mark.parametrize(("name", "meant"), [("nmae", None), ("Name", "name"), ("attempt", "attempts"), ("AGE", "age")])
def test_an_output_column_that_is_almost_a_property_or_a_fact_is_refused(name: str, meant: str | None) -> None:
    if meant is None:
        submit_with(PERSON, reply(ANN), output_columns=[name])
        assert rows("out.parquet") == [{"item": "who?", name: {"name": "Ann", "age": 41}}]
    else:
        error = refused(PERSON, "--output-column", name)
        assert (error.code, error.column) == ("output_columns.unknown", name)
        assert repr(meant) in error.message


def test_a_pydantic_model_needs_no_other_validator(models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    submit_with(f"{models}:Person", reply(ANN))
    assert answers() == [{"name": "Ann", "age": 41}]


# An answer that does not fit.


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        ("Sure! Here it is.", "the answer is not JSON: "),
        ("", "the answer is not JSON: "),
        ("[" * 100_000, "the answer is not JSON: "),
        ('{"name": "Ann"}', 'the answer does not fit the schema: "age" is a required property'),
        ('{"name": "Ann", "age": "x"}', 'the answer does not fit the schema: "x" is not of type "integer" (at age)'),
        ("[]", 'the answer does not fit the schema: [] is not of type "object"'),
    ],
    ids=lambda value: value[:25],
)
def test_an_answer_that_does_not_fit_is_sent_back_once_with_what_is_wrong(bad: str, wrong: str) -> None:
    names = ["answer", "prompt_tokens", "completion_tokens", "attempts", "finish_reason"]
    result, server = submit_with(PERSON, reply(bad), reply(ANN), output_columns=names)
    first, second = server.bodies
    assert second["response_format"] == first["response_format"]
    assert second["messages"][:2] == [*first["messages"], {"role": "assistant", "content": bad}]
    assert second["messages"][2]["role"] == "user"
    assert second["messages"][2]["content"].startswith(f"That cannot be used: {wrong}")
    assert rows("out.parquet") == [
        {
            "item": "who?",
            "answer": {"name": "Ann", "age": 41},
            "prompt_tokens": 10,  # of both answers
            "completion_tokens": 4,
            "attempts": 2,
            "finish_reason": "stop",
        }
    ]
    assert result.exit_status == 0


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{ANN}\n```",
        f"```\n{ANN}```",
        f"```JSON\r\n{ANN}\r\n```\r\n",
        f"~~~\n{ANN}\n~~~",
        f"Here it is:\n\n```json\n{ANN}\n```\nAnything else?",
        f"```json\n{ANN}",  # the closing fence was a stop sequence
        f"`{ANN}`",
        f"\ufeff{ANN}",
        f"<think>\nIs it {{}}?\n</think>\n\n{ANN}",
        f"the template has opened the thoughts</think>{ANN}",
        f"<thinking>hm</thinking> <think></think> ```json\n{ANN}\n```",
        f"[THINK]hm[/THINK]{ANN}",
        f"<think>```json\n{{}}\n```</think>\n```json\n{ANN}\n```",
    ],
)
def test_json_in_a_fence_or_after_thoughts_is_read_at_the_first_try(text: str) -> None:
    _, server = submit_with(PERSON, reply(text), output_columns=["whole", "attempts"])
    assert rows("out.parquet") == [{"item": "who?", "whole": {"name": "Ann", "age": 41}, "attempts": 1}]
    assert len(server.bodies) == 1


def test_fences_and_thoughts_within_the_json_stay_there() -> None:
    value = {"name": "```json\n{}\n``` </think>", "age": 1}
    submit_with(PERSON, reply(f"```json\n{json.dumps(value)}\n```"))
    assert answers() == [value]


def test_what_is_sent_back_says_what_to_do() -> None:
    _, server = submit_with(PERSON, reply('{"name": "Ann"}'), reply(ANN))
    assert last(server.bodies[1]) == BACK.format('the answer does not fit the schema: "age" is a required property')


def test_the_system_prompt_stays_in_front_when_an_answer_is_sent_back() -> None:
    _, server = submit_with(PERSON, reply("no"), reply(ANN), job_kwargs={"system_prompt": "be exact"})
    assert [message["role"] for message in server.bodies[1]["messages"]] == ["system", "user", "assistant", "user"]


def test_a_second_answer_that_does_not_fit_is_the_rows_failure_and_no_third_is_asked_for() -> None:
    result, server = submit_with(PERSON, reply("no"), reply('{"name": "Ann", "age": 1.5}'))
    assert len(server.bodies) == 2  # the runner could try again three times
    ((kind, message, attempts),) = failures()
    assert (kind, attempts) == ("StructureError", 2)
    assert message == 'the answer does not fit the schema: 1.5 is not of type "integer" (at age)'
    assert answers() == [None]
    assert (result.failed, result.exit_status) == (1, 3)


def test_an_answer_that_was_cut_off_is_not_sent_back() -> None:
    _, server = submit_with(PERSON, reply('{"name": "An', finish_reason="length"))
    assert len(server.bodies) == 1
    ((kind, message, attempts),) = failures()
    assert (kind, attempts) == ("StructureError", 1)
    assert message.startswith("the answer is not JSON: ")
    assert message.endswith(" (it was cut off: finish_reason 'length')")


def test_an_answer_that_fits_counts_even_if_it_was_cut_off() -> None:
    result, _ = submit_with(PERSON, reply(ANN, finish_reason="length"))
    assert (answers(), result.exit_status) == ([{"name": "Ann", "age": 41}], 0)


def test_the_message_to_the_server_stays_short() -> None:
    _, server = submit_with(PERSON, reply(json.dumps({"name": "Ann", "age": "x" * 100_000})), reply(ANN))
    assert len(last(server.bodies[1])) < 700


def test_a_misfit_of_one_row_is_no_other_rows_matter() -> None:
    result = by_row({"a": {"value": 1}, "b": {"value": "x"}, "c": {"value": 3}}, of({"type": "integer"}))
    assert answers() == [{"value": 1}, None, {"value": 3}]
    assert (result.done_now, result.failed) == (2, 1)


def test_an_answer_that_is_no_object_does_not_fit_where_its_properties_are_columns() -> None:
    """A schema that says nothing of the type takes anything."""
    schema = {"properties": {"name": {"type": "string"}}}
    submit_with(schema, reply('"Ann"'), reply('"Ann"'), output_columns=["name"], retries=0)
    ((kind, _, _),) = failures()
    assert kind == "StructureError"


def test_a_second_request_that_the_server_refuses_is_the_rows_failure() -> None:
    too_long = web.json_response({"error": {"message": "context is full"}}, status=400)
    _, server = submit_with(PERSON, reply("no"), too_long)
    assert len(server.bodies) == 2
    assert failures() == [("EndpointError", "POST chat/completions: status 400: context is full", 2)]


# Several choices.


def test_several_choices_are_a_list_of_structs_and_their_properties_lists() -> None:
    bob = '{"name": "Bob", "age": 7}'
    options = {"job_kwargs": {"request": {"n": 2}}}
    submit_with(PERSON, reply([ANN, bob]), **options)
    assert answers() == [[{"name": "Ann", "age": 41}, {"name": "Bob", "age": 7}]]
    submit_with(PERSON, reply([ANN, bob]), **options, output_columns=["name", "age"], output="columns.parquet")
    assert rows("columns.parquet") == [{"item": "who?", "name": ["Ann", "Bob"], "age": [41, 7]}]


def test_of_several_choices_the_one_that_does_not_fit_is_sent_back() -> None:
    options = {"job_kwargs": {"request": {"n": 2}}}
    _, server = submit_with(PERSON, reply([ANN, '{"name": "Bob"}']), reply([ANN, ANN]), **options)
    assert [body["n"] for body in server.bodies] == [2, 2]
    assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": '{"name": "Bob"}'}
    assert answers() == [[{"name": "Ann", "age": 41}] * 2]


# The types of columns.


def test_a_nullable_property_may_be_null_in_the_first_rows_and_in_the_last() -> None:
    schema = of({"type": ["string", "null"]})
    by_row({"a": {"value": None}, "b": {"value": "x"}, "c": {"value": None}}, schema, output_columns=["value", "whole"])
    assert [row["value"] for row in rows("out.parquet")] == [None, "x", None]
    assert [row["whole"] for row in rows("out.parquet")] == [{"value": None}, {"value": "x"}, {"value": None}]


def test_whole_numbers_and_others_are_one_column_of_floats_in_structs_too() -> None:
    replies = {"a": {"value": 1}, "b": {"value": 2.5}, "c": {"value": 3}}
    by_row(replies, of({"type": "number"}), output_columns=["value", "whole"])
    assert [row["value"] for row in rows("out.parquet")] == [1.0, 2.5, 3.0]
    assert [row["whole"]["value"] for row in rows("out.parquet")] == [1.0, 2.5, 3.0]
    assert table("out.parquet").schema.field("whole").type == pa.struct({"value": pa.float64()})


def test_types_are_the_same_from_one_run_to_the_next() -> None:
    write("in.parquet", {"item": ["a", "b"]})
    refusal = web.json_response({"error": {"message": "not now"}}, status=400)
    left = iter([reply('{"value": 1}'), refusal, reply('{"value": 2.5, "note": "x"}')])
    with serving(answering(lambda: next(left))) as server:
        options = {"job_kwargs": {"schema": of({"type": "number"})}, "max_concurrency": 1, "model": "small"}
        submit(server.url, **options)
        submit(server.url, **options)
    assert answers() == [{"value": 1.0}, {"value": 2.5}]  # the schema names no note


def test_objects_of_which_the_schema_says_nothing_are_json_text() -> None:
    by_row({"a": {"x": 1}, "b": {"y": {"z": "deep"}}, "c": {}}, {"type": "object"})
    assert answers() == ['{"x":1}', '{"y":{"z":"deep"}}', "{}"]


@pytest.mark.parametrize("engine", ["pandas", "polars"])
@pytest.mark.parametrize("order", [1, -1])
def test_unions_and_maps_are_the_same_whatever_comes_first_on_every_engine(engine: str, order: int) -> None:
    schema = {
        "type": "object",
        "properties": {
            "either": {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
            "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
    }
    values = {
        "a": {"either": 1, "counts": {"x": 1}},
        "b": {"either": "one", "counts": {}},
        "c": {"either": None, "counts": {"y": 2, "z": 3}},
        "d": {"counts": {"y": 2**70}},
        "e": {"either": "1", "counts": None},
    }
    replies = dict([*values.items()][::order])
    result = by_row(replies, schema, output_columns=["either", "counts", "whole"], data_backend=engine)
    found = {row["item"]: (row["either"], row["counts"] and dict(row["counts"])) for row in rows("out.parquet")}
    assert found == {
        "a": ("1", {"x": 1}),
        "b": ('"one"', []),
        "c": (None, {"y": 2, "z": 3}),
        "d": (None, None),
        "e": (None, None),
    }
    assert result.failed == 2  # a number beyond 64 bits, and a null where none may be
    counts = pa.map_(pa.string(), pa.int64())
    types = table("out.parquet").schema
    assert (types.field("either").type, types.field("counts").type) == (pa.string(), counts)
    assert types.field("whole").type == pa.struct([("either", pa.string()), ("counts", counts)])


def test_other_keys_in_every_row_make_no_other_columns() -> None:
    replies = {f"row {number}": {f"word {number}": number} for number in range(300)}
    result = by_row(replies, {"type": "object", "additionalProperties": {"type": "integer"}})
    assert result.failed == 0
    assert table("out.parquet").schema.field("answer").type == pa.map_(pa.string(), pa.int64())
    assert answers()[299] == [("word 299", 299)]


def test_a_models_fields_decide_the_types(models: str) -> None:
    given = {
        "price": 12.50, "when": None, "day": "2024-02-29", "mood": "good", "either": "x", "counts": {"a": 1},
        "friends": [{"name": "Ann", "age": 41}], "tags": ["b"], "anything": [1, "x"],
    }  # fmt: skip
    names = [*given, "whole"]
    submit_with(f"{models}:Everything", reply(json.dumps(given)), output_columns=names)
    (row,) = rows("out.parquet")
    assert {name: row[name] for name in given} == {
        **given, "price": "12.5", "day": dt.date(2024, 2, 29), "either": '"x"', "counts": [("a", 1)],
        "anything": '[1,"x"]',
    }  # fmt: skip
    assert row["whole"] == {name: row[name] for name in given}
    assert table("out.parquet").schema.field("when").type == pa.timestamp("us", "UTC")


def test_what_a_date_cannot_hold_does_not_fit_and_is_sent_back() -> None:
    schema = of({"type": "string", "format": "date"})
    _, server = submit_with(schema, reply('{"value": "soon"}'), reply('{"value": "2024-02-29"}'))
    assert "Invalid isoformat string: 'soon'" in last(server.bodies[1])
    assert answers() == [{"value": dt.date(2024, 2, 29)}]


def test_not_a_number_and_infinity_are_numbers() -> None:
    submit_with(of({"type": "number"}), reply('{"value": -Infinity}'))
    assert answers() == [{"value": float("-inf")}]


# What is refused before any row is asked.


def test_what_is_no_json_schema_is_refused() -> None:
    error = refused({"type": "strin"})
    assert (error.code, error.option) == ("schema.invalid", "schema")


@pytest.mark.parametrize(
    "schema", [{"$ref": "#/$defs/nowhere"}, {"pattern": "("}, {"properties": ["name"]}, {"properties": 5}], ids=str
)
def test_a_schema_that_no_answer_can_be_held_against_is_refused(schema: dict[str, Any]) -> None:
    assert refused(schema).code == "schema.invalid"


def test_a_schema_file_that_is_not_there_is_refused() -> None:
    error = refused("none.json")
    assert (error.code, error.option, error.path) == ("schema.unreadable", "schema", "none.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"type"'])
def test_a_schema_file_that_holds_no_object_is_refused(content: str) -> None:
    Path("bad.json").write_text(content)
    error = refused("bad.json")
    assert (error.code, error.path) == ("schema.unreadable", "bad.json")


@pytest.mark.parametrize("reference", ["nowhere:Person", "nowhere", "", ":", ":Person", "json:NoSuchName", "json"])
def test_a_model_that_cannot_be_imported_is_refused(reference: str) -> None:
    error = refused(reference)
    assert (error.code, error.path) == ("schema.unreadable", reference)


def test_a_module_of_models_that_breaks_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"broken_{folder.name}"
    Path(f"{name}.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(str(folder))
    error = refused(f"{name}:Person")
    assert (error.code, error.path) == ("schema.unreadable", f"{name}:Person")
    assert "no licence" in error.message


@pytest.mark.parametrize("reference", ["json:loads", "json:JSONDecoder", "{models}:NOT_A_CLASS"])
def test_what_is_no_pydantic_model_is_refused(reference: str, models: str) -> None:
    reference = reference.format(models=models)
    error = refused(reference)
    assert error.code == "schema.invalid"
    assert repr(reference) in error.message


def test_a_schema_that_is_neither_object_nor_text_is_refused() -> None:
    assert refused(5).code == "job.fields"


def test_without_the_validator_a_schema_is_refused_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    error = refused(PERSON)
    assert isinstance(error, MissingDependencyError)
    assert (error.code, error.command) == ("dependency", "pip install 'domyn-swarm[structured]'")


# A response format of the user's own.


def test_without_a_schema_a_response_format_is_passed_on_and_the_answer_is_text() -> None:
    write("in.parquet", {"item": ["who?"]})
    with serving(answering(lambda: reply(ANN))) as server:
        submit(server.url, job_kwargs={"request": {"response_format": {"type": "json_object"}}})
    assert server.bodies[0]["response_format"] == {"type": "json_object"}
    assert answers() == [ANN]


def test_with_a_schema_a_response_format_of_the_users_wins_and_the_answer_is_checked_all_the_same() -> None:
    """`request` is carried as it is: there are servers that know `json_object` only."""
    options = {"job_kwargs": {"request": {"response_format": {"type": "json_object"}}}}
    _, server = submit_with(PERSON, reply("{}"), reply(ANN), **options)
    assert [body["response_format"] for body in server.bodies] == [{"type": "json_object"}] * 2
    assert answers() == [{"name": "Ann", "age": 41}]
