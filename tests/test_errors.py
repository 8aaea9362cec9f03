"""Errors are data: codes and fields, which each edge renders for its users."""

from __future__ import annotations

import ast
import functools
import importlib
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from domyn_swarm import plan
from domyn_swarm.checkpoint.part import DamagedPartError
from domyn_swarm.edges import COMMAND_LINE, on_command_line
from domyn_swarm.errors import (
    AGAIN,
    PYTHON,
    ConfigurationError,
    DataError,
    EndpointError,
    JobError,
    MissingDependencyError,
    OutputConflictError,
    SwarmError,
    opt,
    render,
)
from domyn_swarm.masking import hide
from domyn_swarm.options.read_file import read_options
from tests.conftest import job

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/error-codes.md"
CODE = re.compile(r"[a-z_]+\.[a-z_]+")
IMPORT = re.compile(r"from (domyn_swarm[\w.]*) import \(?([\w, ]+)")
KEY = "sk-0123456789abcdef"
DEFAULTS = {  # classes whose default code says it all
    "MissingDependencyError", "ExhaustedError", "Interrupted", "TimeUp", "OutputConflictError", "DamagedPartError",
    "UnreadableRecordError", "IndexUnavailableError",
}  # fmt: skip


def test_one_error_reads_in_the_words_of_each_edge(tmp_path: Path) -> None:
    error = DataError("'key' is null in row 2.", f"Leave {opt('id_column')} out, or {opt('resume', False)}.",
                      code="id.null", option="id_column", column="key", row=2)  # fmt: skip
    assert error.shown(COMMAND_LINE) == "--id-column: 'key' is null in row 2.\nLeave --id-column out, or --no-resume."
    assert str(error) == "id_column: 'key' is null in row 2.\nLeave id_column= out, or resume=False."
    error.given_in = {"id_column": "job.toml"}
    assert on_command_line(error).startswith("job.toml: id_column: 'key' is null in row 2.\nLeave --id-column out")


def test_an_option_that_the_message_mentions_does_not_precede_it() -> None:
    error = ConfigurationError(f"{opt('model')} is missing.", option="model")
    assert error.rendered(COMMAND_LINE) == ("--model is missing.", "")
    assert error.message == "model= is missing."


@pytest.mark.parametrize(
    ("mention", "command_line", "python"),
    [
        (opt("input_columns"), "--input-column", "input_columns="),
        (opt("output_mode", "replace"), "--output-mode replace", "output_mode='replace'"),
        (opt("overwrite", True), "--overwrite", "overwrite=True"),
        (opt("preflight", False), "--no-preflight", "preflight=False"),
        (opt("run_on", "slurm"), "--run-on slurm", "run_on='slurm'"),
        (opt("retry_timeout", 2.5), "--retry-timeout 2.5", "retry_timeout=2.5"),
        (opt("OUTPUT"), "OUTPUT", "OUTPUT"),
        (f"{AGAIN}.", "Run the same command again.", "Run it again."),
    ],
)
def test_mentions(mention: str, command_line: str, python: str) -> None:
    assert (render(mention, COMMAND_LINE), render(mention, PYTHON)) == (command_line, python)


def test_a_text_that_mentions_nothing_stays_as_it_is() -> None:
    text = "braces {id_column}, --flags, =, \\1 and %s"
    assert ConfigurationError(text).message == text


def test_python_and_an_option_file_name_the_option_in_their_way() -> None:
    with pytest.raises(DataError) as caught:
        plan(job("Upper"), input=pd.DataFrame({"text": ["a", "a"]}), id_column="text").run()
    error = caught.value
    assert (error.code, error.option, error.column) == ("id.duplicate", "id_column", "text")
    assert error.message.startswith("id_column: 'text'")
    Path("job.toml").write_text("limit = 0\n")
    with pytest.raises(ConfigurationError) as refused:
        read_options("job.toml")
    assert (refused.value.code, refused.value.option, refused.value.path) == ("option.invalid", "limit", "job.toml")
    assert on_command_line(refused.value).startswith("job.toml: limit: 0")


def test_errors_raised_as_before_have_the_code_of_their_class() -> None:
    error = ConfigurationError("message", "hint")
    assert (error.message, error.hint, error.code, error.about) == (
        "message",
        "hint",
        "configuration",
        {"code": "configuration"},
    )
    assert EndpointError("message", "hint", 429, True, 2.0, True, "busy").retry_after == 2.0
    assert str(JobError("message", "hint")) == "message\nhint"


def test_advice_is_added_to_an_error_that_passes() -> None:
    error = JobError("message", "hint", code="mine", path="x")
    error.advise(f"{AGAIN}.")
    assert (error.hint, error.code, error.path) == ("hint\nRun it again.", "mine", "x")


@pytest.mark.parametrize(
    "error",
    [
        DataError(
            "message", f"{opt('limit')}", code="id.null", option="id_column", column="a", row=3, choices=("a", "b")
        ),
        EndpointError("message", "hint", 503, code="request.refused"),
        OutputConflictError("message", "hint", "path", "run", "beside"),
        MissingDependencyError("message", command="pip install x", option="run_on"),
        DamagedPartError.of("part", "reason"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_from_other_processes_whole(error: SwarmError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.about, vars(back)) == (type(error), str(error), error.about, vars(error))


def test_no_field_holds_a_secret() -> None:
    hide(KEY)
    error = DataError(KEY, KEY, path=f"s3://{KEY}/x", column=KEY, row=KEY, choices=(KEY,))
    assert "0123456789" not in f"{error} {error.text} {error.advice} {error.about} {error.args}"


def test_the_reference_lists_every_code() -> None:
    listed = re.findall(r"^\| (?:`\w+` \| )?`([\w.]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert (_codes_given() | _default_codes()) - set(listed) == set()
    assert set(listed) - _texts() == set()


def test_every_error_has_a_code_of_its_own() -> None:
    kinds = {kind.__name__ for kind in _kinds()} - DEFAULTS
    bare = [
        f"{path}:{call.lineno}"
        for path, call in _calls()
        if isinstance(call.func, ast.Name) and call.func.id in kinds
        if not any(word.arg in ("code", None) for word in call.keywords)
    ]
    assert bare == []


@pytest.mark.parametrize("section", ["api", "jobs", "errors", "given", "protocol"])
def test_every_name_in_the_reference_can_be_imported(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs/_ext"))
    names = re.findall(r"^\.\. auto\w+:: ([\w.]+)\.(\w+)", getattr(_generated(), section)(), re.MULTILINE)
    assert len(names) > 3
    for module, name in names:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_every_import_on_a_page_works() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs/notebooks").glob("*.ipynb")]
    found = {line for page in pages for line in IMPORT.findall(page.read_text(encoding="utf-8"))}
    assert found
    for module, names in found:
        for name in names.split(","):
            assert hasattr(importlib.import_module(module), name.strip()), f"from {module} import {name}"


def _generated() -> ModuleType:
    return importlib.import_module("generated")


def _kinds() -> list[type[SwarmError]]:
    found, left = [], [SwarmError]
    while left:
        kind = left.pop()
        found.append(kind)
        left += [one for one in kind.__subclasses__() if one.__module__.startswith("domyn_swarm.")]
    return found


def _default_codes() -> set[str]:
    return {kind.default_code for kind in _kinds()}


def _calls() -> list[tuple[str, ast.Call]]:
    return [(path, node) for path, node in _nodes() if isinstance(node, ast.Call)]


@functools.cache
def _nodes() -> list[tuple[str, ast.AST]]:
    source = ROOT / "src/domyn_swarm"
    return [
        (str(path.relative_to(source)), node)
        for path in sorted(source.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    ]


def _codes_given() -> set[str]:
    values = [word.value for _, call in _calls() for word in call.keywords if word.arg == "code"]
    texts = {value.value for value in values if isinstance(value, ast.Constant)}
    return {text for text in texts if isinstance(text, str) and CODE.fullmatch(text)}


def _texts() -> set[str]:
    return {node.value for _, node in _nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)}
