"""`domyn-swarm job graph`: which nodes a picture has, in which formats it comes, and what it makes of hostile texts."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domyn_swarm.edges import on_command_line
from domyn_swarm.engine.recording.describe import between, describe, upstream_of
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobspec import make_spec
from domyn_swarm.report.diagram import dot_of, mermaid_of, page_of, svg_or_mermaid
from domyn_swarm.report.graphviz import draw
from domyn_swarm.report.model import Figures, Graph, Node
from tests import forked
from tests.conftest import Command, job, tree

PICTURES = Path(__file__).parents[1] / "docs/pictures"
BACKENDS = ["pandas", "polars", "ray"]
MODES = {"items": [], "native": ["--native-backend"]}
BEFORE = [
    "backend", "files", "source", "schema", "columns", "store", "identified", "limited", "row_count", "found",
    "recovered", "done", "pending", "pending_count", "record",
]  # fmt: skip
NODES = {
    "items": [*BEFORE, "as_pandas", "batches", "transformed", "flushed", "compacted", "finalized"],
    "native": [*BEFORE, "batches", "transformed", "flushed", "compacted", "finalized"],
    "workers": [*BEFORE, "worker_job", "flushed", "compacted", "finalized"],
}
INPUTS = {
    "items": {
        "data_backend", "input", "backend_read_kwargs", "spec", "run_dir", "run_storage", "limit", "read_batch_size",
        "job", "stop", "meter", "checkpoint_interval", "keep_changed", "reporter", "on_error",
    },
    "native": {
        "data_backend", "input", "backend_read_kwargs", "spec", "run_dir", "run_storage", "limit", "native_batch_size",
        "job", "stop", "meter", "checkpoint_interval", "keep_changed", "reporter", "on_error",
    },
    "workers": {
        "data_backend", "input", "backend_read_kwargs", "spec", "run_dir", "run_storage", "limit", "monitor",
        "job", "keep_changed", "reporter",
    },
}  # fmt: skip
SVG = "{http://www.w3.org/2000/svg}"
TITLE = "{http://www.w3.org/1999/xlink}title"
HOSTILE = [
    "</font><script>alert(1)</script>",
    "]]> <!-- --> <![CDATA[",
    "\"quotes\" and 'quotes'",
    r"\N \G \l \\N ends in \ ".strip(),
    "two\nlines",
    "bell \x07 and escape \x1b[31m and null \x00",
    "&lt; &amp; &#92;N &copy",
    "%%{init: {}}%% --> x; end",
    "日本語 \U0001f600 e\u0301 \u202e",
    "\ufffe\ud800",
]


def graph_of(backend: str = "pandas", mode: str = "items", **options: object) -> Graph:
    return describe(make_spec({
        "job": job("Upper"), "input": "in.parquet", "output": "out.parquet", "data_backend": backend,
        "native_backend": mode == "native", **options,
    }))  # fmt: skip


def named(graph: Graph, kind: str = "node") -> list[str]:
    return [node.name for node in graph.nodes if node.kind == kind]


def node_of(graph: Graph, name: str) -> Node:
    return next(node for node in graph.nodes if node.name == name)


def drawn(graph: Graph, figures: dict[str, Figures] | None = None) -> ET.Element:
    return ET.fromstring(draw(dot_of(graph, figures), "svg"))


def boxes(svg: ET.Element) -> dict[str, ET.Element]:
    """The picture's nodes by name."""
    found = {box.get("id", ""): box for box in svg.iter(f"{SVG}g")}
    return {name.removeprefix("node-"): box for name, box in found.items() if name.startswith("node-")}


def texts(box: ET.Element) -> list[str]:
    return ["".join(text.itertext()) for text in box.iter(f"{SVG}text")]


def tooltip(box: ET.Element) -> str:
    return next(link.get(TITLE, "") for link in box.iter(f"{SVG}a"))


# Which nodes there are


@pytest.mark.parametrize("mode", MODES)
def test_the_nodes_are_those_of_the_graph_in_data_order(backend: str, mode: str) -> None:
    graph = graph_of(backend, mode)
    kind = "workers" if backend == "ray" else mode
    assert named(graph) == NODES[kind]
    assert set(named(graph, "input")) == INPUTS[kind]
    assert len(graph.nodes) == len(NODES[kind]) + len(INPUTS[kind]) + 4
    assert {node.name: node.value for node in graph.nodes if node.kind == "config"} == {
        "ids": "generated", "mode": mode, "checkpoints": "resumed", "where": "workers" if backend == "ray" else "driver"
    }  # fmt: skip
    assert graph.title == f"Upper on {backend}, {mode}"


@pytest.mark.parametrize("mode", MODES)
def test_every_edge_is_a_parameter_of_the_nodes_function_and_comes_from_before(backend: str, mode: str) -> None:
    page = importlib.import_module("domyn_dags.job")
    before: set[str] = set()
    for node in graph_of(backend, mode).nodes:
        if node.kind == "node":
            function = getattr(page, f"{node.name}__{node.variant}" if node.variant else node.name)
            assert node.inputs == list(inspect.signature(function).parameters)
            assert node.doc.startswith(inspect.getdoc(function) or "?")
            assert set(node.inputs) <= before
        before.add(node.name)


def test_a_node_says_where_its_function_stands(backend: str) -> None:
    dags = Path(importlib.import_module("domyn_dags.job").__file__ or "").parents[1]
    for node in graph_of(backend, id_column="key").nodes:
        if node.kind == "node":
            file, _, line = node.where.partition(":")
            name = f"{node.name}__{node.variant}" if node.variant else node.name
            assert (dags / file).read_text().splitlines()[int(line) - 1].startswith(f"def {name}(")


def test_options_choose_among_variants() -> None:
    given_anew = graph_of(id_column="key", resume=False)
    variants = {name: node_of(given_anew, name).variant for name in ("identified", "found", "recovered")}
    assert variants == {"identified": "given", "found": "anew", "recovered": "anew"}
    assert (node_of(given_anew, "found").inputs, node_of(given_anew, "recovered").inputs) == ([], ["store", "spec"])
    spec = make_spec({"job": job("Upper"), "input": "a.parquet", "output": "b", "data_backend": "ray"})
    assert named(describe(spec, "driver")) == NODES["items"]


@pytest.mark.parametrize(("engine", "frame"), [("pandas", "PandasStream"), ("polars", "Stream"), ("ray", "Splits")])
def test_types_are_short_and_frames_bear_the_engines_name(engine: str, frame: str) -> None:
    graph = graph_of(engine)
    kinds = {name: node_of(graph, name).type for name in named(graph)}
    assert {kinds[name] for name in ("source", "identified", "limited", "pending")} == {frame}
    assert (kinds["files"], kinds["schema"], kinds["finalized"]) == ("InputFiles", "dict[str, str]", "Artifact")
    if engine != "ray":
        assert (kinds["batches"], kinds["as_pandas"]) == ("Iterator[JobBatch]", "Iterator[pandas.DataFrame]")
        assert kinds["transformed"] == "Generator[pyarrow.Table]"


def test_native_batches_are_told_in_the_backends_words() -> None:
    assert "Pandas frames" in node_of(graph_of(mode="native"), "batches").doc
    assert "Data frames." in node_of(graph_of("polars", "native"), "batches").doc


def test_what_touches_the_world_is_marked() -> None:
    here, there = graph_of(), graph_of("ray")
    assert node_of(here, "files").effects == node_of(here, "as_pandas").effects == ["reads input"]
    assert node_of(here, "transformed").effects == ["calls job"]
    assert node_of(here, "flushed").effects == ["writes parts"]
    assert node_of(here, "record").effects == ["writes record"]
    assert node_of(here, "compacted").effects == ["writes parts"]
    assert (node_of(there, "worker_job").effects, node_of(there, "flushed").effects) == (
        [], ["reads input", "calls job", "writes parts"]
    )  # fmt: skip
    assert node_of(here, "finalized").effects == node_of(there, "finalized").effects == ["writes output"]


def test_inputs_have_the_values_that_a_run_would_give_them() -> None:
    graph = graph_of(limit=20, checkpoint_interval=2.5, backend_read_kwargs={"columns": ["text"]})
    assert {node.name: node.value for node in graph.nodes if node.kind == "input"} == {
        "data_backend": "pandas", "input": "in.parquet", "backend_read_kwargs": '{"columns":["text"]}', "spec": "Upper",
        "run_dir": ".domyn-swarm/out.parquet", "run_storage": "none", "limit": "20", "read_batch_size": "32768",
        "job": "Upper.transform_item", "stop": "", "meter": "", "checkpoint_interval": "2.5",
        "keep_changed": "false", "reporter": "", "on_error": "record",
    }  # fmt: skip


def test_secrets_stand_in_no_picture(command: Command) -> None:
    options = '{"storage_options": {"endpoint_url": "http://here", "aws_secret_access_key": "very-secret-1"}}'
    for kind in ("mmd", "dot", "html", "svg"):
        ran = command(
            "job", "graph", job("Upper"), "--backend-read-kwargs", options, "--backend-write-kwargs", options,
            "-o", f"graph.{kind}", env={"OPENAI_API_KEY": "very-secret-2"},
        )  # fmt: skip
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        text = Path(f"graph.{kind}").read_text()
        assert kind == "mmd" or "http://here" in text
        assert "very-secret" not in text


# Formats


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", BACKENDS)
def test_the_command_draws_without_data_or_endpoint(engine: str, mode: str, command: Command) -> None:
    ran = command("job", "graph", job("Upper"), "--data-backend", engine, *MODES[mode], "--output", "graph.svg")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    svg = ET.parse("graph.svg").getroot()
    kind = "workers" if engine == "ray" else mode
    assert set(boxes(svg)) == {*NODES[kind], *INPUTS[kind]}
    assert float(svg.get("width", "").removesuffix("pt")) <= 900, "1,200 pixels"
    assert tree() == {"graph.svg"}


def test_each_format_is_what_it_is_named(command: Command) -> None:
    for kind in ("svg", "png", "html", "mmd", "dot"):
        Path(f"graph.{kind}").write_text("what was here before")
        ran = command("job", "graph", job("Upper"), "-o", f"graph.{kind}")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    svg, page = Path("graph.svg").read_text(), Path("graph.html").read_text()
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>\n")
    assert "<!--" not in svg
    png = Path("graph.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert 600 <= struct.unpack(">I", png[16:20])[0] <= 1200
    assert page.startswith("<!doctype html>")
    assert svg.strip() in page
    assert "<script" not in page
    assert Path("graph.mmd").read_text().startswith("flowchart TB\n")
    assert Path("graph.dot").read_text() == dot_of(graph_of_the_command())
    assert draw(Path("graph.dot").read_text(), "svg").decode() == svg


def graph_of_the_command() -> Graph:
    return describe(make_spec({"job": job("Upper"), "input": "INPUT", "output": "OUTPUT"}))


def test_without_an_output_mermaid_is_printed(command: Command) -> None:
    ran = command("job", "graph", job("Upper"), "--limit", "5")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [line.strip() for line in ran.stdout.splitlines()]
    assert lines[0] == "flowchart TB"
    assert 'n_flushed["flushed driver<br/>FlushReport<br/>writes parts"]' in lines
    assert 'n_limit(["limit = 5"]):::input' in lines
    assert {"n_limit --> n_limited", "n_transformed --> n_flushed"} <= set(lines)
    edges = {line for line in lines if "-->" in line}
    assert len(edges) == sum(len(node.inputs) for node in graph_of().nodes)
    assert tree() == set()


def test_the_job_of_the_package_needs_no_endpoint(command: Command) -> None:
    ran = command("job", "graph")
    assert ran.returncode == 0
    assert "job = ChatCompletionJob.transform_item" in ran.stdout


WIDTHS = {
    **dict.fromkeys("cksvxyz", 0.5),
    **dict.fromkeys("ijl.,:' |/", 0.28),
    **dict.fromkeys("ftr[]()-", 0.33),
    **dict.fromkeys("mwMW", 0.85),
}


@pytest.mark.parametrize("mode", MODES)
def test_labels_fit_in_their_boxes(backend: str, mode: str) -> None:
    failed = Figures(state="failed", rows=1_234_567_890, seconds=123_456.7, error="something that is long " * 20)
    graph = graph_of(backend, mode)
    for name, box in boxes(drawn(graph, {"flushed": failed, "pending": failed})).items():
        outline = next(box.iter(f"{SVG}path")).get("d", "")
        across = [float(x) for x in re.findall(r"(-?[\d.]+),-?[\d.]+", outline)]
        for text in box.iter(f"{SVG}text"):
            size, start = float(text.get("font-size", "")), float(text.get("x", ""))
            width = sum(WIDTHS.get(letter, 0.56) for letter in text.text or "") * size
            start -= width / 2 if text.get("text-anchor") == "middle" else 0
            assert min(across) - 2 < start, (name, text.text)
            assert start + width < max(across) + 2, (name, text.text)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", BACKENDS)
def test_the_pictures_of_the_documentation_are_up_to_date(engine: str, mode: str) -> None:
    """Make them again: see the end of docs/graph.md."""
    there = ET.parse(PICTURES / f"graph-{engine}-{mode}.svg").getroot()
    now = drawn(graph_of(engine, mode, input="INPUT", output="OUTPUT"))
    assert sorted(texts(there)) == sorted(texts(now))
    titles = [sorted(title.text or "" for title in svg.iter(f"{SVG}title")) for svg in (there, now)]
    assert titles[0] == titles[1], "the same nodes and edges"


# How a run went


def test_figures_are_told_in_words_and_in_colours() -> None:
    graph = graph_of()
    svg = boxes(drawn(graph, {
        "source": Figures(state="done", rows=1000, seconds=2.44),
        "transformed": Figures(state="failed", rows=7, seconds=1, error="ValueError: no\nsecond line"),
        "flushed": Figures(state="stopped"),
        "finalized": Figures(),
    }))  # fmt: skip
    assert texts(svg["source"])[-1] == "done, 1,000 rows, 2.4 s"
    assert texts(svg["transformed"])[-2:] == ["failed, 7 rows, 1.0 s", "ValueError: no second line"]
    assert texts(svg["flushed"])[-1] == "stopped, 0.0 s"
    assert texts(svg["finalized"])[-1] == "waiting"
    states = {name: box.get("class", "").split()[-1] for name, box in svg.items() if name in ("source", "transformed")}
    assert states == {"source": "done", "transformed": "failed"}
    assert texts(svg["columns"]) == ["columns", "Columns"], "of which nothing is known"


def test_colours_are_light_on_a_card_of_their_own() -> None:
    svg = drawn(graph_of())
    card = next(svg.iter(f"{SVG}polygon"))
    assert card.get("fill") == "#ffffff"


# Hostile texts


def hostile(text: str) -> Graph:
    nodes = [
        Node("ids", kind="config", value=text),
        Node("limit", kind="input", value=text),
        Node("made", type=text, variant=text, doc=text, where=text, inputs=["limit"]),
    ]
    return Graph(text, nodes)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(text: str) -> None:
    graph = hostile(text)
    plain = re.sub("[\x00-\x08\x0b-\x1f\x7f\ufffe\ud800]", "\ufffd", text)
    svg = drawn(graph, {"made": Figures(state="failed", error=text)})
    assert {element.tag.removeprefix(SVG) for element in svg.iter()} <= {
        "svg", "g", "a", "title", "polygon", "path", "text", "polyline"
    }  # fmt: skip
    made = boxes(svg)["made"]
    assert "".join(texts(made)[-1:]) == " ".join(plain.split())
    assert plain in tooltip(made)
    value = " ".join(f"limit = {plain}".split())
    assert texts(boxes(svg)["limit"]) == [value if len(value) <= 40 else f"{value[:39]}…"]
    page = page_of(graph, draw(dot_of(graph), "svg").decode())
    assert re.findall(r"<script|<!--|\x1b|\x00", page) == []
    labels = re.findall(r'"(.*)"', mermaid_of(graph))
    assert len(labels) == 2
    assert all(re.fullmatch(r"([\w .,:/()\[\]=+·…-]|#\d+;|<br/>)*", label) for label in labels)


@settings(max_examples=10)  # Graphviz starts for each
@given(text=st.text(max_size=30))
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    svg = drawn(hostile("plain"), {"made": Figures(state="failed", error=f"<{text}>")})
    shown = tooltip(boxes(svg)["made"]).splitlines()[-1]
    assert shown.endswith(">")
    if text.isprintable():
        assert shown == f"<{text}>"


# Graphviz


@pytest.fixture
def bare() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command with an interpreter that has no Graphviz beside it, and nothing on PATH but the folder `tools`."""
    Path("tools").mkdir()
    script = Path("bare.py").absolute()
    script.write_text(
        f"import sys\nfrom domyn_swarm.cli.main import main\nsys.executable = {str(script.with_name('bare'))!r}\nmain()"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": str(Path("tools").absolute())}
        ran: subprocess.CompletedProcess[str] = forked.run(
            str(script), "job", "graph", job("Upper"), *arguments, env=environment
        )
        return ran

    return run


def tool(script: str, name: str = "dot") -> None:
    """A program in the folder that PATH names first."""
    Path("tools").mkdir(exist_ok=True)
    path = Path("tools", name)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_without_graphviz_pictures_are_refused_with_the_ways_out(
    kind: str, bare: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ran = bare("-o", f"graph.{kind}")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"Error: Graphviz for {kind.upper()} is missing or does not work.\n"
        "Install it: pip install graphviz-pure. Not needed for graph.html, graph.mmd or graph.dot.\n"
    )
    assert not Path(f"graph.{kind}").exists()


def test_without_graphviz_the_page_lays_out_the_nodes_itself(
    bare: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    for kind in ("html", "mmd", "dot"):
        ran = bare("-o", f"graph.{kind}")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    page = Path("graph.html").read_text()
    assert "<svg" not in page
    assert "<script" not in page
    assert re.findall(r"<h3>(\w+)", page) == NODES["items"]
    assert "from store, transformed, pending_count, record, meter, checkpoint_interval, on_error" in page
    assert re.findall(r"\b(?:src|href)=|url\(|@import", page) == [], "nothing is asked of anybody"
    assert Path("graph.mmd").read_text() == mermaid_of(graph_of_the_command())
    assert Path("graph.dot").read_text() == dot_of(graph_of_the_command())


def test_the_systems_graphviz_draws_when_there_is_one(
    bare: Callable[..., subprocess.CompletedProcess[str]], command: Command
) -> None:
    tool("""echo "<?xml version='1.0'?><!-- made --><svg>$*</svg>" """)
    path = f"{Path('tools').absolute()}{os.pathsep}{os.environ['PATH']}"
    for ran in (bare("-o", "a.svg"), command("job", "graph", job("Upper"), "-o", "b.svg", env={"PATH": path})):
        assert (ran.returncode, ran.stderr) == (0, "")
    assert Path("a.svg").read_text() == Path("b.svg").read_text() == "<svg>-Tsvg</svg>\n"


def test_a_graphviz_that_is_broken_is_passed_over(command: Command) -> None:
    tool("echo 'no fonts here' >&2\nexit 1")
    path = f"{Path('tools').absolute()}{os.pathsep}{os.environ['PATH']}"
    assert command("job", "graph", job("Upper"), "-o", "graph.svg", env={"PATH": path}).returncode == 0
    assert set(boxes(ET.parse("graph.svg").getroot())) == {*NODES["items"], *INPUTS["items"]}


@pytest.mark.parametrize("script", ["echo 'no fonts here' >&2; exit 1", "echo 'no fonts here' >&2", "echo text"])
def test_when_no_graphviz_works_it_is_told_what_it_said(
    script: str, bare: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    tool(script)
    ran = bare("-o", "graph.svg")
    assert ran.returncode == 2
    said = "no output" if script == "echo text" else "no fonts here"
    assert f"tools/dot: {said})" in ran.stderr
    assert not Path("graph.svg").exists()


def test_a_notebook_shows_the_picture_and_the_text() -> None:
    bundle = svg_or_mermaid(graph_of())
    assert set(bundle) == {"image/svg+xml", "text/vnd.mermaid", "text/plain"}
    assert set(boxes(ET.fromstring(bundle["image/svg+xml"]))) == {*NODES["items"], *INPUTS["items"]}
    assert bundle["text/plain"] == bundle["text/vnd.mermaid"] == mermaid_of(graph_of())


# A part of the graph


def test_upstream_of_a_node_is_what_it_is_made_from(command: Command) -> None:
    ran = command("job", "graph", job("Upper"), "--upstream-of", "columns", "-o", "graph.svg")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert set(boxes(ET.parse("graph.svg").getroot())) == {
        "backend", "files", "source", "schema", "columns", "data_backend", "input", "backend_read_kwargs", "spec",
        "job",
    }  # fmt: skip
    assert named(upstream_of(graph_of(), "finalized")) == NODES["items"]
    assert named(upstream_of(graph_of(), "backend")) == ["backend"]


def test_a_path_is_what_lies_on_ways_between_two_nodes(command: Command) -> None:
    ran = command("job", "graph", job("Upper"), "--path", "columns", "found")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.findall(r"n_\w+ --> n_\w+", ran.stdout) == ["n_columns --> n_store", "n_store --> n_found"]
    ways = between(graph_of(), "limit", "transformed")
    assert [node.name for node in ways.nodes if node.kind != "config"] == [
        "limit", "limited", "pending", "as_pandas", "batches", "transformed"
    ]  # fmt: skip
    assert {name for node in ways.nodes for name in node.inputs} == {
        "limit", "limited", "pending", "as_pandas", "batches"
    }  # fmt: skip
    assert named(between(graph_of(), "done", "done")) == ["done"]


@pytest.mark.parametrize("name", ["stor", "store__x", "STORE", "ids", "", "</x>"])
def test_unknown_names_are_refused_with_the_nearest(name: str) -> None:
    near = "Did you mean 'store'" if name.startswith("stor") else "Nodes: backend, files, "
    for refused in (
        lambda g: upstream_of(g, name),
        lambda g: between(g, name, "done"),
        lambda g: between(g, "done", name),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(repr(name))) as error:
            refused(graph_of())
        assert near in error.value.hint


def test_a_path_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        between(graph_of(), "done", "columns")
    assert (error.value.code, error.value.option, error.value.step) == ("node.unreachable", "path", "columns")
    assert "--path columns done" in on_command_line(error.value)
    with pytest.raises(ConfigurationError) as error:
        between(graph_of(), "limit", "store")
    assert (error.value.code, error.value.step) == ("node.unreachable", "store")
    assert "--upstream-of store" in on_command_line(error.value)


# Refusals


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-o", "graph.pdf"], "--output: 'graph.pdf' does not have"),
        (["-o", "graph"], "Use one of: .svg, .png, .html, .mmd, .dot."),
        (["-o", "no/folder/graph.dot"], "--output: no/folder/graph.dot cannot be written"),
        (["-o", "folder.dot"], "--output: folder.dot cannot be written"),
        (["--upstream-of", "nodes"], "--upstream-of: the graph has no node 'nodes'."),
        (["--upstream-of", "done", "--path", "files", "done"], "exclude each other"),
        (["--path", "files"], "--path"),
        (["--path", "done", "files"], "no way leads from done to files"),
        (["--data-backend", "spark"], "--data-backend: unknown backend 'spark'."),
        (["--limit", "0"], "--limit: 0 is not valid."),
        (["--backend-read-kwargs", "{"], "is not valid JSON"),
        (["--job-kwargs", '{"loud": true}'], "Upper has no field 'loud'"),
        (["--input", "in.parquet"], "No such option"),
        (["--timeout", "9"], ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_message_and_nothing_is_written(flags: list[str], said: str, command: Command) -> None:
    Path("folder.dot").mkdir()
    ran = command("job", "graph", job("Upper" if said else "Length"), *flags)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("Error: ")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert tree() == {"folder.dot"}


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nowhere:Job", "there is no module 'nowhere'"),
        (job("Nobody"), "has no class 'Nobody'"),
        ("domyn_swarm:SwarmJob", "SwarmJob is abstract"),
    ],
    ids=["module", "class", "abstract"],
)
def test_a_job_that_cannot_be_loaded_has_no_graph(reference: str, said: str, command: Command) -> None:
    ran = command("job", "graph", reference, "-o", "graph.dot")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr
    assert tree() == set()


def test_a_job_without_the_method_for_the_mode_has_no_graph(command: Command) -> None:
    ran = command("job", "graph", "--native-backend")
    assert ran.returncode == 2
    assert "ChatCompletionJob has no method transform_items_native" in ran.stderr
