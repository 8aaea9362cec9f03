"""The main job at a real size: every line of Python's standard library, and a job from outside the package."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Command, write

JOB = """
import re

from domyn_swarm import SwarmJob


class Words(SwarmJob):
    input_columns = ("file", "line")
    output_columns = ("words", "longest")

    async def transform_item(self, item: dict[str, str]) -> tuple[int, str | None]:
        words = re.findall(r"\\w+", item["line"])
        return len(words), max(words, key=len, default=None)
"""


@pytest.mark.stress
def test_every_row_of_a_large_real_input_comes_out_once_in_order_and_right(command: Command) -> None:
    files, lines = _standard_library()
    write("in.parquet", {"file": files, "line": lines}, row_group_size=40_000)
    Path("job.py").write_text(JOB)
    done = command("job", "submit", "job.py:Words", "--input", "in.parquet", "--output", "out.parquet")
    assert done.returncode == 0, done.stderr
    words = [re.findall(r"\w+", line) for line in lines]
    output = pq.read_table("out.parquet")
    assert output["file"].to_pylist() == files
    assert output["line"].to_pylist() == lines
    assert output["words"].to_pylist() == [len(found) for found in words]
    assert output["longest"].to_pylist() == [max(found, key=len, default=None) for found in words]
    assert output.schema.field("words").type == pa.int64()


def _standard_library() -> tuple[list[str], list[str]]:
    """A file name and a line for each of several hundred thousand lines."""
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = [path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts]
    pairs = [
        (path.relative_to(root).as_posix(), line)
        for path in sources
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n")
    ]
    assert len(pairs) > 200_000
    return [file for file, _ in pairs], [line for _, line in pairs]
