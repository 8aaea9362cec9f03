"""Jobs of steps whose code changes: what did not change is kept, what did is computed again, and nothing is mixed."""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import textwrap
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from domyn_swarm import run
from domyn_swarm.engine.worker import check_code
from domyn_swarm.errors import CheckpointError, ConfigurationError, JobError
from domyn_swarm.jobs.loading import build_job, load_job_class
from domyn_swarm.options.resolve import spec_for
from tests.conftest import Command, rows, start_command, write
from tests.test_completion_jobs import echo, failures, last, said
from tests.test_endpoint import Server, serving
from tests.test_resume_properties import Cut
from tests.test_steps import CHAIN, grade, steps, submit

QUESTIONS = [f"{number}?" for number in range(20)]
OTHER_SCORE = CHAIN.replace("{question} {answer}", "{question} -> {answer}")
OTHER_PROMPT = CHAIN.replace("one sentence", "two sentences")


def expected(style: str = "one sentence", more: int = 1, questions: list[str] = QUESTIONS) -> list[dict[str, Any]]:
    """The output of CHAIN, whose score is the length of what the judge is asked."""
    answers = {question: f"<In {style}: {question}>" for question in questions}
    return [{"question": question, "score": len(question) + more + len(answers[question])} for question in questions]


class Servers:
    """The endpoint of `chat`, and that of `judge`."""

    def __init__(self, first: Server, second: Server) -> None:
        self.first, self.second = first, second

    def run(self, code: str, **options: Any) -> tuple[int, int]:
        """Run the steps of `code`; how many requests each of the two got for it."""
        before = len(self.first.bodies), len(self.second.bodies)
        submit(code, endpoints=[self.first.url, f"judge={self.second.url}"], **options)
        return len(self.first.bodies) - before[0], len(self.second.bodies) - before[1]


@pytest.fixture
def servers() -> Any:
    write("in.parquet", {"question": QUESTIONS})
    with serving(echo) as first, serving(grade) as second:
        yield Servers(first, second)


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_only_what_an_edit_touches_is_asked_again(servers: Servers, engine: str) -> None:
    options = {"data_backend": engine}
    assert servers.run(CHAIN, **options) == (20, 20)
    assert rows("out.parquet") == expected()
    assert servers.run(OTHER_SCORE, **options) == (0, 20)
    assert rows("out.parquet") == expected(more=4)
    assert servers.run(OTHER_PROMPT, **options) == (20, 20)
    assert rows("out.parquet") == expected("two sentences")
    assert servers.run(f"# a comment\n{OTHER_PROMPT}", **options) == (0, 0)
    assert servers.run(CHAIN, **options) == (0, 0)  # as it was at first
    assert rows("out.parquet") == expected()
    assert servers.run(OTHER_PROMPT, **options) == (0, 0)
    assert rows("out.parquet") == expected("two sentences")


def test_an_endpoint_that_nothing_is_asked_of_may_be_gone(servers: Servers) -> None:
    servers.run(CHAIN)
    seen = len(servers.first.headers)
    servers.run(OTHER_SCORE)
    assert len(servers.first.headers) == seen  # not even for its models
    servers.first.url = "http://127.0.0.1:9/v1"
    assert servers.run(CHAIN.replace("{question} {answer}", "{question} == {answer}")) == (0, 20)
    with pytest.raises(ConfigurationError) as raised:
        servers.run(OTHER_PROMPT)
    assert raised.value.code == "endpoint.unusable"


def test_a_column_that_is_kept_is_taken_from_the_parts(servers: Servers) -> None:
    servers.run(CHAIN)
    assert servers.run(CHAIN, keep=["answer"]) == (0, 0)
    assert [row["answer"] for row in rows("out.parquet")] == [f"<In one sentence: {one}>" for one in QUESTIONS]
    assert servers.run(CHAIN, output_columns=["prompt"]) == (0, 0)
    assert [*rows("out.parquet")[0]] == ["question", "prompt"]
    assert servers.run(CHAIN) == (0, 0)
    assert rows("out.parquet") == expected()


def test_a_new_step_is_computed_from_columns_that_are_there(servers: Servers) -> None:
    servers.run(CHAIN)
    code = CHAIN + "\n\ndef length(answer: str) -> int:\n    return len(answer)\n"
    assert servers.run(code) == (0, 0)
    assert rows("out.parquet") == [row | {"length": len(row["question"]) + 19} for row in expected()]


def test_rows_that_an_edit_left_undone_are_computed_by_the_new_code(servers: Servers) -> None:
    servers.run(CHAIN, limit=5)
    assert servers.run(OTHER_SCORE, limit=10) == (5, 10)
    assert rows("out.parquet") == expected(more=4)[:10]
    assert servers.run(OTHER_SCORE) == (10, 10)
    assert rows("out.parquet") == expected(more=4)


def test_another_model_by_name_is_asked_for_its_steps_and_those_that_follow(servers: Servers) -> None:
    assert servers.run(CHAIN) == (20, 20)
    assert servers.run(CHAIN, models=["judge=small"]) == (0, 0)  # the one that the endpoint named
    named = {"model": "small", "models": ["judge=large"], "preflight": False}
    assert servers.run(CHAIN, limit=10, **named) == (0, 10)
    assert {body["model"] for body in servers.second.bodies[-10:]} == {"large"}
    with pytest.raises(CheckpointError) as raised:  # the endpoint would answer as "small" for the rest
        servers.run(CHAIN)
    assert raised.value.code == "job.changed"
    assert servers.run(CHAIN, **named) == (0, 10)


def test_a_field_makes_only_the_steps_that_take_it_anew(servers: Servers) -> None:
    code = CHAIN.replace("question: str, answer: str", "tone: str, question: str, answer: str")
    assert servers.run(code, job_kwargs={"tone": "calm"}) == (20, 20)
    assert servers.run(code, job_kwargs={"tone": "loud"}) == (0, 20)


def test_a_step_is_computed_anew_by_hand_and_stays_so(servers: Servers) -> None:
    servers.run(CHAIN)
    assert servers.run(CHAIN, recompute=["score"], limit=10) == (0, 10)
    assert servers.run(CHAIN) == (0, 10)  # the rest of what was begun
    assert servers.run(CHAIN) == (0, 0)
    assert servers.run(CHAIN, recompute=["prompt"]) == (20, 20)
    assert servers.run(CHAIN, output_columns=["prompt"]) == (0, 0)
    assert servers.run(CHAIN) == (0, 0)
    assert rows("out.parquet") == expected()


def test_rows_that_are_new_or_have_changed_are_computed_and_others_follow_their_ids(servers: Servers) -> None:
    write("in.parquet", {"id": [1, 2, 3], "question": ["a", "b", "c"]})
    options = {"id_column": "id"}
    assert servers.run(CHAIN, **options) == (3, 3)
    write("in.parquet", {"id": [3, 4, 1, 2], "question": ["c", "d", "other", "b"]})
    assert servers.run(OTHER_SCORE, **options) == (2, 4)
    found = [{"question": row["question"], "score": row["score"]} for row in rows("out.parquet")]
    assert found == expected(more=4, questions=["c", "d", "other", "b"])


FLAKY = """
from domyn_swarm import Chat


async def answer(question: str, chat: Chat) -> str:
    return await chat(question)


async def other(question: str, judge: Chat) -> int:
    return int(await judge(question))


async def score(answer: str, judge: Chat) -> str:
    return await judge(answer + "!")
"""


def test_a_resume_makes_only_the_calls_that_are_missing() -> None:
    write("in.parquet", {"question": QUESTIONS})
    broken = {f"<{question}>!" for question in QUESTIONS[3:5]} | {QUESTIONS[7]}

    async def judge(body: Any) -> web.Response:
        text = last(body)
        return web.Response(status=400, text="no") if text in broken else said(str(len(text)))

    with serving(echo) as first, serving(judge) as second:
        both = Servers(first, second)
        assert both.run(FLAKY, retries=0) == (20, 40)
        assert [failure[1].partition(":")[0] for failure in failures()] == ["score", "score", "other"]
        made = rows("out.parquet")
        assert [row["other"] for row in made] == [len(q) if q != QUESTIONS[7] else None for q in QUESTIONS]
        assert [row["score"] for row in made[:6]] == ["5", "5", "5", None, None, "5"]
        broken.clear()
        assert both.run(FLAKY, retries=0) == (0, 3)
        asked = Counter(last(body) for body in second.bodies[-3:])
        assert asked == Counter(["<3?>!", "<4?>!", "7?"])
        assert not Path("out.errors.parquet").exists()
        assert rows("out.parquet") == [{"question": q, "other": len(q), "score": str(len(q) + 3)} for q in QUESTIONS]


def test_a_value_that_does_not_fit_fails_its_step_and_what_follows_alone() -> None:
    write("in.parquet", {"text": ["1", "x"]})
    submit("""
    def number(text: str) -> int:
        return int(text) if text != "x" else text

    def mixed(text: str) -> object:
        return {"a": 1} if text != "x" else 5

    def following(number: int) -> str:
        return str(number)

    def apart(text: str) -> str:
        return text
    """, output_columns=["number", "mixed", "following", "apart"])  # fmt: skip
    assert rows("out.parquet") == [
        {"text": "1", "number": 1, "mixed": {"a": 1}, "following": "1", "apart": "1"},
        {"text": "x", "number": None, "mixed": None, "following": None, "apart": "x"},
    ]
    ((kind, message, _),) = failures()
    assert kind == "OutputError"
    assert message.startswith("number: ")


def test_a_worker_that_reads_an_edited_file_computes_nothing() -> None:
    write("in.parquet", {"question": QUESTIONS})
    spec = spec_for(steps(CHAIN), {"input": "in.parquet", "output": "out.parquet", "output_columns": ["score"]})
    job = build_job(load_job_class(spec.job), {})
    identity = job.facts(spec)
    steps(f"# a comment{CHAIN}")
    check_code(build_job(load_job_class(spec.job), {}), spec, identity)
    steps(OTHER_PROMPT)
    with pytest.raises(JobError) as raised:
        check_code(build_job(load_job_class(spec.job), {}), spec, identity)
    assert (raised.value.code, raised.value.step) == ("job.changed", "prompt")


# What is shown.


def test_what_is_kept_and_what_is_computed_is_said_for_each_step(servers: Servers, command: Command) -> None:
    endpoints = ["--endpoint", servers.first.url, "--endpoint", f"judge={servers.second.url}"]
    arguments = ["job", "submit", steps(CHAIN), "--input", "in.parquet", "--output", "out.parquet", *endpoints]
    planned = command(*arguments, "--dry-run").stdout
    assert "steps      answer: 0 kept, 20 to compute\n           score: 0 kept, 20 to compute\n" in planned
    assert "steps" not in command(*arguments).stdout
    steps(OTHER_SCORE)
    assert "score: 0 kept, 20 to compute (its code has changed)" in command(*arguments, "--dry-run").stdout
    summary = command(*arguments).stdout
    assert "score: 0 kept, 20 to compute (its code has changed)" in summary
    assert "answer: 20 kept, 0 to compute\n" in summary
    steps(OTHER_PROMPT.replace("{question} {answer}", "{question} -> {answer}"))
    planned = command(*arguments, "--dry-run").stdout
    assert "score: 0 kept, 20 to compute (answer is made anew)" in planned
    assert "answer: 0 kept, 20 to compute (prompt is made anew)" in planned


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_the_report_has_calls_tokens_failures_and_kept_rows_of_each_step(engine: str) -> None:
    write("in.parquet", {"question": QUESTIONS})

    async def judge(body: Any) -> web.Response:
        return said("no number" if "7?" in json.dumps(body) else "1")

    with serving(echo) as first, serving(judge) as second:
        both = Servers(first, second)
        both.run(CHAIN, data_backend=engine, retries=0)
        figures = report_of("answer", "score", "prompt")
        assert figures["answer"]["note"].startswith("20 calls")
        assert figures["score"]["note"].startswith("22 calls")  # a misfit is sent back once
        assert figures["score"]["lost"] == [{"rows": 2, "why": "failed in this step"}]
        assert (figures["prompt"]["state"], figures["prompt"]["lost"]) == ("done", [])
        both.run(OTHER_SCORE, data_backend=engine, retries=0)
        assert report_of("answer")["answer"]["note"] == "18 kept"


def report_of(*names: str) -> dict[str, Any]:
    """The figures of steps in the run's record."""
    figures = json.loads(Path(".domyn-swarm/out.parquet/run.json").read_text())["figures"]
    return {name: figures[name] for name in names}


def test_the_history_of_a_row_has_the_requests_of_steps_that_were_kept(servers: Servers, command: Command) -> None:
    servers.run(CHAIN)
    servers.run(OTHER_SCORE)
    shown = json.loads(command("job", "row", ".domyn-swarm/out.parquet", "3", "--json").stdout)
    assert shown["state"] == "done"
    steps_of = [[entry["step"] for entry in finding["trace"]] for finding in shown["findings"]]
    assert steps_of == [["score"], ["answer", "score"]]
    assert [finding["earlier"] for finding in shown["findings"]] == [False, True]
    assert shown["findings"][0]["outputs"] == {"score": 27, "answer": "<In one sentence: 3?>"}


# The laws, wherever a run is cut and whatever is edited.

LAWS = """
from hamilton.function_modifiers import tag

A, B, C = {versions}


def _asked(step: str, text: str) -> None:
    with open({folder!r} + "/calls", "a") as calls:
        calls.write(step + " " + text + chr(10))
    if (step + " " + text) in open({folder!r} + "/broken").read().splitlines():
        raise ValueError(text)


@tag(keep="true")
async def first(text: str) -> str:
    _asked("first", text + A)
    return text + A


def between(first: str) -> str:
    return first + "-"


@tag(keep="true")
async def side(text: str) -> str:
    _asked("side", text + B)
    return text + B


async def last(between: str, side: str) -> str:
    _asked("last", between + side + C)
    return between + side + C
"""


@dataclass
class Model:
    """What calls and outputs have to be, computed from nothing. `paid` are the calls that ended well."""

    folder: str
    engine: str
    versions: tuple[str, str, str] = ("a", "b", "c")
    texts: dict[int, str] = field(default_factory=lambda: {number: str(number) for number in range(100, 112)})
    broken: set[str] = field(default_factory=set)
    paid: Counter[str] = field(default_factory=Counter)
    slack: int = 0

    def calls(self, text: str) -> dict[str, str]:
        """The calls of a row, by step."""
        a, b, c = self.versions
        return {"first": f"first {text}{a}", "side": f"side {text}{b}", "last": f"last {text}{a}-{text}{b}{c}"}

    def output(self, row: int) -> dict[str, Any]:
        calls = self.calls(self.texts[row])
        made = calls["last"].removeprefix("last ")
        return {"id": row, "text": self.texts[row], "last": None if self.broken & {*calls.values()} else made}

    def move(self, move: str, one: Any, other: Any) -> None:
        """Change what a run finds; see `MOVES`."""
        row = list(self.texts)[other % len(self.texts)] if isinstance(other, int) else 0
        if move == "edit":
            self.versions = tuple(other if at == one else had for at, had in enumerate(self.versions))  # type: ignore[assignment]
        elif move == "rows":
            first = max(self.texts) + 1
            self.texts |= {number: str(number) for number in range(first, first + one)}
        elif move == "change":
            self.texts[row] = f"{row}{one}"
            self.slack += 3  # what was stored for the row is gone, even if this is undone
        elif move == "drop":
            self.texts = {number: text for number, text in self.texts.items() if number != row or number == 100}
        elif move == "turn":
            self.texts = dict(reversed(self.texts.items()))
        elif move == "break":
            self.broken |= {self.calls(self.texts[row])[one]} - self.paid.keys()  # what is stored cannot fail
        elif move == "fix":
            self.broken.clear()

    def run(self, limit: int | None, cut: int | None) -> None:
        folder = Path(self.folder)
        table = pa.table({"id": [*self.texts], "text": [*self.texts.values()]})
        # Footers tell whether an input has changed, and those of the same rows in another order may be alike.
        write(folder / "in.parquet", table.replace_schema_metadata({"rows": str(self.texts)}))
        (folder / "broken").write_text("\n".join(self.broken))
        (folder / "calls").write_text("")
        (folder / "steps.py").write_text(textwrap.dedent(LAWS.format(versions=self.versions, folder=self.folder)))
        options = {"input": f"{folder}/in.parquet", "output": f"{folder}/out.parquet", "id_column": "id",
                   "limit": limit, "max_concurrency": 3, "retries": 0, "data_backend": self.engine}  # fmt: skip
        wanted = [*self.texts][:limit]
        try:
            run(spec_for(f"{folder}/steps.py", options), Cut(cut if cut is not None else 10**9))
            assert rows(folder / "out.parquet") == [self.output(row) for row in wanted]
        except JobError as error:
            assert "RuntimeError: cut" in str(error)  # noqa: PT017 - whether a cut comes before the end is left to chance
            self.slack += len((folder / "calls").read_text().splitlines())  # none of them may be durable
        called = Counter((folder / "calls").read_text().splitlines())
        assert called.keys() <= {call for row in wanted for call in self.calls(self.texts[row]).values()}
        self.paid += Counter({call: count for call, count in called.items() if call not in self.broken})
        assert sum(count - 1 for count in self.paid.values()) <= self.slack


MOVES = st.one_of(
    st.tuples(st.just("edit"), st.integers(0, 2), st.sampled_from("xyz")),
    st.tuples(st.just("rows"), st.integers(0, 20), st.none()),
    st.tuples(st.just("change"), st.sampled_from("vw"), st.integers(0, 30)),
    st.tuples(st.just("drop"), st.none(), st.integers(0, 30)),
    st.tuples(st.just("turn"), st.none(), st.none()),
    st.tuples(st.just("break"), st.sampled_from(["first", "side", "last"]), st.integers(0, 30)),
    st.tuples(st.just("fix"), st.none(), st.none()),
    st.tuples(st.just("run"), st.none() | st.integers(1, 30), st.none() | st.integers(0, 30)),
)


@pytest.mark.stress
@pytest.mark.parametrize("engine", ["pandas", "polars"])
@settings(max_examples=60)
@given(moves=st.lists(MOVES, min_size=3, max_size=12))
def test_any_order_of_edits_cuts_limits_changed_rows_and_failures_ends_as_from_nothing(
    engine: str, moves: list[Any]
) -> None:
    play(engine, moves)


def test_edits_cuts_new_rows_and_failures_end_as_from_nothing() -> None:
    play(
        "pandas",
        [("break", "side", 3), ("run", None, 5), ("edit", 2, "x"), ("run", None, None), ("rows", 4, None),
         ("break", "last", 7), ("edit", 1, "y"), ("run", 8, None), ("change", "v", 2), ("turn", None, None),
         ("run", None, 3), ("edit", 2, "c")],
    )  # fmt: skip


def play(engine: str, moves: list[Any]) -> None:
    """Make the moves, then run to the end; each run is compared with one from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        model = Model(folder, engine)
        for move, one, other in [*moves, ("fix", None, None), ("run", None, None)]:
            if move == "run":
                model.run(one, other)
            else:
                model.move(move, one, other)


# Kills, and engines with processes of their own.


@pytest.mark.stress
@pytest.mark.parametrize("engine", ["pandas", "polars", "ray"])
def test_edits_and_kills_pay_for_nothing_twice_on_any_engine(engine: str) -> None:
    count = 3_000
    questions, moments = [f"{number}?" for number in range(count)], random.Random(engine)
    write("in.parquet", {"question": questions}, row_group_size=500)
    with serving(echo) as first, serving(grade) as second:
        arguments = [
            "job", "submit", "steps.py", "--input", "in.parquet", "--output", "out.parquet", "--data-backend", engine,
            "--endpoint", first.url, "--endpoint", f"judge={second.url}", "--checkpoint-interval", "0.2",
            "--max-concurrency", "16",
        ]  # fmt: skip

        def finished(code: str, kills: int) -> tuple[int, int]:
            """Requests to both, for a run that is killed so often."""
            steps(code)
            before = len(first.bodies), len(second.bodies)
            for _ in range(kills):
                process = start_command(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(moments.uniform(1, 4) + (6 if engine == "ray" else 0))
                process.kill()
                process.wait()
            process = start_command(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            assert process.communicate(timeout=120)[1] is not None
            assert process.returncode == 0
            return len(first.bodies) - before[0], len(second.bodies) - before[1]

        asked = finished(CHAIN, kills=1)
        assert all(number >= count for number in asked)
        assert rows("out.parquet") == expected(questions=questions)
        asked = finished(OTHER_SCORE, kills=2)
        assert asked[0] == 0
        assert asked[1] >= count
        assert rows("out.parquet") == expected(more=4, questions=questions)
        asked = finished(OTHER_PROMPT, kills=0)
        assert asked == (count, count)
        assert rows("out.parquet") == expected("two sentences", questions=questions)
        assert finished(OTHER_PROMPT + "\n# a comment\n", kills=0) == (0, 0)
