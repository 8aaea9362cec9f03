"""Comparing two runs: which rows changed, what was asked for otherwise, what it cost, and when it cannot be told."""

from __future__ import annotations

import datetime as dt
import json
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

import domyn_swarm
from domyn_swarm import compare
from domyn_swarm.checkpoint.merge import WINDOW_ROWS
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, POSITION
from domyn_swarm.errors import CheckpointError, ConfigurationError, DataError, JobError
from domyn_swarm.report.comparison.model import Difference, Rows
from domyn_swarm.report.comparison.rows import KEY, Side, matched
from tests.browser import Browser, browser  # noqa: F401 - a fixture
from tests.conftest import Command, job, start_command, stop, write
from tests.two_runs import FAIL, A, B, edited, outputs, record, submit, texts

# Rows.


def test_rows_are_the_same_or_changed_or_failed_in_one_run_or_in_both() -> None:
    found = outputs(["x", "x", FAIL, "x", FAIL, None], ["x", "y", "x", FAIL, FAIL, None])
    assert found.rows == Rows(same=2, changed=1, failed_a=1, failed_b=1, failed_both=1)
    assert (found.on, found.same, found.a.rows, found.a.failed, found.b.failed) == ("_row_id", False, 6, 2, 2)
    assert found.headline == "The outputs differ: 1 of 6 rows changed; 1 failed in A only; 1 failed in B only."


def test_a_row_that_failed_is_not_one_whose_output_is_null() -> None:
    found = outputs([None, FAIL], [FAIL, None])
    assert found.rows == Rows(failed_a=1, failed_b=1)
    assert [(one.failure_a[:15], one.failure_b[:15]) for one in found.examples] == [
        ("", "JSONDecodeError"), ("JSONDecodeError", ""),
    ]  # fmt: skip


def test_examples_have_the_id_the_input_and_both_values_of_the_columns_that_changed() -> None:
    found = outputs(
        [{"n": 1, "text": "old"}, {"n": 1, "text": "same"}],
        [{"n": 1, "text": "new"}, {"n": 2, "text": "same"}],
        output_columns=["n", "text"],
    )
    first, second = found.examples
    assert (first.id, first.columns) == ("0", [Difference("text", "old", "new")])
    assert first.input == {"b": '{"n": 1, "text": "new"}'}
    assert (second.id, second.columns) == ("1", [Difference("n", "1", "2")])
    assert {column.name: column.changed for column in found.columns} == {"n": 1, "text": 1}


def test_there_are_no_more_examples_than_asked_for() -> None:
    assert [one.id for one in outputs(list(range(30)), list(range(1, 31))).examples] == [str(n) for n in range(20)]
    assert [one.id for one in compare(A, B, examples=2).examples] == ["0", "1"]
    assert str(compare(A, B)).endswith("\n\n10 more rows differ.")
    assert compare(A, B, examples=0).examples == []


def test_a_text_and_a_number_that_look_alike_are_told_apart() -> None:
    found = outputs(["1"], [1])
    assert found.rows == Rows(changed=1)
    assert found.examples[0].columns == [Difference("out", '"1"', "1")]


def test_a_column_that_only_one_run_has_makes_outputs_differ() -> None:
    write("in.parquet", {"text": texts([{"x": 1, "y": 2}])})
    submit("a", input_columns=["text"], output_columns=["x"])
    submit("b", input_columns=["text"], output_columns=["x", "y"])
    found = compare(A, B)
    assert (found.same, found.rows) == (False, Rows(same=1))
    assert [(one.name, one.in_a, one.in_b) for one in found.columns] == [("x", True, True), ("y", False, True)]
    assert found.headline == "The outputs differ: columns only in B: y."


def test_runs_without_a_common_column_say_so() -> None:
    write("in.parquet", {"text": texts([{"x": 1, "y": 2}])})
    submit("a", input_columns=["text"], output_columns=["x"])
    submit("b", input_columns=["text"], output_columns=["y"])
    found = compare(A, B)
    assert not found.same
    assert "no common output column" in found.notes[0]


def test_rows_beyond_the_limit_of_one_run_are_only_in_the_other() -> None:
    write("in.parquet", {"text": texts(["x"] * 5)})
    submit("a", input_columns=["text"], limit=2)
    submit("b", input_columns=["text"])
    assert compare(A, B).rows == Rows(same=2, only_b=3)
    assert compare(B, A).rows == Rows(same=2, only_a=3)
    assert compare(A, B).options == [Difference("--limit", "2", "None")]
    submit("b", input_columns=["text"], limit=1)
    assert compare(A, B).rows == Rows(same=1, only_a=1), "what the output has counts, not what an earlier run left"


def test_a_row_that_failed_first_and_then_did_not_counts_once() -> None:
    write("in.parquet", {"text": ["bad", "good"]})
    for name in "ab":
        submit(name, job("Picky"), input_columns=["text"])
    assert compare(A, B).rows == Rows(same=1, failed_both=1)
    Path("mended").touch()
    submit("b", job("Picky"), input_columns=["text"])
    found = compare(A, B)
    assert found.rows == Rows(same=1, failed_a=1)
    assert found.notes == ["B resumed with 1 rows from earlier starts: its totals cover only the newest start."]


IDS: dict[str, list[Any]] = {
    "int": [3, -1, 2**40, 7],
    "string": ["b", "", "é", "a'\n"],
    "bytes": [b"b", b"", b"\xff", b"a"],
    "uuid": [uuid.UUID(int=number).bytes for number in (5, 3, 9, 1)],
}
KINDS = {"int": pa.int64(), "string": pa.string(), "bytes": pa.binary(), "uuid": pa.uuid()}
SHOWN = {"int": "7", "string": "a'\n", "bytes": "61", "uuid": "00000000-0000-0000-0000-000000000001"}


@pytest.mark.parametrize("kind", IDS)
def test_rows_are_matched_by_ids_of_any_kind_wherever_they_stand(kind: str) -> None:
    ids = IDS[kind]
    write("in.parquet", {"key": pa.array(ids, KINDS[kind]), "text": texts("wxyz")})
    submit("a", input_columns=["text"], id_column="key")
    write("other.parquet", {"key": pa.array(ids[:0:-1], KINDS[kind]), "text": texts("!yx")})
    submit("b", input_columns=["text"], id_column="key", input="other.parquet")
    found = compare(A, B)
    assert (found.on, found.rows) == ("key", Rows(same=2, changed=1, only_a=1))
    (one,) = found.examples
    assert (one.id, one.input, one.columns) == (SHOWN[kind], {"text": '"!"'}, [Difference("out", "z", "!")])
    assert found.input is not None
    assert [(file.name, file.a is None, file.b is None) for file in found.input.files] == [
        ("in.parquet", False, True), ("other.parquet", True, False),
    ]  # fmt: skip


def test_ids_and_values_are_the_same_whatever_arrow_types_hold_them() -> None:
    for name, kind, number in (("a", pa.large_string(), pa.int8()), ("b", pa.string(), pa.int64())):
        columns = {"key": pa.array(["k", "l"], kind), "number": pa.array([1, 2], number)}
        write(f"{name}.in.parquet", columns)
        submit(
            name, job("Same"), input=f"{name}.in.parquet", id_column="key", input_columns=["key", "number"],
            output_columns=["same_key", "same_number"], native_backend=True,
        )  # fmt: skip
    found = compare(A, B)
    assert (found.same, found.rows) == (True, Rows(same=2))


@pytest.mark.parametrize(
    "shuffled", [False, pytest.param(True, marks=pytest.mark.stress)], ids=["in place", "shuffled"]
)
def test_counts_are_those_that_a_dictionary_would_give(shuffled: bool) -> None:
    """Over several windows of positions, with rows that are in one run only and all kinds of outputs."""
    random.seed(11)
    size = 2 * WINDOW_ROWS + 1000
    choices = ["x", "y", None, FAIL]
    kept = {name: random.choices(choices, weights=[50, 2, 2, 1], k=size) for name in "ab"}
    order = random.sample(range(size), size) if shuffled else list(range(size))
    left, right = range(size - 500), order[: size - 100] if shuffled else order
    write("a.in.parquet", {"key": pa.array(left), "text": texts([kept["a"][key] for key in left])})
    if shuffled:
        write("b.in.parquet", {"key": pa.array(right), "text": texts([kept["b"][key] for key in right])})
        reads = {"a": ("a.in.parquet", "text"), "b": ("b.in.parquet", "text")}
    else:
        write("in.parquet", {"key": pa.array(order), **{name: texts(values) for name, values in kept.items()}})
        reads = {name: ("in.parquet", name) for name in "ab"}
        left = range(size)
    for name, (path, column) in reads.items():
        submit(name, input=path, input_columns=[column], id_column="key", native_backend=True)
    model = Counter(
        ("only_a" if key not in set_b else "only_b" if key not in set_a else _kind(kept["a"][key], kept["b"][key]))
        for set_a, set_b in [(set(left), set(right))]
        for key in set_a | set_b
    )
    found = compare(A, B, examples=3)
    assert msgspec.structs.asdict(found.rows) == {kind: model[kind] for kind in Rows.__struct_fields__}
    for example in found.examples:
        one, other = (kept[name][int(example.id)] for name in "ab")
        assert (example.columns[0].a, example.columns[0].b) == (
            None if one == FAIL else one,
            None if other == FAIL else other,
        )
        assert (bool(example.failure_a), bool(example.failure_b)) == (one == FAIL, other == FAIL)


def _kind(a: Any, b: Any) -> str:
    if FAIL in (a, b):
        return "failed_both" if a == b else "failed_a" if a == FAIL else "failed_b"
    return "same" if a == b else "changed"


@pytest.mark.stress
def test_runs_of_all_backends_over_the_same_rows_are_the_same(backends: list[str]) -> None:
    columns = {
        "text": ["a", "é", None], "number": [1, None, 3], "share": [0.5, None, 2.0], "list": [[1, 2], [], None],
        "struct": [{"x": 1, "y": "z"}, {"x": None, "y": None}, None],
        "moment": [dt.datetime(2026, 1, 2, 3, 4, 5), None, dt.datetime(1999, 1, 1)],
    }  # fmt: skip
    write("in.parquet", {"key": ["k1", "k2", "k3"], **columns})
    for name in backends:
        submit(
            name, job("Same"), data_backend=name, id_column="key", input_columns=list(columns),
            output_columns=[f"same_{column}" for column in columns],
        )  # fmt: skip
    first, *others = (f".domyn-swarm/{name}.parquet" for name in backends)
    for other in others:
        found = compare(first, other)
        assert (found.same, found.rows) == (True, Rows(same=3))
        assert [one.name for one in found.options] == ["--data-backend"]


def test_nested_outputs_are_compared_by_their_content() -> None:
    found = outputs(
        [{"tags": ["a", "b"], "score": {"n": 1}}, {"tags": ["a"], "score": {"n": 2}}, {"tags": [], "score": {"n": 3}}],
        [{"tags": ["a", "b"], "score": {"n": 1.0}}, {"tags": ["b"], "score": {"n": 2, "why": None}},
         {"tags": [], "score": {"n": 3, "why": "new"}}],
        output_columns=["tags", "score"],
    )  # fmt: skip
    assert found.rows == Rows(same=1, changed=2)
    assert {column.name: column.changed for column in found.columns} == {"tags": 1, "score": 1}
    assert [one.columns for one in found.examples] == [
        [Difference("tags", '["a"]', '["b"]')],
        [Difference("score", '{"n":3}', '{"n":3.0,"why":"new"}')],
    ]


# Which rows belong together.


def two_inputs(**options: Any) -> None:
    """A and B over different inputs, with generated ids."""
    write("in.parquet", {"name": ["x", "y", "z"], "text": texts(["1", "2", FAIL])})
    submit("a", input_columns=["text"], **options)
    write("other.parquet", {"name": ["z", "x", "w"], "text": texts(["3", "one", "4"])})
    submit("b", input_columns=["text"], input="other.parquet", **options)


def test_generated_ids_over_different_inputs_are_refused_with_the_way_out() -> None:
    two_inputs()
    with pytest.raises(ConfigurationError) as refused:
        compare(A, B)
    assert "Generated ids are row numbers, and the inputs differ (A: " in refused.value.message
    assert all(path in refused.value.message for path in ("in.parquet", "other.parquet"))
    assert refused.value.code == "match.ids"
    assert "unique in both outputs: on=." in refused.value.hint
    assert "Columns in both: name, out, text." in refused.value.hint
    with pytest.raises(ConfigurationError, match="the inputs differ"):
        compare(A, B, on="_row_id")


def test_generated_ids_over_different_filters_are_refused() -> None:
    write("in.parquet", {"number": [1, 2, 3], "text": texts("abc")})
    submit("a", input_columns=["text"], backend_read_kwargs={"filters": [["number", ">", 1]]})
    submit("b", input_columns=["text"])
    with pytest.raises(ConfigurationError, match="the filters differ"):
        compare(A, B)
    assert compare(A, B, on="number").rows == Rows(same=2, only_b=1)


def test_generated_ids_over_nodes_that_were_replaced_in_one_run_are_refused() -> None:
    outputs(["x"], ["y"])
    identity = json.loads(record("b").read_text())["identity"]
    edited("b", identity={**identity, "node limited": "replaced by 0123456789abcdef"})
    with pytest.raises(ConfigurationError, match="node 'limited' has different overrides"):
        compare(A, B)
    edited("a", identity={**identity, "node limited": "replaced by 0123456789abcdef"})
    assert compare(A, B).rows == Rows(changed=1)


def test_rows_at_the_same_positions_that_are_not_the_same_rows_are_matched_by_their_ids() -> None:
    def side(name: str, keys: list[str], values: list[int]) -> Side:
        columns = {POSITION: range(len(keys)), KEY: keys, "v": values, FAILURE: pa.nulls(len(keys), FAILURE_TYPE)}
        return Side(name, "key", pa.schema([("v", pa.int64())]), lambda names: iter([pa.table(columns)]))

    tally = matched(side("A", ["k", "l"], [1, 2]), side("B", ["l", "k"], [2, 3]), ["v"], 9, in_place=True)
    assert tally.rows == Rows(same=1, changed=1)
    assert [(one.id, one.columns) for one in tally.examples] == [("k", [Difference("v", "1", "3")])]


def test_rows_can_be_matched_by_any_column_that_both_outputs_have() -> None:
    two_inputs()
    found = compare(A, B, on="name")
    assert (found.on, found.rows) == ("name", Rows(changed=1, failed_a=1, only_a=1, only_b=1))
    assert [(one.id, one.columns, bool(one.failure_a)) for one in found.examples] == [
        ("z", [Difference("out", None, "3")], True), ("x", [Difference("out", "1", "one")], False),
    ]  # fmt: skip


def test_rows_can_be_matched_by_an_output_column_which_is_then_not_compared() -> None:
    write("in.parquet", {"a": texts([{"k": 1, "v": "x"}, {"k": 2, "v": "y"}]),
                         "b": texts([{"k": 2, "v": "y"}, {"k": 1, "v": "z"}])})  # fmt: skip
    for name in "ab":
        submit(name, input_columns=[name], output_columns=["k", "v"])
    found = compare(A, B, on="k")
    assert (found.rows, [column.name for column in found.columns]) == (Rows(same=1, changed=1), ["v"])


def test_the_id_column_of_one_run_matches_a_column_of_the_other() -> None:
    write("in.parquet", {"name": ["x", "y"], "text": texts("ab")})
    submit("a", input_columns=["text"], id_column="name", output_mode="replace")
    submit("b", input_columns=["text"])
    with pytest.raises(ConfigurationError, match="identified by column 'name', those of B by generated ids"):
        compare(A, B)
    assert compare(A, B, on="name").rows == Rows(same=2)


def test_an_output_of_several_files_is_looked_up_too() -> None:
    write("in.parquet", {"name": ["x", "y"], "text": texts("ab")})
    submit("a", input_columns=["text"], output="out_a", checkpoint_dir="runs")
    submit("b", input_columns=["text"], output="out_b/", checkpoint_dir="runs")
    assert compare("runs/out_a", "runs/out_b", on="name").rows == Rows(same=2)


def test_an_output_is_found_from_any_folder_and_when_all_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("project").mkdir()
    monkeypatch.chdir("project")
    two_inputs()
    monkeypatch.chdir("..")
    assert compare(f"project/{A}", f"project/{B}", on="name").rows.only_b == 1
    Path("project").rename("moved")
    assert compare(f"moved/{A}", f"moved/{B}", on="name").rows.only_b == 1


def test_duplicates_in_the_column_are_refused_with_the_first_offenders() -> None:
    write("in.parquet", {"name": ["x", "y", "x", "y", "z"], "text": texts("abcde")})
    for name in "ab":
        submit(name, input_columns=["text"])
    with pytest.raises(DataError) as refused:
        compare(A, B, on="name")
    assert (refused.value.code, refused.value.option, refused.value.column) == ("id.duplicate", "on", "name")
    assert "2 duplicate values in A: 'x' (2 times), 'y' (2 times)" in refused.value.message


def test_duplicates_in_the_second_run_are_refused_too() -> None:
    write("in.parquet", {"name": ["x", "y"], "text": texts("ab")})
    submit("a", input_columns=["text"])
    write("other.parquet", {"name": ["x", "x"], "text": texts("ab")})
    submit("b", input_columns=["text"], input="other.parquet")
    with pytest.raises(DataError, match="1 duplicate value in B"):
        compare(A, B, on="name")


def test_nulls_in_the_column_are_refused() -> None:
    write("in.parquet", {"name": ["x", None], "text": texts("ab")})
    for name in "ab":
        submit(name, input_columns=["text"])
    with pytest.raises(DataError, match=" of A ") as refused:
        compare(A, B, on="name")
    error = refused.value
    assert (error.code, error.option, error.column, error.row) == ("id.null", "on", "name", 1)


def test_a_column_that_an_output_has_not_is_refused_with_those_that_there_are() -> None:
    two_inputs()
    with pytest.raises(ConfigurationError) as refused:
        compare(A, B, on="nmae")
    error = refused.value
    assert (error.code, error.option, error.column) == ("column.missing", "on", "nmae")
    assert error.choices == ("name", "text", "out")


def test_an_output_that_is_gone_or_another_runs_is_refused() -> None:
    two_inputs()
    shutil.copy("b.parquet", "a.parquet")
    with pytest.raises(ConfigurationError, match=r"the output of \.domyn-swarm/a\.parquet was not found"):
        compare(A, B, on="name")
    Path("a.parquet").unlink()
    with pytest.raises(ConfigurationError, match=r"the output of \.domyn-swarm/a\.parquet was not found"):
        compare(A, B, on="name")


def test_runs_that_share_no_row_say_so() -> None:
    write("in.parquet", {"key": [1, 2], "text": texts("ab")})
    submit("a", input_columns=["text"], id_column="key")
    write("other.parquet", {"key": ["1", "2"], "text": texts("ab")})
    submit("b", input_columns=["text"], id_column="key", input="other.parquet")
    found = compare(A, B)
    assert found.rows == Rows(only_a=2, only_b=2)
    assert "No row is in both runs." in found.notes[0]


# What the runs were asked to do.


def test_a_field_of_the_job_that_differs_is_told_by_its_name() -> None:
    write("in.parquet", {"text": ["one", "three"]})
    submit("a", job("Length"), output_columns=[], job_kwargs={"plus": 1})
    submit("b", job("Length"), output_columns=[])
    found = compare(A, B)
    assert (found.fields, found.options) == ([Difference("plus", "1", "0")], [])
    assert [one.columns for one in found.examples] == [
        [Difference("length", "4", "3")], [Difference("length", "6", "5")],
    ]  # fmt: skip


def test_options_that_differ_are_told_by_their_flags_and_where_outputs_go_is_none() -> None:
    write("in.parquet", {"text": texts(["x"])})
    submit("a", input_columns=["text"], max_concurrency=3)
    submit("b", input_columns=["text"], max_concurrency=4, output_mode="replace")
    assert {one.name: (one.a, one.b) for one in compare(A, B).options} == {
        "--max-concurrency": ("3", "4"), "--output-mode": ("append", "replace"),
    }  # fmt: skip


def test_another_model_prompt_and_cost_are_told() -> None:
    write("in.parquet", {"question": ["What is it?", "Why is it so?"]})
    chat = {"endpoints": ["demo"], "input_columns": ["question"], "output_columns": ["answer"]}
    submit("a", "domyn_swarm.jobs:ChatCompletionJob", **chat)
    prompt = {"prompt": "In one word: {question}"}
    submit("b", "domyn_swarm.jobs:ChatCompletionJob", **chat, job_kwargs=prompt, limit=1, model="demo")
    found = compare(A, B)
    assert found.fields == [Difference("prompt", "null", "In one word: {question}")]
    assert {one.name: (one.a, one.b) for one in found.options} == {
        "--limit": ("None", "1"),
        "--model": ("None", "demo"),
    }
    totals = {total.name: (total.a, total.b, total.difference) for total in found.totals}
    assert totals["requests"] == (2, 1, -1)
    assert totals["retries"] == (0, 0, 0)
    assert totals["tokens_in"] == (7, 6, -1)
    assert set(totals) == {"requests", "retries", "tokens_in", "tokens_out", "seconds", "rows_per_second"}
    (example,) = found.examples
    assert example.input == {"question": "What is it?"}
    assert example.columns == [
        Difference("answer", "You wrote 3 words: What is it?", "You wrote 6 words: In one word: What is it?")
    ]


def test_nodes_that_differ_are_told_by_what_differs() -> None:
    write("in.parquet", {"key": [1], "text": ["x"]})
    submit("a", job("Upper"), output_columns=[], id_column="key")
    submit("b", job("Upper"), output_columns=[], id_column="key", native_backend=True)
    found = compare(A, B)
    assert found.same
    told = {(one.node, one.what): (one.a, one.b) for one in found.nodes}
    assert told["as_pandas", "node"] == ("present", None)
    assert told["batches", "variant"] == ("items", "native")
    assert {node for node, _ in told} == {"as_pandas", "batches"}


def test_a_node_that_was_replaced_in_one_run_or_by_something_else_is_told() -> None:
    write("in.parquet", {"text": texts(["x"])})
    for name in "ab":
        submit(name, input_columns=["text"])
    replace("b", "transformed", "function", "1111111122")
    (one,) = compare(A, B).nodes
    assert (one.label, one.a, one.b) == ("transformed, replaced", "no", "by a function (11111111)")
    assert "\nnodes (A -> B)\n  transformed, replaced: no -> by a function (11111111)\n" in str(compare(A, B))
    replace("a", "transformed", "function", "2222222233")
    (one,) = compare(A, B).nodes
    assert (one.a, one.b) == ("by a function (22222222)", "by a function (11111111)")
    replace("a", "transformed", "function", "1111111122")
    assert compare(A, B).alike


def replace(name: str, node: str, kind: str, digest: str) -> None:
    """Let a run have written down that a node was replaced."""
    content = json.loads(record(name).read_text())
    next(one for one in content["graph"]["nodes"] if one["name"] == node)["overridden"] = kind
    identity = {**content["identity"], f"node {node}": f"replaced by {digest}"}
    edited(name, graph=content["graph"], identity=identity)


# Runs of any kind.


def test_the_same_twice_is_one_line_in_which_a_folder_a_path_or_a_result_may_name_a_run() -> None:
    write("in.parquet", {"text": texts(["x", FAIL])})
    a, b = (submit(name, input_columns=["text"]) for name in "ab")
    for one, other in ((a, b), (Path(A), B), (a.run_dir, f"file://{Path(B).absolute()}")):
        found = compare(one, other)
        assert found.same
        assert str(found).startswith("The outputs are the same: 2 rows, 1 of them failed in both (A 0")
        assert "\n" not in str(found)


def test_runs_and_outputs_on_another_filesystem_are_compared() -> None:
    write("in.parquet", {"name": ["x", "y"], "a": texts("pq"), "b": texts("pr")})
    for name in "ab":
        place = {"checkpoint_dir": "memory://runs", "output": f"memory://out/{name}.parquet"}
        submit(name, input_columns=[name], **place)
    runs = [f"memory://runs/{name}.parquet" for name in "ab"]
    assert compare(*runs).rows == Rows(same=1, changed=1)
    assert compare(*runs, on="name").rows == Rows(same=1, changed=1)


def test_what_is_no_run_is_refused() -> None:
    write("in.parquet", {"text": texts(["x"])})
    submit("a", input_columns=["text"])
    with pytest.raises(ConfigurationError, match="'nowhere' is not the folder of a run"):
        compare(A, "nowhere")
    with pytest.raises(ConfigurationError, match="'int' is not a run"):
        compare(7, A)


def test_a_run_that_broke_is_compared_as_far_as_it_came() -> None:
    write("in.parquet", {"key": range(40), "text": [*["x"] * 30, "stop", *["x"] * 9]})
    options = {"reference": "tests.two_runs:Stops", "input_columns": ["text"], "id_column": "key"}
    with pytest.raises(JobError):
        submit("b", **options)
    Path("go").touch()
    submit("a", **options)
    found = compare(A, B)
    assert (found.b.state, found.b.total, found.b.rows) == ("failed", 40, found.rows.same)
    assert found.rows == Rows(same=found.rows.same, only_a=40 - found.rows.same)
    assert found.rows.only_a >= 1
    assert f"failed, {found.rows.same} of 40 rows" in str(found)
    with pytest.raises(ConfigurationError, match="is failed"):
        compare(A, B, on="text")


def test_a_run_that_is_going_on_is_compared_as_far_as_it_has_come(command: Command) -> None:
    write("in.parquet", {"text": ["x"] * 200})
    submit("a", job("Recorded"), output_columns=[])
    going = start_command(
        "job", "submit", job("Recorded"), "--input", "in.parquet", "--output", "b.parquet", "--max-concurrency", "2",
        "--job-kwargs", '{"seconds": 0.1}', "--checkpoint-interval", "0.1", stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not list(Path(B).glob("parts/*.parquet")):
            time.sleep(0.05)
        found = compare(A, B)
    finally:
        stop(going, signal.SIGKILL)
        going.wait()
    assert found.b.state == "running"
    assert found.rows.same + found.rows.only_a == 200
    assert 0 < found.rows.same < 200
    assert compare(A, B).b.state == "lost"


def test_a_run_that_has_no_row_yet_is_compared() -> None:
    write("in.parquet", {"text": texts(["x"])})
    for name in "ab":
        submit(name, input_columns=["text"])
    shutil.rmtree(f"{B}/parts")
    found = compare(A, B)
    assert (found.rows, found.b.rows) == (Rows(only_a=1), 0)
    assert [(column.name, column.in_b) for column in found.columns] == [("out", True)]


def test_runs_of_earlier_versions_are_compared_in_what_they_tell() -> None:
    write("in.parquet", {"text": texts(["x", "y"])})
    for name in "ab":
        submit(name, input_columns=["text"])
    edited("a", graph=None, options=None, traffic=None, seconds=None, total=None, rows=None, job=None)
    found = compare(A, B)
    assert (found.rows, found.nodes, found.options, found.a.job) == (Rows(same=2), [], [], "Told")
    assert found.notes == ["A has no record of its options and graph and figures, which are not compared."]


def test_a_run_whose_record_is_lost_is_compared_by_its_parts() -> None:
    write("in.parquet", {"key": ["k", "l"], "text": texts(["x", "y"])})
    for name in "ab":
        submit(name, input_columns=["text"], id_column="key")
    record("b").unlink()
    Path(f"{B}/spec.json").unlink()
    found = compare(A, B)
    assert (found.on, found.rows, found.b.state) == ("key", Rows(same=2), "")


def test_a_damaged_part_is_refused_with_the_command_that_mends_it(command: Command) -> None:
    outputs(["x"], ["y"])
    (part,) = Path(f"{B}/parts").iterdir()
    content = bytearray(part.read_bytes())
    content[10:60] = bytes(50)
    part.write_bytes(content)
    with pytest.raises(CheckpointError) as refused:
        compare(A, B)
    assert refused.value.hint == f"Run: domyn-swarm checkpoint verify --set-aside {B}"
    assert command("job", "diff", A, B).returncode == 2, "1 means that the outputs differ"
    part.write_bytes(b"PAR1")
    assert command("job", "diff", A, B).returncode == 2


def test_comparing_writes_nothing() -> None:
    outputs(["x"], ["y"])
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    compare(A, B)
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_compare_is_a_public_name() -> None:
    assert "compare" in domyn_swarm.__all__
    assert compare.__module__ == "domyn_swarm.report.comparison.compare"
