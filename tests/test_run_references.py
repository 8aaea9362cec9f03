"""A run goes by any of its names, wherever one is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command, job, run_command, write
from tests.detached import called_here, refusal, said

REFERENCES = ("answers", "answers.parquet", "out/answers.parquet", "./out/answers.parquet", "HERE/out/answers.parquet",
              "out/.domyn-swarm/answers.parquet", "@last")  # fmt: skip


def submitted(output: str, *flags: str) -> None:
    done = run_command("job", "submit", job("Upper"), "--input", "in.parquet", "--output", output, *flags)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def runs() -> None:
    write("in.parquet", {"text": ["a"]})
    submitted("old.parquet")
    submitted("out/answers.parquet")


def test_every_command_takes_each_of_them(runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    here = str(Path.cwd())
    for reference in (name.replace("HERE", here) for name in REFERENCES):
        assert [one["name"] for one in said("job", "status", reference)] == ["answers"], reference
        assert said("checkpoint", "inspect", reference)["finished"] == 1
        assert said("job", "errors", reference)["failed"] == 0
        assert said("job", "row", reference, "0")
        capsys.readouterr()
        assert called_here("job", "diff", "old", reference, "--json") == 0
        assert json.loads(capsys.readouterr().out)["rows"]["same"] == 1
        called_here("job", "show", reference)
        assert "out/answers.parquet" in capsys.readouterr().out


def test_the_output_finds_a_run_whose_folder_is_elsewhere(runs: None) -> None:
    submitted("far/away.parquet", "--checkpoint-dir", "runs")
    submitted(f"{Path.cwd()}/absolute/", "--checkpoint-dir", "runs", "--checkpoint-tag", "mine")
    assert [one["name"] for one in said("job", "status", "far/away.parquet")] == ["away"]
    assert [one["name"] for one in said("job", "status", "absolute/")] == ["absolute"]
    assert [one["name"] for one in said("job", "status", "@last")] == ["absolute"]


def test_a_name_comes_before_an_output_of_that_name(runs: None) -> None:
    submitted("second/old.parquet", "--checkpoint-tag", "answers")
    (status,) = said("job", "status", "answers")
    assert status["output"] == "out/answers.parquet"


def test_there_is_no_last_run_without_any(command: Command) -> None:
    assert refusal("job", "status", "@last") == "There is no run yet.\nStart one with: domyn-swarm job submit."


def test_what_is_no_run_is_refused_as_before(runs: None) -> None:
    assert "Did you mean: answers?" in refusal("job", "status", "answrs")
    assert "is not the folder of a run" in refusal("checkpoint", "inspect", "out/nothing.parquet")


def test_one_unknown_run_does_not_silence_the_others(runs: None, command: Command) -> None:
    done = command("job", "status", "nothing", "answers", "none", "old", "--json")
    assert done.returncode == 2
    assert [one["name"] for one in json.loads(done.stdout)] == ["answers", "old"]
    assert "'nothing'" in done.stderr
    assert "'none'" in done.stderr
    only = command("job", "status", "nothing", "--json")
    assert (only.returncode, only.stdout) == (2, "")
