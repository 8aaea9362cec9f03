"""What `--help` shows, and what near misses are answered with."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

import domyn_swarm
from domyn_swarm.cli.main import app
from domyn_swarm.declared import SECTIONS
from domyn_swarm.edges import on_command_line
from domyn_swarm.jobs import ChatCompletionJob
from tests import helps
from tests.conftest import Command, rows, write
from tests.reader import commands
from tests.refused import refusal

SUBMIT = ("job", "submit", "--input", "in.parquet", "--output", "out.parquet")


def test_the_help_of_every_command_is_as_recorded() -> None:
    """`python -m tests.helps` records it."""
    assert helps.all_of_them() == helps.FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 150, 220])
def test_help_uses_the_width_there_is_and_breaks_nothing_that_is_copied(columns: int) -> None:
    shown = helps.help_of("job submit", columns)
    options = shown[: shown.index("Examples:")]
    too_long = [line for line in options.splitlines() if len(line) > columns and " " in line.strip()]
    quoted = (
        "--time=2:00:00 --partition=cpu",
        "append|replace|io_only",
        "--no-allow-model-change",
        "Translate: {text}",
    )
    assert [line for line in too_long if not any(text in line for text in (*quoted, "MODULE:CLASS", "Usage:"))] == []
    assert [text for text in (*quoted, "(in_{000..127}.parquet)", "$DOMYN_SWARM_API_KEY") if text not in shown] == []
    assert columns < 80 or max(map(len, options.splitlines())) > columns - 12


def test_options_are_in_sections_and_required_ones_come_first() -> None:
    shown = helps.help_of("job submit", 100)
    titles = re.findall(r"^(\w.*):$", shown, re.MULTILINE)
    assert titles == ["Arguments", *(section.title for section in SECTIONS), "Other options", "Examples"]
    first = shown.partition("Input and output:\n")[2].splitlines()
    names = [line.split()[1] for line in first if re.match(r"  -\w, --", line)]
    assert names == ["--input", "--output"]
    assert shown.count("(required)") == 2


def test_every_value_has_a_name_that_means_something() -> None:
    for path, _ in commands():
        shown = helps.help_of(path.removeprefix("domyn-swarm").strip(), 100)
        assert re.findall(r"--[\w-]+ <.*", shown) == [], path
        assert re.findall(r"--[\w-]+ (?:TEXT|INTEGER|FLOAT)$", shown) == [], path


def test_the_engines_that_are_missing_are_shown_with_what_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from domyn_swarm.data.backends import registry

    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "ray" else object())
    assert "ray (pip install 'domyn-swarm[ray]')" in helps.help_of("job submit", 200)
    assert "polars (" not in helps.help_of("job submit", 200)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("job submit --promt x", "--prompt"),
        ("job submit --max-concurency 4", "--max-concurrency"),
        ("submit", "Did you mean: domyn-swarm job submit?"),
        ("sumbit --input x", "Did you mean: domyn-swarm job submit?"),
        ("status answers", "Did you mean: domyn-swarm job status?"),
        ("job sumbit", "Did you mean: domyn-swarm job submit?"),
        ("inspect x", "Did you mean: domyn-swarm checkpoint inspect?"),
        ("job submit a.toml", "Write @a.toml to read options from it."),
        ("job submit limt=3", "--limit 3"),
        ("job submit max-rpm=3", "--max-rpm 3"),
    ],
)
def test_near_misses_are_answered(typed: str, answer: str, command: Command) -> None:
    done = command(*typed.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert answer in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("given", [{"limt": 3}, {"job_kwargs": {"limt": 3}}])
def test_near_misses_are_answered_in_python(given: dict[str, object]) -> None:
    with pytest.raises(domyn_swarm.SwarmError, match="Did you mean 'limit'"):
        domyn_swarm.plan(ChatCompletionJob, input={"messages": ["x"]}, endpoints=["demo"], **given).run()


# --prompt, --system-prompt, --schema


class Rating(BaseModel):
    """A model that other processes import."""

    stars: int


SCHEMA = {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]}


def test_a_chat_job_takes_prompt_system_prompt_and_schema_as_flags(command: Command) -> None:
    write("in.parquet", {"text": ["good", "bad"]})
    Path("rating.json").write_text(json.dumps(SCHEMA))
    flags = ("--prompt", "Rate {text}", "--system-prompt", "Be strict.", "--schema", "rating.json")
    done = command(*SUBMIT, *flags, "--output-column", "stars", "--endpoint", "demo")
    assert done.returncode == 0, done.stderr
    assert [type(row["stars"]) for row in rows("out.parquet")] == [int, int]
    kwargs = json.loads(Path(".domyn-swarm/out.parquet/spec.json").read_text())["job_kwargs"]
    assert kwargs == {"prompt": "Rate {text}", "system_prompt": "Be strict.", "schema": SCHEMA}
    Path("rating.json").unlink()  # the run does not need it any more
    again = command("job", "resume", "out", "--json")
    assert again.returncode == 0, again.stderr


def test_an_option_file_takes_them_and_flags_override_job_kwargs(command: Command) -> None:
    write("in.parquet", {"text": ["a b"]})
    Path("job.toml").write_text('prompt = "One {text}"\nendpoints = ["demo"]\n[job_kwargs]\nprompt = "Two {text}"\n')
    done = command("job", "submit", "@job.toml", *SUBMIT[2:], "--system-prompt", "x")
    assert done.returncode == 0, done.stderr
    assert rows("out.parquet")[0]["answer"] == "You wrote 3 words: One a b"


@pytest.mark.parametrize(
    ("flags", "code", "about"),
    [
        (["--schema", "no.json"], "schema.unreadable", "--schema: 'no.json' cannot be read"),
        (["--schema", "no_module:Rating"], "schema.unreadable", "--schema: 'no_module:Rating' cannot be imported"),
        (["--prompt", "{"], "prompt.template", "--prompt: "),
        (["domyn_swarm.jobs:EmbeddingJob", "--prompt", "x"], "job.unknown_field", "--prompt: "),
    ],
)
def test_what_cannot_work_names_the_flag(flags: list[str], code: str, about: str) -> None:
    write("in.parquet", {"text": ["a"]})
    error = refusal(*flags[:-2], *SUBMIT[2:], *flags[-2:], "--endpoint", "demo")
    assert (error.exit_status, error.code) == (2, code)
    assert on_command_line(error).startswith(about)


@pytest.mark.parametrize("how", ["field", "option", "job kwargs"])
def test_a_pydantic_class_is_a_schema_in_python(how: str) -> None:
    frame = {"text": ["good", "bad"]}
    job = ChatCompletionJob(prompt="Rate {text}", schema=Rating) if how == "field" else ChatCompletionJob
    options = {
        "field": {},
        "option": {"prompt": "Rate {text}", "schema": Rating},
        "job kwargs": {"job_kwargs": {"prompt": "Rate {text}", "schema": Rating}},
    }[how]
    plan = domyn_swarm.plan(job, input=frame, endpoints=["demo"], output_columns=["stars"], **options)
    assert plan.spec.job_kwargs["schema"] == f"{__name__}:Rating"
    assert plan.run().columns.tolist() == ["text", "stars"]


def test_a_pydantic_class_that_only_this_process_knows_is_sent_as_its_schema() -> None:
    class Here(BaseModel):
        stars: int

    job = ChatCompletionJob(prompt="Rate {text}", schema=Here)
    assert job.schema == Here.model_json_schema()
    assert app is not None
    assert __name__ in sys.modules
