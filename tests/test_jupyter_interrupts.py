"""The stop button: a real SIGINT in a real kernel keeps what has finished, and the next cell works."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

from domyn_swarm.endpoint.demo import DemoSettings, demo_server
from tests.kernel import (
    DEFINITIONS,
    EITHER_METHOD,
    METHODS,
    QUICK_ROWS,
    ROWS,
    Kernel,
    assert_short,
    at_once,
    calls,
    quick_rows_are_shown,
    slow_rows_are_asked_for,
)

pytestmark = pytest.mark.stress


@EITHER_METHOD
def test_an_interrupted_run_keeps_what_has_finished_and_goes_on_from_there(kernel: Kernel, method: str) -> None:
    kernel.run(DEFINITIONS + METHODS[method] + "plan = domyn_swarm.plan(Twice, input=texts, retries=0)")
    stopped = kernel.run("plan.run()", interrupt_when=[quick_rows_are_shown])
    assert_short(stopped)
    assert re.search(r"^\d+ rows of this run are kept in \S+ Run it again to resume\.", stopped.traceback, re.M)
    assert stopped.stderr.count("SIGINT") == 1
    assert kernel.run("1 + 1").text == "2"
    Path("quick").touch()
    assert kernel.run("plan.run()['twice'].tolist()").text == str([2 * str(row) for row in range(ROWS)])
    assert [calls()[str(row)] for row in range(QUICK_ROWS)] == [1] * QUICK_ROWS
    assert set(calls().values()) == {1, 2}


@EITHER_METHOD
def test_a_second_interrupt_ends_the_cell_at_once_and_keeps_as_much(kernel: Kernel, method: str) -> None:
    kernel.run(DEFINITIONS + METHODS[method] + "plan = domyn_swarm.plan(Twice, input=texts, retries=0)")
    assert_short(kernel.run("plan.run()", interrupt_when=[quick_rows_are_shown, at_once]))
    Path("quick").touch()
    assert kernel.run("len(plan.run())").text == str(ROWS)
    assert [calls()[str(row)] for row in range(QUICK_ROWS)] == [1] * QUICK_ROWS


@pytest.mark.parametrize(
    ("look", "method"),
    [("peek('transformed', n=8)", "def"), ("compute('transformed')", "async def"), ("compute('finalized')", "def")],
)
def test_an_interrupted_look_ends_and_the_plan_is_as_good_as_before(kernel: Kernel, look: str, method: str) -> None:
    kernel.run(DEFINITIONS + METHODS[method] + "plan = domyn_swarm.plan(Twice, input=texts, retries=0)")
    assert_short(kernel.run(f"plan.{look}", interrupt_when=[slow_rows_are_asked_for]))
    assert kernel.run("plan.peek()['text'].tolist()").text == "['0', '1', '2', '3', '4']"
    Path("quick").touch()
    assert kernel.run(f"len(plan.{look})").text == ("8" if "n=8" in look else str(ROWS))
    assert kernel.run("plan.run()['twice'].tolist()").text == str([2 * str(row) for row in range(ROWS)])


def test_an_interrupt_while_the_run_is_planned_is_as_short(kernel: Kernel) -> None:
    kernel.run(DEFINITIONS + METHODS["def"])
    kernel.run("""
def limited(identified):
    seconds("0")
    time.sleep(600)

plan = domyn_swarm.plan(Twice, input=texts)
""")
    begun = [lambda _: bool(calls())]
    assert_short(kernel.run("plan.with_nodes(limited).run()", interrupt_when=begun))
    Path("quick").touch()
    assert kernel.run("len(plan.run())").text == str(ROWS)


def test_requests_in_flight_when_a_run_is_interrupted_are_answered_and_none_is_made_twice(kernel: Kernel) -> None:
    with demo_server(DemoSettings(latency=0.3)) as url:
        kernel.run(f"""
from domyn_swarm.jobs import ChatCompletionJob

plan = domyn_swarm.plan(ChatCompletionJob, input={{"text": [str(n) for n in range(30)]}}, input_columns="text",
                        endpoints={url!r}, max_concurrency=3)
""")
        some_are_shown = [lambda cell: any(re.match("[1-9]", shown["text/plain"]) for shown in cell.updates)]
        assert_short(kernel.run("plan.run()", interrupt_when=some_are_shown))
        assert 0 < answered(url) < 30
        assert kernel.run("len(plan.run())").text == "30"
        assert answered(url) == 30


def answered(url: str) -> int:
    with urllib.request.urlopen(url.replace("/v1", "/demo/stats")) as response:
        return int(json.load(response)["answered"])


def test_an_interrupted_run_on_ray_keeps_what_has_finished_and_leaves_nothing_behind(kernel: Kernel) -> None:
    kernel.run(DEFINITIONS + METHODS["async def"])
    kernel.run("plan = domyn_swarm.plan(Twice, input=texts, retries=0, data_backend='ray')")
    assert_short(kernel.run("plan.run()", interrupt_when=[quick_rows_are_shown]))
    assert kernel.processes() == []
    Path("quick").touch()
    assert kernel.run("plan.run()['twice'].to_pylist()").text == str([2 * str(row) for row in range(ROWS)])
    assert [calls()[str(row)] for row in range(QUICK_ROWS)] == [1] * QUICK_ROWS
    assert kernel.processes() == []
