"""NaN and infinity in options are refused: JSON would make null of them, and null is what a server would get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from domyn_swarm import make_spec
from domyn_swarm.errors import ConfigurationError
from tests.conftest import Command, write

CHAT = "domyn_swarm.jobs:ChatCompletionJob"
NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("job_kwargs", {"request": {"temperature": NAN}}, "job_kwargs: nan at request.temperature"),
        ("job_kwargs", {"request": {"extra_body": {"a": [1, -INFINITY]}}}, "-inf at request.extra_body.a[1]"),
        ("job_kwargs", {"threshold": INFINITY}, "job_kwargs: inf at threshold"),
        ("backend_read_kwargs", {"fill": NAN}, "nan at fill"),
    ],
)
def test_numbers_that_json_cannot_hold_are_refused_by_their_keys(option: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said.replace("[", r"\[")):
        make_spec({"job": CHAT, "input": "in.parquet", "output": "out.parquet", option: value})


def test_a_number_in_a_file_or_in_a_class_is_refused_before_anything_is_written(command: Command) -> None:
    write("in.parquet", {"messages": ["a"]})
    Path("job.yaml").write_text("job_kwargs: {request: {top_p: .nan}}\n")
    Path("odd.py").write_text(
        "from domyn_swarm.jobs import ChatCompletionJob\n\n"
        "class Odd(ChatCompletionJob):\n    request = {'temperature': float('inf')}\n"
    )
    before = {*Path().iterdir()}
    run = ["job", "submit", CHAT, "--input", "in.parquet", "--output", "out.parquet", "--endpoint", "demo"]
    filed = command("job", "submit", "@job.yaml", *run[3:])
    classed = command(*[word.replace(CHAT, "odd.py:Odd") for word in run])
    assert (filed.returncode, classed.returncode) == (2, 2)
    assert "top_p" in filed.stderr
    assert "request.temperature" in classed.stderr
    assert {*Path().iterdir()} - before <= {Path("__pycache__")}
