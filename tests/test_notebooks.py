"""The notebooks run from top to bottom in a fresh kernel in less than two minutes, and show what is stored in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nbformat
import pytest

from tests.notebooks import NOTEBOOKS, ROOT, code, executed, is_volatile, told

pytestmark = pytest.mark.stress

EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["pandas-polars-ray", "prompt-tuning", "why-rows-fail"]


@EACH
def test_a_notebook_runs_from_top_to_bottom_and_shows_what_is_stored(path: Path, folder: Path) -> None:
    before = files_of_the_repository()
    stored, now = code(nbformat.read(path, as_version=4)), code(executed(path, folder))
    for cell, fresh in zip(stored, now, strict=True):
        assert cell.execution_count == fresh.execution_count
        if not is_volatile(cell):
            assert told(fresh) == told(cell), cell.source
    assert files_of_the_repository() == before


@EACH
def test_what_is_stored_names_no_place_of_the_machine_that_made_it(path: Path) -> None:
    text = path.read_text()
    assert str(ROOT) not in text
    assert str(Path.home()) not in text
    assert "site-packages" not in text


@EACH
def test_every_cell_has_been_run_and_none_has_failed_but_those_that_are_meant_to(path: Path) -> None:
    cells = code(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    failed = [cell.id for cell in cells if any(output.output_type == "error" for output in cell.outputs)]
    meant = [cell.id for cell in cells if "raises-exception" in cell.metadata.get("tags", [])]
    assert failed == meant


def files_of_the_repository() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--others", "docs"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(listed.stdout.splitlines())
