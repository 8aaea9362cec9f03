"""The report of a run as people see it: in a real browser, from disk and from a server."""

from __future__ import annotations

import http.server
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from domyn_swarm.report.files import picture_of
from domyn_swarm.report.model import Report
from domyn_swarm.report.page import render
from tests import view_examples as examples
from tests.browser import Browser, Tab, browser

__all__ = ["browser"]

EXAMPLES = ["finished", "broken", "interrupted", "running", "on_ray", "empty"]
THEMES = ["light", "dark"]
Show = Callable[..., Tab]


def in_both_pictures(*names: str) -> pytest.MarkDecorator:
    """Examples with the picture that Graphviz drew, and with that the page draws. All but the first are stress."""
    return pytest.mark.parametrize(
        ("name", "drawn"),
        [
            pytest.param(name, drawn, id=f"{name}, {by}", marks=[pytest.mark.stress] if number else [])
            for drawn, by in ((True, "Graphviz drew it"), (False, "the page draws it"))
            for number, name in enumerate(names)
        ],
    )


NASTY = pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=name, marks=[pytest.mark.stress] if name in ("unicode", "long") else [])
        for name, text in zip(("script", "end of script", "quotes", "unicode", "long"), examples.NASTY, strict=True)
    ],
)


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Show:
    """Open the page of a report from disk."""

    def opened(report: Report, picture: str = "", **options: Any) -> Tab:
        return browser.open(examples.save(render(report, picture), tmp_path / "report.html"), **options)

    return opened


# What each kind of run shows


def test_a_finished_run_is_told_in_order(show: Show) -> None:
    tab = show(examples.finished())
    assert tab.text("h1") == "domyn_swarm.jobs:ChatCompletionJob"
    assert tab.text("#top .badge") == "✓ done"
    assert facts(tab, "#top") == {
        "Run": "out/reviews.checkpoints/reviews", "Number": "3", "Started": "2026-11-25 10:43:33 UTC",
        "Ended": "2026-11-25 10:50:40 UTC", "Duration": "7 min 7 s", "Host": "worker-7",
        "Updated": "2026-11-25 10:50:40 UTC",
    }  # fmt: skip
    assert tab.page.title() == "✓ domyn_swarm.jobs:ChatCompletionJob: done"
    assert headings(tab) == [
        "Rows", "Warnings", "Graph", "Over time", "Failures", "Row history", "All nodes", "Parts and output",
        "Configuration", "Versions",
    ]  # fmt: skip


def test_rows_are_a_funnel(show: Show) -> None:
    tab = show(examples.finished())
    assert bars(tab) == [
        ["In the input", "120,000 rows", "100 %"],
        ["Done before", "30,000 rows", "25 %"],
        ["Finished now", "90,000 rows", "75 %"],
        ["Failed", "1,234 rows", "1.0 %"],
    ]
    spans = tab.page.locator("#rows .bar > span").evaluate_all("all => all.map(it => [it.style.left, it.style.width])")
    assert spans[1:3] == [["0%", "25%"], ["25%", "75%"]]
    assert facts(tab, "#rows")["Speed"] == "211 rows/s on average"
    assert facts(tab, "#rows")["Prompt tokens"] == "40,112,345"


def test_failures_stand_by_kind_with_examples_that_fold_out(show: Show) -> None:
    tab = show(examples.finished())
    kinds = tab.page.locator("#failures .kind")
    assert kinds.locator(".headline").all_inner_texts() == [
        "TimeoutError\n1,000 rows, 81.0 %", "KeyError\n233 rows, 18.9 %", "ValueError\n1 row, < 0.1 %",
    ]  # fmt: skip
    assert not tab.page.get_by_text("r-00301").is_visible()
    kinds.nth(0).locator("summary").click()
    assert kinds.nth(0).locator(".example").all_inner_texts()[0] == "r-00301, 5 attempts\n\nNo answer in 60 s (try 2)"
    kinds.nth(1).locator("summary").first.click()
    kinds.nth(1).locator(".example summary").click()
    assert kinds.nth(1).locator("pre").inner_text() == examples.TRACE


def test_all_nodes_stand_in_a_table_with_their_share_of_the_time(show: Show) -> None:
    tab = show(examples.finished())
    lines = cells(tab, "#nodes tr")
    assert lines[0] == ["Node", "State", "Rows in", "Rows out", "Batches", "Time", "Share of time", "Memory"]
    assert [line[0] for line in lines[1:]] == [name.partition("__")[0] for name in examples.ITEMS]
    assert lines[18] == ["transformed", "✓ done", "90,000", "90,000", "88", "6 min 59 s", "98.2 %", "412 MB"]


def test_options_that_were_given_come_first_and_defaults_are_folded(show: Show) -> None:
    tab = show(examples.finished())
    assert cells(tab, "#options .body > .scroll tbody tr") == [
        ["--input", "in.parquet"],
        ["--output", "out/reviews.parquet"],
        ["--job-arg", 'prompt="Is it good? {text}"'],
    ]
    assert not tab.page.get_by_text("--checkpoint-interval").is_visible()
    tab.page.get_by_text("Defaults (4)").click()
    assert tab.page.get_by_text("--checkpoint-interval").is_visible()


def test_output_parts_damage_and_versions(show: Show) -> None:
    report = examples.finished()
    report.damaged = ["part-3.parquet"]
    tab = show(report)
    assert facts(tab, "#output") == {
        "Output": "out/reviews.parquet", "Failed rows": "out/reviews.errors.parquet",
        "Checkpoints": "42 parts, 182 MB", "Quarantined parts": "part-3.parquet",
    }  # fmt: skip
    assert facts(tab, "#versions") == report.versions
    assert tab.page.locator("#warnings li").all_inner_texts() == ["12 rows have an empty text."]


def test_a_page_from_disk_names_the_commands_that_look_further(show: Show) -> None:
    report = examples.finished()
    report.path = "my runs/it's"
    tab = show(report)
    assert tab.page.locator("#row pre").all_inner_texts() == [
        """domyn-swarm job row 'my runs/it'"'"'s' ID""",
        """domyn-swarm job view 'my runs/it'"'"'s'""",
    ]
    assert tab.page.locator("input, select, form").count() == 0


def test_a_run_that_broke_says_where_why_and_how_to_go_on(show: Show) -> None:
    tab = show(examples.broken())
    assert headings(tab)[:3] == ["Error", "Resume", "Rows"]
    assert tab.text("#top .badge") == "✕ failed"
    told = tab.text("#broken")
    assert "In the node transformed" in told
    assert "domyn_swarm.errors.JobError" in told
    assert "the model 'tiny' is not served at http://gpu-3:8000/v1" in told
    assert "Give one with --model." in told
    assert "line 58, in parse" not in told
    tab.page.locator("#broken summary").click()
    assert tab.text("#broken pre") == examples.TRACE


def test_the_node_that_broke_is_selected_and_red(show: Show) -> None:
    report = examples.broken()
    assert report.broken
    report.broken.node = "flushed"
    report.figures["flushed"].state = "failed"
    tab = show(report)
    assert selected(tab) == "flushed"
    assert tab.text("#panel .headline") == "flushed\n✕ failed"
    red, green, blue = color(tab, "#node-flushed rect", "stroke")
    assert red > 1.5 * max(green, blue)
    tab.page.locator("#node-source").click()
    tab.page.locator("#broken .link").click()
    assert selected(tab) == "flushed"


def test_the_resume_command_is_copied(browser: Browser, tmp_path: Path) -> None:
    page = examples.save(render(examples.broken()), tmp_path / "report.html")
    tab = browser.open(page, permissions=["clipboard-read", "clipboard-write"])
    tab.page.locator("#resume button").click()
    tab.page.locator("#resume [role=status]", has_text="Copied").wait_for()
    assert tab.page.evaluate("navigator.clipboard.readText()") == examples.broken().resume


def test_an_interrupted_run_says_what_it_did_not_reach(show: Show) -> None:
    tab = show(examples.interrupted())
    assert tab.text("#top .badge") == "■ interrupted"
    assert headings(tab)[0] == "Resume"
    assert tab.text("#resume pre") == examples.interrupted().resume
    assert bars(tab)[-1] == ["Not reached", "58,500 rows", "48.8 %"]
    assert facts(tab, "#output") == {"Checkpoints": "42 parts, 182 MB"}
    assert selected(tab) == "transformed"


def test_a_running_run_says_what_is_still_to_go(show: Show) -> None:
    tab = show(examples.running())
    assert tab.text("#top .badge") == "▸ running"
    assert "Ended" not in facts(tab, "#top")
    assert headings(tab)[0] == "Rows"
    assert bars(tab)[-1] == ["Remaining", "58,500 rows", "48.8 %"]
    assert tab.text("#panel .headline") == "transformed\n▸ running"


def test_what_there_is_none_of_is_left_out(show: Show) -> None:
    tab = show(examples.on_ray())
    assert "Failures" not in headings(tab)
    assert tab.page.locator("#time h3").all_inner_texts() == ["Rows per second", "Calls in flight", "Memory"]
    assert tab.page.locator("#node-worker_job").count() == 1
    assert tab.page.locator("#node-batches").count() == 0
    assert headings(show(examples.empty())) == ["Row history"]


def test_an_input_without_rows_says_so(show: Show) -> None:
    report = examples.finished()
    report.total = report.done_before = report.rows = report.failed = 0
    assert "The input has no rows." in show(report).text("#rows")


# One file that needs nothing and trusts nothing


@in_both_pictures(*EXAMPLES)
def test_it_opens_from_disk_without_an_error_and_asks_nobody(show: Show, name: str, drawn: bool) -> None:
    report = getattr(examples, name)()
    tab = show(report, examples.picture(report) if drawn else "")
    for summary in tab.page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    assert tab.errors == []
    assert [url.rpartition("/")[2] for url in tab.requests] == ["report.html"]


@NASTY
def test_texts_stay_texts_wherever_they_stand(show: Show, text: str) -> None:
    tab = show(examples.nasty(text))
    for summary in tab.page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    for place in ("h1", ".kicker", ".said", "#warnings li", "#resume pre", "#broken pre", "#failures h3", "#panel td"):
        assert tab.page.locator(place).first.evaluate("it => it.textContent") == text, place
    assert tab.page.locator("script").count() == 2
    assert tab.page.locator("img").count() == 0
    assert tab.page.evaluate("typeof ran") == "undefined"
    assert tab.errors == []
    assert len(tab.requests) == 1


def test_a_picture_cannot_run_or_load_anything(show: Show) -> None:
    report = examples.finished()
    harm = """<script>window.ran = 1</script><style>@import url(http://127.0.0.1:9/a.css);</style>
    <image href="http://127.0.0.1:9/a.png"/><foreignObject><iframe xmlns="http://www.w3.org/1999/xhtml"/></foreignObject>
    <a xlink:href="javascript:alert(1)"><text onclick="alert(2)">here</text></a></svg>"""
    tab = show(
        report, examples.picture(report).replace("</svg>", harm).replace("<svg ", '<svg onload="window.ran = 2" ')
    )
    inside = "#picture :is(script, style, image, foreignObject, iframe)"
    assert tab.page.locator(inside).count() == 0
    attributes = "all => all.flatMap(it => it.getAttributeNames()).filter(name => /^on|href/.test(name))"
    assert tab.page.locator("#picture *").evaluate_all(attributes) == []
    assert tab.page.locator("#picture a", has_text="here").count() == 1
    assert tab.page.evaluate("window.ran") is None
    assert len(tab.requests) == 1
    assert [it for it in tab.errors if "has been blocked" not in it] == []


def test_a_picture_that_is_none_is_replaced_by_a_drawing(show: Show) -> None:
    tab = show(examples.finished(), "Error: <b>dot is not there</b>")
    assert tab.page.locator("#picture g.node").count() == len(examples.ITEMS)


def test_nothing_but_its_own_script_runs_in_the_page(show: Show) -> None:
    tab = show(examples.finished())
    add = "const it = document.createElement('script'); it.textContent = 'window.ran = 1'; document.body.append(it)"
    tab.page.evaluate(add)
    assert tab.page.evaluate("window.ran") is None
    assert len(tab.errors) == 1
    assert "Content Security Policy" in tab.errors[0]
    assert re.search(r'<[^>]+\son\w+="', render(examples.finished()).split("<script")[0]) is None


def test_only_a_live_page_may_ask_its_server() -> None:
    assert "connect-src" not in render(examples.finished())
    assert "connect-src 'self';" in render(examples.finished(), live=True)


# The graph


@pytest.mark.parametrize("drawn", [True, False], ids=["Graphviz drew it", "the page draws it"])
def test_clicking_a_node_shows_all_that_is_known_of_it(show: Show, drawn: bool) -> None:
    report = examples.finished()
    tab = show(report, examples.picture(report) if drawn else "")
    assert selected(tab) == "transformed"
    tab.page.locator("#node-pending").click()
    assert selected(tab) == "pending"
    assert tab.text("#panel h3") == "pending"
    assert "The rows of `limited` that have no output yet, in input order." in tab.text("#panel")
    assert "30,000 rows: finished by earlier runs" in tab.text("#panel")
    told = facts(tab, "#panel")
    assert told["Inputs"].split() == ["backend", "limited", "done"]
    assert set(told["Used by"].split()) == {"as_pandas", "pending_count"}
    assert told["Source"].startswith("domyn_dags/job.py:")
    assert (told["Rows in"], told["Rows out"], told["Time"]) == ("120,000", "90,000", "52 ms")
    tab.page.locator("#panel .link", has_text="done").click()
    assert selected(tab) == "done"
    tab.page.locator("#panel .link", has_text="found").click()
    assert (selected(tab), facts(tab, "#panel")["Variant"]) == ("found", "resumed")


def test_the_panel_shows_schema_sample_and_effects(show: Show) -> None:
    tab = show(examples.finished())
    assert facts(tab, "#panel")["Effects"] == "calls job"
    assert facts(tab, "#panel")["Memory"] == "412 MB"
    schema, sample = tab.page.locator("#panel table").all()
    assert schema.locator("tr").all_inner_texts()[1:3] == ["__position__\tint64", "review_id\tstring"]
    assert sample.locator("th").all_inner_texts() == ["__position__", "review_id", "output", "__failure__"]
    assert sample.locator("tbody tr").count() == 4
    assert "The reviewer is unhappy with the product." in sample.inner_text()


def test_what_a_node_was_given_is_shown_though_it_is_not_drawn(show: Show) -> None:
    tab = show(examples.finished())
    tab.page.locator("#node-files").click()
    tab.page.locator("#panel .link", has_text="input").click()
    assert tab.text("#panel .headline") == "input\ninput"
    assert facts(tab, "#panel")["Value"] == "in.parquet"
    assert selected(tab) is None


@pytest.mark.parametrize("key", ["Enter", " "])
def test_keys_go_from_node_to_node_and_select(show: Show, key: str) -> None:
    tab = show(examples.finished())
    tab.page.locator("#node-transformed").focus()
    tab.page.keyboard.press("ArrowUp")
    assert focused(tab) == "node-batches"
    assert selected(tab) == "transformed"
    tab.page.keyboard.press(key)
    assert (selected(tab), focused(tab)) == ("batches", "node-batches")
    for arrow, there in [("ArrowDown", "transformed"), ("ArrowDown", "flushed"), ("ArrowDown", "compacted")]:
        tab.page.keyboard.press(arrow)
        assert focused(tab) == f"node-{there}"
    tab.page.keyboard.press("ArrowDown")
    assert focused(tab) == "node-finalized"
    assert tab.page.locator("#picture [tabindex='0']").count() == 1


def test_the_focus_can_be_seen(show: Show) -> None:
    tab = show(examples.finished())
    for _ in range(40):
        tab.page.keyboard.press("Tab")
        outline = tab.page.evaluate("getComputedStyle(document.activeElement).outline")
        assert "3px" in outline, tab.page.evaluate("document.activeElement.outerHTML.slice(0, 99)")
        if focused(tab) == "node-transformed":
            return
    pytest.fail("the graph cannot be reached with the Tab key")


def test_zoom_and_pan_change_the_view_and_fit_restores_it(show: Show) -> None:
    tab = show(examples.finished())
    whole = view(tab)
    box = tab.page.locator("#picture").bounding_box()
    tab.page.locator("#picture").scroll_into_view_if_needed()
    box = tab.page.locator("#picture").bounding_box()
    corner = (box["x"] + 12, box["y"] + 300)

    tab.page.locator("#zoom-in").click()
    assert view(tab)[2] == pytest.approx(whole[2] / 1.25, rel=1e-3)
    tab.page.mouse.move(*corner)
    tab.page.mouse.down()
    tab.page.mouse.move(corner[0] + 60, corner[1] + 40, steps=4)
    tab.page.mouse.up()
    moved = view(tab)
    assert moved[2] == pytest.approx(whole[2] / 1.25, rel=1e-3)
    assert moved[0] < whole[0] + whole[2] * 0.1 - 20
    tab.page.locator("#fit").click()
    assert view(tab) == whole

    tab.page.locator("#zoom-out").click()
    assert view(tab)[2] == pytest.approx(whole[2] * 1.25, rel=1e-3)
    tab.page.locator("#node-transformed").focus()
    tab.page.keyboard.press("+")
    assert view(tab) == pytest.approx(whole, abs=0.1)
    tab.page.keyboard.press("-")
    tab.page.keyboard.press("0")
    assert view(tab) == whole


def test_dragging_over_a_node_does_not_select_it(show: Show) -> None:
    tab = show(examples.finished())
    tab.page.locator("#node-flushed").scroll_into_view_if_needed()
    box = tab.page.locator("#node-flushed").bounding_box()
    tab.page.mouse.move(box["x"] + 20, box["y"] + 10)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 50, box["y"] + 15, steps=4)
    tab.page.mouse.up()
    assert selected(tab) == "transformed"
    tab.page.locator("#node-flushed").click()
    assert selected(tab) == "flushed"


def test_the_wheel_zooms_with_ctrl_only_and_around_the_pointer(show: Show) -> None:
    tab = show(examples.finished())
    whole = view(tab)
    tab.page.locator("#node-limited").hover()
    before = middle(tab, "#node-limited")
    tab.page.keyboard.down("Control")
    tab.page.mouse.wheel(0, -120)
    tab.page.wait_for_function(
        "it => document.querySelector('#picture svg').getAttribute('viewBox') != it",
        arg=" ".join(f"{n:g}" for n in whole),
    )
    tab.page.keyboard.up("Control")
    assert view(tab)[2] < whole[2]
    assert middle(tab, "#node-limited") == pytest.approx(before, abs=2)
    zoomed = view(tab)
    tab.page.mouse.wheel(0, 120)
    tab.page.wait_for_function("scrollY > 0")
    assert view(tab) == zoomed


@pytest.mark.parametrize("name", ["finished", pytest.param("on_ray", marks=pytest.mark.stress)])
def test_the_page_draws_the_graph_itself_when_it_has_no_picture(show: Show, name: str) -> None:
    report = getattr(examples, name)()
    tab = show(report)
    computed = {node.name: node for node in report.graph.nodes if node.kind == "node"}
    boxes = {it: tab.page.locator(f"#node-{it} rect").bounding_box() for it in computed}
    edges = tab.page.locator("#picture g.edge title").evaluate_all("all => all.map(it => it.textContent)")
    assert set(edges) == {f"{one}->{node.name}" for node in computed.values() for one in node.inputs if one in computed}
    for one, other in (edge.split("->") for edge in edges):
        assert boxes[one]["y"] + boxes[one]["height"] < boxes[other]["y"], f"{other} stands below {one}"
    names = list(computed)
    overlaps = [(a, b) for a in names for b in names if a < b and overlap(boxes[a], boxes[b])]
    assert overlaps == []
    spill = "all => all.filter(it => it.getBBox().width > it.parentNode.querySelector('rect').getBBox().width)"
    assert tab.page.locator("#picture .node text").evaluate_all(spill) == []
    near = tab.page.locator("#picture g.edge.near title").evaluate_all("all => all.map(it => it.textContent)")
    assert set(near) == {edge for edge in edges if "transformed" in edge.split("->")}


def test_a_picture_that_is_too_small_to_read_on_a_phone_gives_way_to_the_drawing(show: Show) -> None:
    report = examples.finished()
    tab = show(report, examples.picture(report).replace('"0.00 0.00 300.00', '"0.00 0.00 900.00'))
    drawing = tab.page.locator("#picture svg.drawing")
    assert drawing.count() == 0
    tab.page.locator("#node-store").click()
    tab.page.locator("#zoom-in").click()
    tab.page.set_viewport_size({"width": 390, "height": 800})
    drawing.wait_for()
    assert selected(tab) == "store"
    assert view(tab) == [float(it) for it in drawing.get_attribute("viewBox").split()]
    tab.page.set_viewport_size({"width": 1200, "height": 800})
    drawing.wait_for(state="detached")
    assert view(tab)[2] == 900
    assert tab.errors == []


@pytest.mark.parametrize("name", ["broken", pytest.param("on_ray", marks=pytest.mark.stress)])
def test_the_picture_that_graphviz_draws_is_made_for_the_page(show: Show, name: str) -> None:
    report = getattr(examples, name)()
    picture = picture_of(report)
    if not picture:
        pytest.skip("there is no Graphviz here")
    tab = show(report, picture, theme="dark")
    assert tab.page.locator("#picture svg.drawing").count() == 0
    assert selected(tab) == "transformed"
    tab.page.locator("#node-columns").click()
    assert tab.text("#panel h3") == "columns"
    near = tab.page.locator("#picture g.edge.near title").evaluate_all("all => all.map(it => it.textContent)")
    assert "schema->columns" in near
    assert "columns->store" in near
    assert [it for it in tab.page.evaluate(CONTRASTS) if it["ratio"] < 4.5] == []
    assert tab.errors == []


# Charts


def test_charts_have_axes_units_and_a_table(show: Show) -> None:
    tab = show(examples.finished())
    charts = tab.page.locator("#time figure")
    assert charts.locator("h3").all_inner_texts() == [
        "Rows per second", "Response latency", "Calls in flight", "Tokens per second", "Memory",
    ]  # fmt: skip
    labels = [chart.locator("svg text").all_text_contents() for chart in charts.all()]
    assert labels[0] == ["0", "100", "200", "300", "0", "2", "4", "6", "min since the start"]
    assert labels[1][:4] == ["0 s", "1 s", "2 s", "3 s"]
    assert labels[4][:4] == ["0 B", "200 MB", "400 MB", "600 MB"]
    assert charts.nth(0).locator(".legend span").all_inner_texts() == ["finished", "failed"]
    charts.nth(1).locator("summary").click()
    charts.nth(1).locator("table").wait_for()
    lines = cells(tab, "#time figure tr")
    assert lines[0] == ["Time", "median (p50)", "95th percentile (p95)"]
    assert lines[2:4] == [["10 s", "", ""], ["15 s", "480 ms", "1.49 s"]]
    assert len(lines) == 86


def test_a_chart_is_read_with_the_pointer_and_with_keys(show: Show) -> None:
    tab = show(examples.finished())
    chart = tab.page.locator("#time figure").nth(0)
    image, said = chart.locator("> svg"), chart.locator("output")
    image.focus()
    image.press("Home")
    assert said.inner_text() == "At 5 s: finished 0 rows/s, failed 3 rows/s"
    image.press("ArrowRight")
    image.press("ArrowRight")
    assert said.inner_text() == "At 15 s: finished 215 rows/s, failed 3 rows/s"
    assert chart.locator("circle").count() == 2
    image.press("End")
    assert said.inner_text().startswith("At 7 min 5 s")
    image.blur()
    assert said.inner_text() == ""
    box = image.bounding_box()
    image.hover(position={"x": 72 + (box["width"] - 86) * 0.5, "y": 60})
    assert re.match(r"At 3 min 3\d s: finished 2\d\d rows/s", said.inner_text())


def test_a_gap_in_the_latencies_is_a_gap_in_the_line(show: Show) -> None:
    report = examples.finished()
    report.timeline.p50[40:50] = [None] * 10
    tab = show(report)
    lines = tab.page.locator("#time figure:nth-of-type(2) > svg .series")
    assert [line.get_attribute("d").count("M") for line in lines.all()] == [2, 1]


# Design


@in_both_pictures("finished", "broken", "interrupted", "running")
def test_every_text_can_be_told_from_what_is_behind_it(show: Show, name: str, drawn: bool) -> None:
    report = getattr(examples, name)()
    tab = show(report, examples.picture(report) if drawn else "")
    tab.page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true })")
    for theme in THEMES:
        tab.page.emulate_media(color_scheme=theme)
        found = tab.page.evaluate(CONTRASTS)
        assert len(found) > 150
        assert [it for it in found if it["ratio"] < 4.5] == []
    assert color(tab, "#a_graph0 polygon", "fill") == [] if drawn else True


def test_light_and_dark_are_different(show: Show) -> None:
    light, dark = (color(show(examples.finished(), theme=theme), "body", "background-color") for theme in THEMES)
    assert min(light) > 200
    assert max(dark) < 50


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.stress] if number else []) for number, name in enumerate(EXAMPLES)]
)
def test_the_page_does_not_scroll_sideways(show: Show, name: str) -> None:
    tab = show(getattr(examples, name)(), width=1200)
    for width in (1200, 390):
        tab.page.set_viewport_size({"width": width, "height": 800})
        assert unfolded_width(tab) == width
        cut = "all => all.filter(it => it.getBoundingClientRect().right > innerWidth).map(it => it.outerHTML)"
        assert tab.page.locator("section, section > *, #picture, #panel, figure, .kind, pre").evaluate_all(cut) == []


@NASTY
def test_long_texts_do_not_widen_a_phone(show: Show, text: str) -> None:
    assert unfolded_width(show(examples.nasty(text), width=390)) == 390


def test_on_a_phone_the_panel_is_below_the_graph(show: Show) -> None:
    wide, phone = (show(examples.finished(), width=width) for width in (1200, 390))
    for tab, beside in [(wide, True), (phone, False)]:
        graph, panel = tab.page.locator("#view").bounding_box(), tab.page.locator("#panel").bounding_box()
        assert (panel["x"] > graph["x"] + graph["width"]) is beside
        assert (panel["y"] > graph["y"] + graph["height"]) is not beside


def test_charts_follow_the_width_of_the_window(show: Show) -> None:
    tab = show(examples.finished(), width=1200)
    tab.page.set_viewport_size({"width": 390, "height": 800})
    tab.page.wait_for_function("document.querySelector('figure > svg').viewBox.baseVal.width < 360")
    assert color(tab, "figure svg text", "font-size") == [13]
    assert tab.errors == []


def test_the_page_has_landmarks_names_and_one_order_of_headings(show: Show) -> None:
    tab = show(examples.broken())
    for role in ("banner", "main", "navigation"):
        assert tab.page.get_by_role(role).count() == 1
    unnamed = "all => all.filter(it => !(it.getAttribute('aria-label') || it.textContent).trim())"
    assert tab.page.locator("button, [role=button], [role=region], [role=img]").evaluate_all(unnamed) == []
    assert tab.page.get_by_role("button", name="transformed, failed").get_attribute("aria-pressed") == "true"
    levels = tab.page.locator("h1, h2, h3, h4").evaluate_all(
        "all => all.filter(it => it.offsetParent).map(it => +it.tagName[1])"
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    links = tab.page.locator("#contents a").evaluate_all("all => all.map(it => it.getAttribute('href'))")
    assert [tab.page.locator(f"{link} > h2").inner_text() for link in links] == headings(tab)


def test_movement_is_only_for_those_who_want_it(show: Show) -> None:
    behavior = "getComputedStyle(document.documentElement).scrollBehavior"
    assert show(examples.finished(), motion="reduce").page.evaluate(behavior) == "auto"
    assert show(examples.finished(), motion="no-preference").page.evaluate(behavior) == "smooth"


def test_on_paper_it_is_light_and_without_buttons(show: Show) -> None:
    tab = show(examples.broken(), theme="dark")
    tab.page.emulate_media(media="print", color_scheme="dark")
    assert max(color(tab, "body", "color")) < 60
    for control in ("#zoom-in", "#resume button", "#contents"):
        assert not tab.page.locator(control).is_visible()
    assert tab.page.locator("#node-transformed").is_visible()


# A live page


class Served:
    """A server of a live page; `report` is what it tells when it is asked."""

    def __init__(self, report: Report) -> None:
        self.report, self.asked = report, []
        self.first = render(report, live=True)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                kind, body = outer.answer(urlsplit(self.path))
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Nothing to tell."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, url: Any) -> tuple[str, bytes]:
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/":
            return "text/html; charset=utf-8", self.first.encode()
        if url.path == "/data.json":
            return "application/json", msgspec.json.encode({"report": self.report, "picture": ""})
        if url.path == "/row.json":
            known = (
                {"text": "r-1 came in,\nand <b>went</b>."} if asked["id"] == "r 1&2" else {"error": "No row has it."}
            )
            return "application/json", json.dumps(known).encode()
        start, total = int(asked["offset"]), 5
        rows = [
            {"id": f"{asked['kind']}-{at}", "message": "<i>no</i>", "attempts": 2, "trace": "here"}
            for at in range(start, min(total, start + 2))
        ]
        return "application/json", json.dumps({"rows": rows, "total": total}).encode()

    def polls(self) -> int:
        return [urlsplit(it).path for it in self.asked].count("/data.json")


@pytest.fixture
def served() -> Iterator[Served]:
    it = Served(examples.running())
    yield it
    it.server.shutdown()
    it.server.server_close()


def test_a_live_page_moves_without_losing_where_the_reader_is(browser: Browser, served: Served) -> None:
    tab = browser.open(served.url)
    tab.page.locator("#node-columns").click()
    tab.page.locator("#zoom-in").click()
    tab.page.get_by_text("Defaults (4)").click()
    tab.page.locator("#failures summary").first.click()
    tab.page.locator("#node-columns").focus()
    tab.page.evaluate("scrollTo(0, 500)")
    tab.page.wait_for_function("scrollY === 500")
    before = view(tab)

    served.report.rows, served.report.failed = 80_000, 900
    served.report.figures["columns"].rows = 77
    served.report.failures[0].count = 1_100
    tab.page.locator("#rows", has_text="80,000 rows").wait_for()
    tab.page.locator("#node-columns", has_text="77 rows").wait_for()
    assert bars(tab)[1] == ["Finished now", "80,000 rows", "66.7 %"]
    assert facts(tab, "#panel")["Rows out"] == "77"
    assert (selected(tab), focused(tab)) == ("columns", "node-columns")
    assert view(tab) == before
    assert tab.page.evaluate("scrollY") == 500
    assert tab.page.get_by_text("--checkpoint-interval").is_visible()
    assert tab.text("#failures .kind .headline >> nth=0").startswith("TimeoutError\n1,100 rows")
    assert tab.page.locator("#failures .kind details").first.get_attribute("open") == ""
    assert tab.errors == []


def test_a_live_page_shows_what_broke_when_it_breaks_and_stops_asking(browser: Browser, served: Served) -> None:
    tab = browser.open(served.url)
    assert selected(tab) == "transformed"
    served.report = examples.broken()
    served.report.broken.node = "flushed"  # type: ignore[union-attr]
    tab.page.locator("#broken").wait_for()
    assert selected(tab) == "flushed"
    assert tab.text("#top .badge") == "✕ failed"
    assert tab.page.title().startswith("✕")
    asked = served.polls()
    assert asked > 0
    tab.page.wait_for_timeout(4_500)
    assert served.polls() == asked


def test_a_live_page_of_a_run_that_is_over_does_not_ask(browser: Browser, served: Served) -> None:
    served.first = render(examples.finished(), live=True)
    tab = browser.open(served.url)
    tab.page.wait_for_timeout(2_500)
    assert served.polls() == 0


def test_a_live_page_goes_on_after_its_server_was_away(browser: Browser, served: Served) -> None:
    tab = browser.open(served.url)
    tab.page.route("**/data.json*", lambda route: route.abort())
    with tab.page.expect_event("requestfailed"):
        pass
    tab.page.unroute("**/data.json*")
    served.report.rows = 70_000
    tab.page.locator("#rows", has_text="70,000 rows").wait_for()


def test_a_live_page_looks_up_rows(browser: Browser, served: Served) -> None:
    tab = browser.open(served.url)
    tab.page.get_by_label("Row id").fill("r 1&2")
    tab.page.keyboard.press("Enter")
    tab.page.locator("#row-found pre").wait_for()
    assert tab.text("#row-found") == "r-1 came in,\nand <b>went</b>."
    tab.page.get_by_label("Row id").fill("other")
    tab.page.get_by_role("button", name="Look up").click()
    tab.page.locator("#row-found", has_text="No row has it.").wait_for()
    assert "domyn-swarm job row" not in tab.text("#row")
    assert tab.page.url == served.url
    assert tab.errors == []


def test_a_live_page_leafs_through_failed_rows_of_a_kind(browser: Browser, served: Served) -> None:
    tab = browser.open(served.url)
    ids = tab.page.locator("#failed-page .example code")
    tab.page.get_by_label("Kind").select_option(index=1)
    tab.page.locator("#failed-page", has_text="1 to 2 of 5").wait_for()
    assert ids.all_inner_texts() == ["1-0", "1-1"]
    assert tab.page.get_by_role("button", name="Previous").is_disabled()
    tab.page.get_by_role("button", name="Next").click()
    tab.page.locator("#failed-page", has_text="3 to 4 of 5").wait_for()
    tab.page.get_by_role("button", name="Next").click()
    tab.page.locator("#failed-page", has_text="5 to 5 of 5").wait_for()
    assert ids.all_inner_texts() == ["1-4"]
    assert tab.page.get_by_role("button", name="Next").is_disabled()
    tab.page.get_by_role("button", name="Previous").click()
    tab.page.locator("#failed-page", has_text="3 to 4 of 5").wait_for()
    assert tab.page.locator("#failed-page p").first.inner_text() == "<i>no</i>"
    assert tab.errors == []


def test_a_live_page_asks_only_its_own_server(browser: Browser, served: Served) -> None:
    tab = browser.open(served.url)
    with tab.page.expect_response("**/data.json*"):
        pass
    assert {urlsplit(url).netloc for url in tab.requests} == {urlsplit(served.url).netloc}


# Looking


CONTRASTS = """() => {
  const parts = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = (css) => parts(css).slice(0, 3).map((it) => it / 255)
    .map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4))
    .reduce((sum, it, at) => sum + it * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (it) => {
    const shape = it.closest("g.node")?.querySelector("rect, path, polygon");
    const fill = shape && getComputedStyle(shape).fill;
    if (fill && fill !== "none") return fill;
    for (; it; it = it.parentElement) {
      const css = getComputedStyle(it).backgroundColor;
      if ((parts(css)[3] ?? 1) > 0) return css;
    }
  };
  const written = (it) => [...it.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const shown = (it) => written(it) && it.getClientRects().length;
  const inks = [...document.querySelectorAll("body *:not(script, noscript, title)")].filter(shown);
  return inks.map((it) => {
    const ink = it.namespaceURI.endsWith("svg") ? getComputedStyle(it).fill : getComputedStyle(it).color;
    const [dim, bright] = [light(ink), light(behind(it))].sort((one, other) => one - other);
    return { text: it.textContent.slice(0, 40), ratio: (bright + 0.05) / (dim + 0.05) };
  });
}"""


def headings(tab: Tab) -> list[str]:
    """The titles of the parts that are shown, in order."""
    return [it.inner_text() for it in tab.page.locator("main > section > h2").all() if it.is_visible()]


def facts(tab: Tab, part: str) -> dict[str, str]:
    """Names and values of a part's definition list."""
    pairs = "all => all.map(it => [it.querySelector('dt').innerText, it.querySelector('dd').innerText])"
    return dict(tab.page.locator(f"{part} .facts > div").evaluate_all(pairs))


def cells(tab: Tab, rows: str) -> list[list[str]]:
    """The texts in rows of a table."""
    texts = "all => all.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    return tab.page.locator(rows).evaluate_all(texts)


def bars(tab: Tab) -> list[list[str]]:
    """The funnel: name, rows and share of each step."""
    texts = "all => all.map(it => [...it.children].slice(0, 3).map(cell => cell.innerText))"
    return tab.page.locator("#rows .bars li").evaluate_all(texts)


def selected(tab: Tab) -> str | None:
    """The node that is marked in the graph."""
    names = tab.page.locator("#picture g.node.selected").evaluate_all("all => all.map(it => it.id)")
    assert len(names) < 2
    return names[0].removeprefix("node-") if names else None


def focused(tab: Tab) -> str:
    return tab.page.evaluate("document.activeElement.id")


def view(tab: Tab) -> list[float]:
    """What the graph's box shows: x, y, width, height."""
    return [float(it) for it in tab.page.locator("#picture svg").get_attribute("viewBox").split()]


def middle(tab: Tab, selector: str) -> list[float]:
    box = tab.page.locator(selector).bounding_box()
    return [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]


def color(tab: Tab, selector: str, name: str) -> list[float]:
    """The numbers in a computed style."""
    css = tab.page.locator(selector).first.evaluate("(it, name) => getComputedStyle(it)[name]", name)
    return [float(it) for it in re.findall(r"[\d.]+", css)]


def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    apart = any(
        one[at] + one[size] <= other[at] or other[at] + other[size] <= one[at]
        for at, size in [("x", "width"), ("y", "height")]
    )
    return not apart


def unfolded_width(tab: Tab) -> float:
    """How wide the page is with all that is folded opened."""
    tab.page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true })")
    return tab.page.evaluate("document.documentElement.scrollWidth")
