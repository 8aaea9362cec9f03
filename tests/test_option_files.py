"""Option files: `job submit @job.toml` takes from a file what it takes as flags, and `job show` gives it back."""

from __future__ import annotations

import json
import math
import string
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domyn_swarm import JobSpec, make_spec
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.cli.main import app
from domyn_swarm.data.memory import IN_MEMORY
from domyn_swarm.edges import on_command_line
from domyn_swarm.engine.recording.command_line import options_with_defaults
from domyn_swarm.errors import ConfigurationError, SwarmError
from domyn_swarm.options.read_file import KINDS, read_options
from domyn_swarm.options.resolve import spec_for
from domyn_swarm.options.write_file import Format, options_of, written
from tests.conftest import Command, job, rows, tree, write
from tests.reader import commands

TOML = """
job = "jobs.py:Mine"
input = "in.parquet"
input_columns = ["a", "b"]
limit = 3
max_concurrency = 8
max_errors = 5
timeout = 60
overwrite = true
run_on = "slurm"
slurm_args = "--time=1:00:00"

[job_kwargs]
day = 2026-11-27
nested = { list = [1, "x"] }
"""
YAML = """
job: jobs.py:Mine
input: in.parquet
input_columns: [a, b]
limit: 3
max_concurrency: 8
max_errors: 5
timeout: 60
overwrite: true
run_on: slurm
slurm_args: --time=1:00:00
job_kwargs:
  day: 2026-11-27
  nested:
    list:
      - 1
      - x
id_column: null
"""
JSON = """{
  "job": "jobs.py:Mine", "input": "in.parquet", "input_columns": ["a", "b"], "limit": 3, "max_concurrency": 8,
  "max_errors": "5", "timeout": 60.0, "overwrite": true, "run_on": "slurm", "slurm_args": "--time=1:00:00",
  "job_kwargs": {"day": "2026-11-27", "nested": {"list": [1, "x"]}}
}"""


def saved(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def refusal(name: str, text: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        read_options(saved(name, text))
    return on_command_line(error.value)


# What a file says


@pytest.mark.parametrize(
    ("name", "text"), [("job.toml", TOML), ("job.yaml", YAML), ("job.YML", YAML), ("job.json", JSON)]
)
def test_a_file_says_the_same_in_each_format(name: str, text: str) -> None:
    file = read_options(saved(name, text))
    assert file.options == {
        "job": "jobs.py:Mine", "input": "in.parquet", "input_columns": ["a", "b"], "limit": 3, "max_concurrency": 8,
        "max_errors": "5", "timeout": 60.0, "overwrite": True,
        "job_kwargs": {"day": "2026-11-27", "nested": {"list": [1, "x"]}},
    }  # fmt: skip
    assert file.placement == {"run_on": "slurm", "slurm_args": "--time=1:00:00"}


def test_yaml_is_that_of_today_where_no_is_a_word() -> None:
    file = read_options(saved("job.yaml", "model: no\ncheckpoint_tag: 1:30\nlimit: 010\njob_kwargs: {on: yes}\n"))
    assert file.options == {"model": "no", "checkpoint_tag": "1:30", "limit": 10, "job_kwargs": {"on": "yes"}}


def test_a_table_may_be_json_as_on_the_command_line() -> None:
    file = read_options(saved("job.toml", """job_kwargs = '{"mark": null}'\n"""))
    assert file.options == {"job_kwargs": {"mark": None}}


def test_a_file_may_hold_every_option_of_job_submit() -> None:
    submit = dict(commands())["domyn-swarm job submit"]
    names = {parameter.name for parameter in submit.params} - {"dry_run", "as_json", "help"}
    share_a_flag = {"models", "api_key_files"}  # with `model` and `api_key_file`
    assert names | share_a_flag == {name for kind in KINDS for name in kind.__struct_fields__}


# What is refused


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("job.toml", "limit = 3\nlimt = 4", "job.toml: unknown option 'limt'.\nDid you mean 'limit'?"),
        ("job.toml", "max-concurrency = 4", "unknown option 'max-concurrency'.\nDid you mean 'max_concurrency'?"),
        ("job.yaml", "dry_run: true", "job.yaml: unknown option 'dry_run'.\nOptions: adapters, allow"),
        ("job.toml", "limit = 0", "job.toml: limit: 0 is not valid.\nIt takes: int >= 1."),
        ("job.yaml", "overwrite: yes", "job.yaml: overwrite: 'yes' is not valid.\nIt takes: bool."),
        ("job.json", '{"output_mode": "all"}', "'all' is not valid.\nIt takes: append, replace, io_only."),
        ("job.toml", 'max_concurrency = "most"', "max_concurrency: 'most' is not valid.\nIt takes: N|auto."),
        ("job.toml", "max_concurrency = 0", "max_concurrency: 0 is not valid.\nIt takes: N|auto."),
        ("job.toml", 'endpoints = "demo"', 'endpoints: \'demo\' is not valid.\nIt takes: a list. Write ["demo"].'),
        ("job.toml", "job_kwargs = 'mark'", "job_kwargs: 'mark' is not valid.\nIt takes: object."),
        ("job.toml", "max_rpm = nan", "job.toml: max_rpm: nan is not valid.\nIt takes: a JSON value."),
        ("job.toml", "detach = 1", "job.toml: detach: 1 is not valid.\nIt takes: bool."),
        ("job.toml", "a = 1\nb = ?", "is not valid TOML: Invalid value (at line 2, column 5).\nFix the file."),
        ("job.toml", "a = 1\na = 2", "is not valid TOML: Cannot overwrite a value (at "),
        ("job.yaml", "a: 1\nb: [", "is not valid YAML: expected the node content, but found '<stream end>' (at "),
        ("job.yaml", "a: 1\na: 2", 'is not valid YAML: found duplicate key "a" with value "2" (original value: "1")'),
        ("job.yaml", "a: !!python/object:os.system x", "could not determine a constructor for the tag "),
        ("job.yaml", "a: \x07", "is not valid YAML: "),
        ("job.json", "{\n'a': 1}", "is not valid JSON: Expecting property name enclosed in double quotes (at line 2, "),
        ("job.json", "[" * 100_000, "job.json is not valid JSON: "),
        ("job.yaml", "- limit", "job.yaml contains a list, not options by name.\nExample: limit = 5"),
        ("job.yaml", "", "job.yaml contains nothing, not options by name."),
        ("job.yaml", "job_kwargs: &a {a: *a}", "is not valid.\nIt takes: a JSON value."),
        ("job.ini", "", "@job.ini does not have a supported suffix.\nUse one of: .toml, .yaml, .yml, .json."),
    ],
    ids=lambda value: value[:30].replace("\n", " ") if isinstance(value, str) else None,
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_one_message_that_names_it(name: str, text: str, message: str) -> None:
    said = refusal(name, text)
    assert message in said
    assert said.startswith((name, f"@{name}"))


def test_a_file_that_cannot_be_read_is_one_message() -> None:
    Path("binary.toml").write_bytes(b"\xff\xfe")
    for name, reason in {"nowhere.toml": "No such file or directory", "binary.toml": "it is not UTF-8 text"}.items():
        with pytest.raises(ConfigurationError) as error:
            read_options(name)
        assert error.value.message == f"@{name} cannot be read: {reason}."


# On the command line


def test_flags_win_over_the_file_whose_paths_are_relative_to_the_working_folder(command: Command) -> None:
    write("in.parquet", {"text": ["a", "bb", "ccc"]})
    Path("conf").mkdir()
    saved(
        "conf/job.toml",
        f"""job = "{job("Length")}"\ninput = "in.parquet"\noutput = "out/length.parquet"\nlimit = 2\nretries = 0
        [job_kwargs]\nplus = 10\nretry_timeout = 5""",
    )
    ran = command("job", "submit", "@conf/job.toml", "--limit", "3", "--job-kwargs", '{"plus": 20}')
    assert ran.returncode == 0, ran.stderr
    assert [row["length"] for row in rows("out/length.parquet")] == [21, 22, 23]
    spec = json.loads(Path("out/.domyn-swarm/length.parquet/spec.json").read_text())
    assert [spec[name] for name in ("limit", "retries", "retry_timeout", "job_kwargs")] == [3, 0, 5.0, {"plus": 20}]


def test_a_graph_is_drawn_of_a_file_of_a_submission(capsys: pytest.CaptureFixture[str]) -> None:
    saved("job.toml", f"""job = "{job("Upper")}"\ninput = "in.parquet"\nlimit = 3\ndetach = true""")
    app(["job", "graph", "@job.toml", "--limit", "4"], standalone_mode=False)
    drawn = capsys.readouterr().out
    assert ('"input = in.parquet"' in drawn, '"limit = 4"' in drawn) == (True, True)


def refused(*arguments: str) -> str:
    with pytest.raises(SwarmError) as error:
        app([*arguments], standalone_mode=False)
    assert error.value.exit_status == 2
    return on_command_line(error.value).partition("\n")[0]


def test_a_refusal_names_the_file_s_key_unless_the_flag_was_typed() -> None:
    saved("job.toml", f"""job = "{job("Upper")}"\ninput = "nowhere.parquet"\noutput = "out.csv"\nrun_on = "moon" """)
    submit, output = ("job", "submit", "@job.toml"), ("--output", "out.parquet")
    assert refused(*submit) == "job.toml: output: 'out.csv' ends in '.csv', but outputs are always parquet."
    assert refused(*submit, "--output", "out.x") == "--output: 'out.x' ends in '.x', but outputs are always parquet."
    assert refused(*submit, *output, "--run-on", "local") == "job.toml: input: 'nowhere.parquet' does not exist."
    assert refused(*submit, *output) == "job.toml: run_on: unknown launcher 'moon'."
    assert refused(*submit, *output, "--run-on", "sun") == "--run-on: unknown launcher 'sun'."
    assert tree() == {"job.toml"}


# And back


def test_what_was_sent_is_shown_as_the_file_that_sends_it_again(command: Command, folder: Path) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    saved(
        "job.yaml",
        f"job: {job('Picky')}\ninput: in.parquet\noutput: out/upper.parquet\nretries: 0\ndetach: true\n"
        "job_name: nightly\njob_kwargs:\n  bad: |\n    two\n    lines\n",
    )
    sent = command("job", "submit", "@job.yaml")
    assert sent.returncode == 0, sent.stderr
    assert command("job", "wait", "nightly", "--timeout", "60").returncode == 0
    shown = command("job", "show", "nightly")
    assert shown.returncode == 0, shown.stderr
    assert (
        shown.stdout
        == f"""\
# Options of nightly. Submit them again with: domyn-swarm job submit @FILE

# module:Class or path/to/file.py:Class; a module or file alone is a job of steps
job = "{job("Picky")}"

# Parquet file, directory, glob, brace range (in_{{000..127}}.parquet) or URL
input = "{folder}/in.parquet"

# Parquet file, or a directory (no suffix, or a trailing /)
output = "{folder}/out/upper.parquet"

# Input column passed to the job; repeat for several
input_columns = ["text"]

# Name of an output column; repeat for several
output_columns = ["upper"]

# Retries per failed call; jobs that call an endpoint have 5 for each request
retries = 0

# Run in the background and return; the log is in the run's folder
detach = true

# Name of the run (default: the output's name)
job_name = "nightly"

# JSON object: the job's fields, or options that flags override
[job_kwargs]
bad = \"\"\"
two
lines
\"\"\"
"""
    )
    saved("again.toml", shown.stdout)
    again = command("job", "submit", "@again.toml", "--json")
    assert (again.returncode, json.loads(again.stdout)["state"]) == (0, "done")


def test_the_options_of_a_run_in_a_terminal_mean_the_same_from_another_folder(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    ran = command("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out/upper.parquet")
    assert ran.returncode == 0, ran.stderr
    monkeypatch.chdir("/")
    shown = command("job", "show", f"{folder}/out/.domyn-swarm/upper.parquet", "--json")
    assert json.loads(shown.stdout) == {
        "job": job("Upper"), "input": f"{folder}/in.parquet", "output": f"{folder}/out/upper.parquet",
        "input_columns": ["text"], "output_columns": ["upper"],
    }  # fmt: skip
    assert refused("job", "show", "upper", "--format", "ini") == "--format: 'ini' is not valid."


def test_what_was_in_memory_is_in_no_file() -> None:
    run = RunFolder("run")
    run.make()
    run.save("run.json", {})
    assert refused("job", "show", "./run") == "./run has no readable spec.json."
    run.save("spec.json", make_spec({"input": f"{IN_MEMORY}frame", "output": "out.parquet"}))
    assert refused("job", "show", "./run") == ("The input of ./run was in memory, so an option file cannot submit it.")


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12) | st.sampled_from(
    [
        "no",
        "1e3",
        "null",
        "~",
        "# x",
        "a: b",
        "- a",
        "two\nlines",
        "two\nlines\n",
        "x\n\n y \n",
        "\ttab\n",
        "\r\n",
        '"""\n',
        "'''",
    ]
)
NUMBERS = st.floats(1e-300, 1e300) | st.integers(1, 2**53).map(float)
SECONDS = st.floats(1e-300, 1e9)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
PATHS = {"input": TEXTS, "output": st.text(string.ascii_letters, min_size=1).map(lambda name: f"{name}.parquet")}
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "job": st.sampled_from(["domyn_swarm.jobs:ChatCompletionJob", job("Upper"), "no_such_module:Job"]),
    "job_kwargs": st.dictionaries(TEXTS, PLAIN, max_size=4),
    "input_columns": st.lists(TEXTS, max_size=3),
    "id_column": st.none() | TEXTS,
    "limit": st.none() | st.integers(1, 2**40),
    "overwrite": st.booleans(),
    "resume": st.booleans(),
    "output_mode": st.sampled_from(["append", "replace", "io_only"]),
    "endpoints": st.lists(TEXTS, max_size=2),
    "max_concurrency": st.none() | st.just("auto") | st.integers(1, 1000),
    "max_rpm": st.none() | NUMBERS,
    "max_errors": st.none() | st.sampled_from(["5", "2.5%", "0"]),
    "retries": st.integers(0, 9),
    "timeout": st.none() | SECONDS,
    "backend_read_kwargs": st.dictionaries(TEXTS.filter(lambda text: text != "storage_options"), PLAIN, max_size=2),
}


@given(st.fixed_dictionaries(PATHS, optional=OPTIONS), st.sampled_from(get_args(Format)))
def test_what_is_written_is_read_as_the_same_spec(options: dict[str, Any], kind: Format) -> None:
    spec = make_spec(options)
    file = read_options(saved(f"round.{kind}", written(options_of(spec, its_defaults(spec)), kind, "the options of x")))
    assert make_spec(file.options | defaults_of(spec, file.options)) == spec


def its_defaults(spec: JobSpec) -> dict[str, Any]:
    return {} if spec.job.startswith("no_such_module") else dict(options_with_defaults(spec))


def defaults_of(spec: JobSpec, options: Any) -> dict[str, Any]:
    """What the job's class says where the file is silent."""
    if spec.job.startswith("no_such_module"):
        return {}
    return {} if "retries" in options or "Chat" not in spec.job else {"retries": 5}


def test_numbers_keep_their_values() -> None:
    spec = spec_for(job("Upper"), {"input": "i", "output": "o", "timeout": math.nextafter(1, 2), "max_rpm": 1e22})
    for kind in get_args(Format):
        options = read_options(saved(f"n.{kind}", written(options_of(spec, its_defaults(spec)), kind))).options
        assert (options["timeout"], options["max_rpm"]) == (math.nextafter(1, 2), 1e22)
