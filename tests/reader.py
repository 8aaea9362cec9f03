"""Somebody who reads a page of the documentation from top to bottom, and does what it says.

Each fenced block is one of these; anything else fails:

    console    lines with a `$` are typed, in order; what stands below one is compared with what it prints; it has to
               end with `# exit status N` where it says so; a server stays up until the next one
    python     all of a page are one session
    json toml  parsed
    text       commands for a server or a cluster that is not here: their arguments are parsed; else what the block
               before it prints
    mermaid    nodes and edges of the graph
    bash       README alone: CI runs it; here, what it runs of domyn-swarm

A block after "save this as `name`" becomes that file. In what is compared, a number stands for any, `...` for anything.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from markdown_it import MarkdownIt

from domyn_swarm import make_spec
from domyn_swarm.cli.main import app
from tests import forked

ROOT = Path(__file__).parents[1]
CHECKED_BY_THE_BUILD = {"{include}", "{toctree}", "{generated}"}
SERVERS = ("domyn-swarm endpoint demo ", "domyn-swarm job view ")
ELSEWHERE = ("sphinx-build ",)
"""Commands that another test runs: tests/test_docs_site.py."""
COMMAND = re.compile(r"((?:[^\n]*\\\n)*[^\n]*)\n?(.*)", re.DOTALL)
"""A command, and what stands below it. A backslash ends a line that goes on."""
STATUS = re.compile(r"\s*# exit status (\d+)$")
SAVED = re.compile(r"[Ss]aved? (?:this\s+)?as\s+`([\w./-]+)`")
PROGRESS = r"\d\d:\d\d:\d\d .*\n"

SESSION = """
import contextlib, io, json, linecache, sys, traceback
sys.path.insert(0, "")
for number, line in enumerate(sys.stdin):
    text, name, printed, failed = json.loads(line), f"<block {number}>", io.StringIO(), False
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(text, name, "exec"), globals())
        except BaseException:
            failed = True
            traceback.print_exc(file=printed)
    print(json.dumps([failed, printed.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the paragraph before it, its line on the page."""

    language: str
    text: str
    before: str
    line: int


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order, those in lists among them."""
    found, before = [], ""
    for token in MarkdownIt().parse((ROOT / page).read_text()):
        if token.type == "fence":
            assert token.map
            found.append(Block(token.info.split(" ")[0], token.content, before, token.map[0] + 1))
        before = token.content or before if token.type in ("inline", "fence") else before
    return found


class Reader:
    """Works in `folder`, with `environment` beside the usual one. `replace`: what stands for what on the page."""

    def __init__(self, folder: Path, environment: Mapping[str, str], replace: Mapping[str, str]) -> None:
        scripts = Path(sys.executable).parent  # of the environment that the tests run in
        self._servers, self._files = contextlib.ExitStack(), contextlib.ExitStack()
        typed = Path(self._files.enter_context(tempfile.TemporaryDirectory(prefix="domyn-swarm-typed-")))
        forked.write_script(typed)
        path = os.pathsep.join([str(typed), str(scripts), os.environ["PATH"]])
        self.folder = folder
        self.environment = {**os.environ, **environment, "PATH": path, "BROWSER": "true", "COLUMNS": "200"}
        self.replace = replace
        self.printed: str | None = None
        self._session: Any = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()
        if self._session:
            self._session.stdin.close()
            self._session.wait(timeout=60)  # it ends by itself, and leaves nothing among temporary files
            self._session.stdout.close()
        self._files.close()

    def read(self, block: Block) -> None:
        """Do what the block says.

        Raises:
            AssertionError: it does not hold, or nothing tells how to check it.
        """
        if block.language in CHECKED_BY_THE_BUILD:
            return
        check: Callable[[Block], None] | None = getattr(self, f"_{block.language}", None)
        assert check, f"nothing checks blocks in {block.language!r}"
        if saved := SAVED.search(block.before):
            path = self.folder / saved[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            if block.language == "python":
                compile(block.text, saved[1], "exec")
                return
        check(block)

    def _console(self, block: Block) -> None:
        typed = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        assert not typed[0].strip(), "it begins with a line that is no command"
        for one in typed[1:]:
            command, expected = COMMAND.match(one).groups()  # type: ignore[union-attr]
            self._type(command, expected)

    def _type(self, command: str, expected: str) -> None:
        wanted = STATUS.search(command)
        command = STATUS.sub("", command)
        if command.startswith("pip install "):
            assert not (missing := missing_extras(command)), missing
        elif command.startswith("export "):
            self._export(command)
        elif command.startswith(SERVERS):
            self._serve(command)
        elif not command.startswith(ELSEWHERE):
            self.run(command, int(wanted[1]) if wanted else 0)
            if expected.strip():
                assert_printed(expected, self.printed or "")

    def run(self, command: str, status: int = 0) -> None:
        """Type a command, and see how it ends."""
        done = subprocess.run(
            self._replaced(command), shell=True, check=False, cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240,
        )  # fmt: skip
        self.printed = done.stdout.replace(f"{self.folder}/", "")
        assert done.returncode == status, (command, done.returncode, self.printed)

    def _export(self, command: str) -> None:
        """What is elided has a value in the environment already."""
        for assignment in shlex.split(command, comments=True)[1:]:
            name, _, value = assignment.partition("=")
            assert value != "…" or name in self.environment, name
            self.environment[name] = self.environment[name] if value == "…" else self._replaced(value)

    def _serve(self, command: str) -> None:
        """Start a server, and wait for the line that says where it is. One that is up at the same place makes room."""
        parses(command)
        self._servers.close()
        words = shlex.split(self._replaced(command), comments=True)
        server = forked.start(*words, stdout=subprocess.PIPE, cwd=self.folder, env=self.environment)
        self._servers.callback(_end, server)
        assert "http://" in (line := server.stdout.readline()), line

    def _replaced(self, text: str) -> str:
        for there, here in self.replace.items():
            text = text.replace(there, here)
        return text

    def _python(self, block: Block) -> None:
        if self._session is None:
            script = Path(self._files.enter_context(tempfile.TemporaryDirectory())) / "session.py"
            script.write_text(SESSION)
            self._session = forked.start(
                str(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self.folder,
                env=self.environment,
            )  # fmt: skip
        print(json.dumps(block.text), file=self._session.stdin, flush=True)
        failed, self.printed = json.loads(self._session.stdout.readline())
        assert not failed, self.printed

    def _json(self, block: Block) -> None:
        json.loads(block.text)

    def _toml(self, block: Block) -> None:
        tomllib.loads(block.text)

    def _text(self, block: Block) -> None:
        if re.match(r"(\$ )?domyn-swarm ", block.text):
            for command in re.split(r"(?<!\\)\n", block.text.strip()):
                parses(command.removeprefix("$ "))
            return
        assert self.printed is not None, "nothing before it prints anything"
        assert_printed(block.text, self.printed)

    def _bash(self, block: Block) -> None:
        if command := re.search(r"\.venv/bin/(domyn-swarm .*)", block.text, re.DOTALL):
            self.run(command[1])

    def _mermaid(self, block: Block) -> None:
        assert not (wrong := drawn_edges(block.text) - graph_edges()), wrong


def _end(server: Any) -> None:
    server.terminate()
    server.wait()
    server.stdout.close()


def assert_printed(expected: str, printed: str) -> None:
    """Compare line by line. Progress may have more lines, because it depends on the time that a run takes."""
    if not re.search(f"^{PROGRESS}", expected, re.MULTILINE):
        printed = re.sub(f"^{PROGRESS}", "", printed, flags=re.MULTILINE)
    pattern = "".join(map(_pattern, expected.strip().splitlines()))
    assert re.fullmatch(pattern, f"{printed.strip()}\n"), f"expected:\n{expected}\nprinted:\n{printed}"


def _pattern(line: str) -> str:
    if line.strip() == "...":
        return r"(?:.*\n)*?"
    pieces = re.split(r"(\.\.\.|…|\d[\d,.]*\d|\d|\s+)", line)
    pattern = "".join(_any(piece) if number % 2 else re.escape(piece) for number, piece in enumerate(pieces))
    return f"{pattern}\\s*\\n" + (f"(?:{PROGRESS})*?" if re.match(PROGRESS, f"{line}\n") else "")


def _any(piece: str) -> str:
    return r"\s+" if piece.isspace() else r"[\d,.]+" if piece[0].isdigit() else ".*"


def parses(command: str) -> None:
    """Fail unless the command line takes these arguments; `...` stands for some that are left out."""
    words = [word for word in shlex.split(command.replace("\\\n", " "), comments=True) if word != "..."]
    assert words[:1] == ["domyn-swarm"], f"nothing checks {command!r}"
    found: Any = typer.main.get_command(app)
    arguments = words[1:]
    while below := getattr(found, "commands", None):
        found = below[arguments.pop(0)]
    found.make_context(found.name, arguments)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command as it is typed."""
    todo = [("domyn-swarm", typer.main.get_command(app))]
    while todo:
        path, command = todo.pop()
        yield path, command
        todo += [(f"{path} {name}", below) for name, below in getattr(command, "commands", {}).items()]


def flags() -> dict[str, set[str]]:
    """Command -> its flags."""
    return {
        path: {flag for parameter in command.params for flag in [*parameter.opts, *parameter.secondary_opts]}
        for path, command in commands()
    }


def missing_extras(text: str) -> set[str]:
    """Extras of domyn-swarm that are named, and that it does not have."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"domyn-swarm\[([\w,]+)\]", text)
    return {extra for group in named for extra in group.split(",")} - extras.keys()


def drawn_edges(mermaid: str) -> set[tuple[str, str]]:
    """Edges between nodes of the graph: what has a shape of its own lies outside of it."""
    outside = set(re.findall(r"(\w+)\[", mermaid))
    names = [re.split(r"\s*(?:-->|-\..*?\.->)\s*", line.strip()) for line in mermaid.splitlines()[1:]]
    bare = [[re.sub(r"\W.*", "", name) for name in line] for line in names]
    return {(a, b) for line in bare for a, b in itertools.pairwise(line) if not {a, b} & outside}


def graph_edges() -> set[tuple[str, str]]:
    """Edges of the graph, row by row and in native mode."""
    from domyn_swarm.engine.recording.describe import describe

    options = {"job": f"{ROOT}/tests/jobs.py:Upper", "input": "INPUT", "output": "OUTPUT"}
    graphs = [describe(make_spec({**options, "native_backend": native})) for native in (False, True)]
    return {(name, node.name) for graph in graphs for node in graph.nodes for name in node.inputs}
