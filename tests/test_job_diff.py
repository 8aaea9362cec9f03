"""`domyn-swarm job diff`, and how a comparison is shown: in a terminal, a notebook, a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from domyn_swarm import compare, masking, run
from domyn_swarm.options.resolve import spec_for
from domyn_swarm.report.comparison.model import Comparison
from tests.browser import Browser, browser  # noqa: F401 - a fixture
from tests.conftest import Command, write
from tests.test_steps import steps
from tests.two_runs import FAIL, A, B, outputs

BACKGROUND = "element => getComputedStyle(element).backgroundColor"


# The command.


def test_the_exit_status_is_that_of_diff(command: Command) -> None:
    outputs(["x", "x"], ["x", "y"])
    assert command("job", "diff", A, A).returncode == 0
    assert command("job", "diff", A, B).returncode == 1
    refused = command("job", "diff", A, "nowhere", "--html", "page.html")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "Error: 'nowhere' is not the folder of a run.\nIt is <checkpoint-dir>/<tag>.\n"
    assert not Path("page.html").exists()
    assert command("job", "diff", A).returncode == 2
    assert command("job", "diff", A, B, "--examples", "-1").returncode == 2


def test_the_command_prints_what_differs(command: Command) -> None:
    outputs(["the quick fox", "x"], ["the slow fox", "x"])
    told = command("job", "diff", A, B).stdout
    assert told.startswith("The outputs differ: 1 of 2 rows changed.\n\nA  .domyn-swarm/a.parquet: Told, done, 2 rows,")
    assert '\noptions (A -> B)\n  --input-column: ["a"] -> ["b"]\n' in told
    assert '\n_row_id 0\n  b: "the slow fox"\n  out: the quick fox -> the slow fox\n' in told
    assert "_row_id" not in command("job", "diff", A, B, "--examples", "0").stdout.partition("totals")[2]


def test_json_has_all_of_it(command: Command) -> None:
    found = outputs(["x", "x"], ["x", "y"])
    done = command("job", "diff", A, B, "--json", "--on", "_row_id")
    assert done.returncode == 1
    assert msgspec.json.decode(done.stdout, type=Comparison) == found


def test_a_page_that_cannot_be_written_is_refused(command: Command) -> None:
    outputs(["x"], ["y"])
    refused = command("job", "diff", A, B, "--html", "nowhere/page.html")
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: --html: nowhere/page.html cannot be written: No such file or directory.")


def test_texts_cannot_move_the_cursor_or_fill_the_screen() -> None:
    told = str(outputs(["\x1b[2Jx\r\n" + "w " * 2000], ["\u202ey"]))
    assert "\\x1b[2Jx\\r\\n" in told
    assert "\\u202ey" in told
    assert max(map(len, told.splitlines())) < 500


def test_keys_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-not-to-be-shown-anywhere"
    monkeypatch.setattr(masking, "_known", set())
    monkeypatch.setenv("OPENAI_API_KEY", key)
    found = outputs(
        [{"key": f"it is {key}", "n": [key]}, FAIL], [{"key": "none", "n": []}, "x"], output_columns=["key", "n"]
    )
    shown = [str(found), found._repr_html_(), msgspec.json.encode(found).decode()]
    assert [text for text in shown if key in text] == []
    assert all("it is ***" in text for text in shown)


STEPS = """
from hamilton.function_modifiers import tag


def first(text: str) -> str:
    return text + "."


@tag(keep="true")
def second(first: str) -> str:
    return first


def third(text: str, times: int = 1) -> str:
    return text * times


def batches(text: str) -> str:
    return text
"""


def test_steps_that_differ_are_listed_with_the_reason(command: Command) -> None:
    write("in.parquet", {"text": ["x"]})
    alike = {"input": "in.parquet", "output_columns": ["second", "third", "batches"]}
    run(spec_for(steps(STEPS), {**alike, "output": "a.parquet"}))
    edited = STEPS.replace('text + "."', "text * 2").replace("batches(text: str)", "batches(text: str, third: str)")
    run(spec_for(steps(edited), {**alike, "output": "b.parquet", "job_kwargs": {"times": 2}}))
    assert compare(A, A).steps == []
    found = compare(A, B)
    assert [(one.step, one.what, one.of) for one in found.steps] == [
        ("first", "code", ""), ("second", "upstream", "first"), ("third", "field", ""), ("batches", "code", ""),
    ]  # fmt: skip
    assert [one.name for one in found.fields] == ["times"]
    assert "\nsteps\n  first: its code differs\n  second: first differs\n" in command("job", "diff", A, B).stdout
    assert "<td>its code differs</td>" in found._repr_html_()


def test_models_of_steps_are_compared_by_name() -> None:
    write("in.parquet", {"text": ["x"]})
    asking = steps(
        "from domyn_swarm import Chat\n\nasync def out(text: str, judge: Chat) -> str:\n    return await judge(text)\n"
    )
    alike = {"input": "in.parquet", "endpoints": ["demo"], "preflight": False, "retries": 0}
    run(spec_for(asking, {**alike, "output": "a.parquet", "models": ["judge=demo"]}))
    run(spec_for(asking, {**alike, "output": "b.parquet", "models": ["judge=other"], "model": "demo"}))
    found = compare(A, B)
    assert [(one.step, one.what, one.of) for one in found.steps] == [("out", "model", "judge")]
    assert [(one.a, one.b) for one in found.options if one.name == "--model"] == [
        ('["judge=demo"]', 'demo, ["judge=other"]')
    ]


# The page.


def test_a_notebook_shows_a_table_that_marks_words_and_runs_nothing() -> None:
    found = outputs(["<script>alert(1)</script> old & <b>", None], ["<script>alert(1)</script> new & <b>", FAIL])
    shown = found._repr_mimebundle_()
    assert shown["text/plain"] == str(found)
    html = shown["text/html"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt; <del>old</del> &amp; &lt;b&gt;" in html
    assert "<ins>new</ins>" in html
    assert '<span class="failed">failed: JSONDecodeError' in html
    assert '<span class="nothing">(null)</span>' in html
    for forbidden in ("<script", "http:", "https:", "url(", "onload", "@import"):
        assert forbidden not in html


def test_equal_runs_are_one_line_in_a_notebook_too() -> None:
    html = outputs(["x"], ["x"])._repr_html_()
    assert "<table" in html, "their input columns differ"
    html = compare(A, A)._repr_html_()
    assert "<p>The outputs are the same: 1 row (A " in html
    assert "<table" not in html


def test_the_page_scrolls_its_rows_and_asks_for_nothing(browser: Browser, command: Command) -> None:  # noqa: F811
    outputs([f"text {number} " * 20 for number in range(40)], [f"text {number} " * 19 for number in range(40)])
    assert command("job", "diff", A, B, "--examples", "40", "--html", "page.html").returncode == 1
    page = Path("page.html").absolute().as_uri()
    for theme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(26, 30, 34)")):
        tab = browser.open(page, theme=theme)  # type: ignore[arg-type]
        assert (tab.errors, tab.requests) == ([], [page])
        assert tab.text(".headline") == "The outputs differ: 40 of 40 rows changed."
        assert tab.page.eval_on_selector(".domyn-compare", BACKGROUND) == background
        box = tab.page.locator(".scroll")
        box.evaluate("box => box.scrollTo(0, box.scrollHeight)")
        top, head_top = (box.locator(part).bounding_box()["y"] for part in ("xpath=.", "thead th >> nth=0"))
        assert box.evaluate("box => box.scrollTop") > 100
        assert abs(top - head_top) < 3, "the head of the table stays in sight"
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("body", "theme", "background"),
    [
        ('data-jp-theme-light="false"', "light", "rgb(26, 30, 34)"),
        pytest.param('data-jp-theme-light="true"', "dark", "rgb(255, 255, 255)", marks=pytest.mark.stress),
        pytest.param('class="vscode-dark"', "light", "rgb(26, 30, 34)", marks=pytest.mark.stress),
        ('class="vscode-light"', "dark", "rgb(255, 255, 255)"),
    ],
    ids=["jupyter dark", "jupyter light", "vs code dark", "vs code light"],
)
def test_a_notebooks_theme_counts_more_than_the_systems(
    body: str,
    theme: Any,
    background: str,
    browser: Browser,  # noqa: F811
) -> None:
    html = outputs(["x"], ["y"])._repr_html_()
    Path("cell.html").write_text(f"<!doctype html><body {body}>{html}", encoding="utf-8")
    tab = browser.open(Path("cell.html").absolute().as_uri(), theme=theme)
    assert tab.page.eval_on_selector(".domyn-compare", BACKGROUND) == background
