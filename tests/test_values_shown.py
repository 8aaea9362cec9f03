"""Values that Python cannot hold are told as text, where people look at rows."""

from __future__ import annotations

import pyarrow as pa

from domyn_swarm.data.values import python_row
from tests.conftest import Command, job, write

FAR = pa.array([0, 10**7], pa.int32()).view(pa.date32())


def test_a_row_with_such_a_value_is_shown_with_all_others() -> None:
    table = pa.table({"day": FAR, "text": ["a", "b"]})
    assert python_row(table, 1)["text"] == "b"
    assert python_row(table, 1)["day"].startswith("(date32[day] that cannot be shown: OverflowError")
    assert python_row(table.to_batches()[0], 0)["text"] == "a"


def test_commands_that_show_rows_take_it(command: Command) -> None:
    write("in.parquet", {"text": ["a", "b"], "day": FAR})
    for output in ("one.parquet", "two.parquet"):
        arguments = ("--input", "in.parquet", "--output", output, "--input-column", "text")
        assert command("job", "submit", job("Upper"), *arguments).returncode == 0
    shown = command("job", "row", ".domyn-swarm/one.parquet", "1")
    assert (shown.returncode, "cannot be shown" in shown.stdout) == (0, True), shown.stderr
    assert command("job", "diff", ".domyn-swarm/one.parquet", ".domyn-swarm/two.parquet").returncode == 0
