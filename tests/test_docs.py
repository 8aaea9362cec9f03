"""What README and tutorial tell people to type works as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.table import sentence

ROOT = Path(__file__).parents[1]
STATUS = re.compile(r"# exit status (\d+)$")


def _blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def _saved_as(page: str, block: str) -> str | None:
    """The file name that the sentence before a block tells the reader to save it under."""
    sentence = (ROOT / page).read_text().partition(block)[0][-100:]
    found = re.search(r"[Ss]ave this as `([\w.]+)`", sentence)
    return found[1] if found else None


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/tutorial.md", "docs/backends.md", "docs/endpoints.md", "docs/graph.md", "docs/walkthroughs.md"],
)
def test_every_command_and_python_block_runs(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs/examples", tmp_path / "docs/examples")
    # The console script of the environment that the tests run in.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = 0
    for language, text in _blocks(page):
        if language in ("python", "json") and (name := _saved_as(page, text)):
            (tmp_path / name).write_text(text)
        elif language == "python":
            subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True, capture_output=True)
            ran += 1
        elif language == "console":
            for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", text, re.MULTILINE):
                done = subprocess.run(
                    command, shell=True, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
                )
                wanted = STATUS.search(command)
                assert done.returncode == (int(wanted[1]) if wanted else 0), (command, done.stderr)
                ran += 1
    assert ran


def test_the_page_on_compatibility_has_a_line_for_each_case_that_runs_on_every_backend() -> None:
    page = (ROOT / "docs/compatibility.md").read_text()
    cases = [
        name
        for module in sorted((ROOT / "tests/conformance").glob("test_*.py"))
        for name in re.findall(r"^def (test_\w+)", module.read_text(), re.MULTILINE)
    ]
    assert re.findall(r"^\| (?!case|---)(.*?) \|", page, re.MULTILINE) == [sentence(name) for name in cases]
