"""Which types a JSON schema gives to columns."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from domyn_swarm.jobs.schema_types import MOST_TYPES, SchemaTypes

TEXT, INTEGER, NUMBER = pa.string(), pa.int64(), pa.float64()
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False}
POINTS = pa.struct([("x", INTEGER)])
NULL = {"type": "null"}


@pytest.mark.parametrize(
    ("schema", "dtype"),
    [
        ({"type": "string"}, TEXT),
        ({"type": "integer"}, INTEGER),
        ({"type": "number"}, NUMBER),
        ({"type": "boolean"}, pa.bool_()),
        ({"type": ["integer", "null"]}, INTEGER),
        ({"type": ["integer", "number"]}, NUMBER),
        ({"type": "string", "format": "date"}, pa.date32()),
        ({"type": "string", "format": "date-time"}, pa.timestamp("us", "UTC")),
        ({"type": "string", "format": "uuid"}, TEXT),
        ({"enum": ["a", "b", None]}, TEXT),
        ({"enum": [1, 2]}, INTEGER),
        ({"enum": [1, 2.5]}, NUMBER),
        ({"const": True}, pa.bool_()),
        ({"type": "array", "items": {"type": "integer"}}, pa.list_(INTEGER)),
        ({"items": POINT}, pa.list_(POINTS)),
        ({"type": "array", "prefixItems": [{"type": "number"}] * 2, "maxItems": 2}, pa.list_(NUMBER)),
        (POINT, POINTS),
        ({"properties": {"p": POINT, "q": {"type": "array", "items": POINT}}},
         pa.struct([("p", POINTS), ("q", pa.list_(POINTS))])),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, pa.map_(TEXT, INTEGER)),
        ({"type": "object", "additionalProperties": POINT}, pa.map_(TEXT, POINTS)),
        ({"additionalProperties": {"additionalProperties": NULL}}, pa.map_(TEXT, pa.map_(TEXT, TEXT))),
        ({"patternProperties": {"^a": {"type": "integer"}, "^b": {"type": "number"}}}, pa.map_(TEXT, NUMBER)),
        ({"anyOf": [POINT, NULL]}, POINTS),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, NUMBER),
        ({"anyOf": [{"type": "string", "format": "date"}, {"type": "string"}]}, TEXT),
        ({"allOf": [{"type": "object"}, POINT, {"properties": {"y": {"type": "string"}}}]},
         pa.struct([("x", INTEGER), ("y", TEXT)])),
        ({"$defs": {"P": POINT}, "$ref": "#/$defs/P"}, POINTS),
        ({"$defs": {"a/b": {"type": "integer"}}, "$ref": "#/$defs/a~1b"}, INTEGER),
        ({"$defs": {"P": POINT}, "allOf": [{"$ref": "#/$defs/P"}], "description": "a point"}, POINTS),
        ({"type": "object", "properties": {"x": {"type": "integer"}}, "anyOf": [{"required": ["x"]}, {}]}, POINTS),
    ],
    ids=str,
)  # fmt: skip
def test_the_schema_decides_the_type(schema: dict[str, Any], dtype: pa.DataType) -> None:
    assert SchemaTypes(schema).whole.dtype == dtype


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "array"},
        {"type": ["string", "integer"]},
        {"enum": ["a", 1]},
        {"anyOf": [{"type": "integer"}, POINT]},
        {"anyOf": [POINT, {"type": "object", "properties": {"y": {"type": "integer"}}}]},
        {**POINT, "additionalProperties": True},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
        {"$ref": "https://example.org/schema"},
        {"$ref": "#/nowhere"},
        {"$ref": "#"},
    ],
    ids=str,
)
def test_unions_and_what_the_schema_leaves_open_are_json_text(schema: dict[str, Any]) -> None:
    whole = SchemaTypes(schema).whole
    assert whole.dtype == pa.string()
    assert [whole.stored(value) for value in (1, "a", {"x": [None]}, None)] == ["1", '"a"', '{"x":[null]}', None]


def test_what_refers_to_itself_is_json_text_where_it_comes_round() -> None:
    node = {"type": "object", "properties": {"value": {"type": "integer"}, "left": {"$ref": "#/$defs/Node"}}}
    types = SchemaTypes({"$defs": {"Node": node}, "$ref": "#/$defs/Node"})
    assert types.whole.dtype == pa.struct([("value", INTEGER), ("left", TEXT)])
    assert [*types.properties] == ["value", "left"]
    tree = {"value": 1, "left": {"value": 2, "left": None}}
    assert types.whole.stored(tree) == {"value": 1, "left": '{"value":2,"left":null}'}


def test_references_that_multiply_end_in_json_text() -> None:
    defs = {f"d{n}": {"properties": {k: {"$ref": f"#/$defs/d{n + 1}"} for k in "abcd"}} for n in range(30)}
    types = SchemaTypes({"$defs": {**defs, "d30": {"type": "integer"}}, "$ref": "#/$defs/d0"})
    assert len(str(types.whole.dtype)) < 40 * MOST_TYPES


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-02-29T12:30:00Z", dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC)),
        ("2024-02-29T12:30:00+02:00", dt.datetime(2024, 2, 29, 10, 30, tzinfo=dt.UTC)),
        ("2024-02-29T12:30:00", dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC)),
    ],
)
def test_moments_are_in_utc(text: str, moment: dt.datetime) -> None:
    assert SchemaTypes({"type": "string", "format": "date-time"}).whole.stored(text) == moment


@pytest.mark.parametrize("value", [5, "soon", ["2024-02-29"], "2024-02-30"])
def test_what_is_no_date_is_said(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        SchemaTypes({"type": "string", "format": "date"}).whole.stored(value)


def test_values_are_stored_within_lists_structs_and_maps() -> None:
    day = {"type": "string", "format": "date"}
    schema = {"properties": {"days": {"items": day}, "by": {"type": "object", "additionalProperties": day}}}
    whole = SchemaTypes(schema).whole
    stored = whole.stored({"days": ["2024-02-29", None], "by": {"a": "2024-02-29"}})
    leap = dt.date(2024, 2, 29)
    assert pa.array([stored], whole.dtype).to_pylist() == [{"days": [leap, None], "by": [("a", leap)]}]
