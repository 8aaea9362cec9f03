"""Every benchmark starts from what the test command installs; what it measures is not tested here."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from tests import forked

BENCHMARKS = Path(__file__).with_name("benchmarks")
SCRIPTS = re.findall(r"^\| `(\w+)\.py`", (BENCHMARKS / "README.md").read_text(), re.MULTILINE)
OURS = ("domyn_swarm", "domyn_dags")


def test_all_that_benchmarks_import_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports inside functions included, which `--help` does not reach."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    for script in BENCHMARKS.glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in OURS:
                exec(ast.unparse(node), {})
            elif isinstance(node, (ast.Import, ast.ImportFrom)):  # is there, and need not be loaded
                names = [node.module] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
                for name in names:
                    assert importlib.util.find_spec(str(name).partition(".")[0]), f"{script.name} imports {name}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_starts(script: str) -> None:
    Path("start.py").write_text(
        f"import runpy, sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\ndel sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = forked.run(str(Path("start.py").absolute()), str(BENCHMARKS / f"{script}.py"), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
