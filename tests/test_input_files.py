"""The input's files: read as they were planned, refused when they contradict themselves, never written to."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domyn_swarm.data.input_files import list_files, verify_unchanged
from domyn_swarm.errors import DataError, JobError
from tests.conftest import Command, job, rows, write

ROWS = 1000
ROWS_IN_FOOTER = b"\x16\xd0\x0f"
"""ROWS as the footer has it, in thrift's compact protocol: the third field, a 64-bit integer."""
REPLACING = """
import os
from domyn_swarm import SwarmJob
class Replacing(SwarmJob):
    input_columns = ("text",)
    output_columns = ("upper",)
    async def transform_item(self, text):
        if os.path.exists("next.parquet"):
            os.replace("next.parquet", "in.parquet")
        return text.upper()
"""


def lying(path: str, *, which: str) -> None:
    """A file of ROWS rows whose footer says 3 rows for the whole file, or for its row group."""
    write(path, {"text": [f"t{number}" for number in range(ROWS)]})
    whole = Path(path).read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    found = {"file": whole.find, "group": whole.rfind}[which](ROWS_IN_FOOTER, start)
    assert found > start
    Path(path).write_bytes(whole[:found] + b"\x16\x86\x00" + whole[found + 3 :])
    assert pq.read_metadata(path).num_rows == (3 if which == "file" else ROWS)


@pytest.mark.parametrize("engine", ["pandas", "polars"])
@pytest.mark.parametrize("which", ["file", "group"])
def test_a_footer_that_contradicts_itself_is_refused(command: Command, which: str, engine: str) -> None:
    lying("in.parquet", which=which)
    ran = command("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet",
                  "--data-backend", engine)  # fmt: skip
    assert ran.returncode == 2, ran.stderr
    assert "in.parquet" in ran.stderr
    assert {path.name for path in Path().iterdir()} == {"in.parquet"}


def test_a_file_that_is_replaced_in_mid_run_is_noticed_before_the_output_is_written(command: Command) -> None:
    Path("replacing.py").write_text(REPLACING)
    write("in.parquet", {"text": ["a", "b"]})
    write("next.parquet", {"text": ["c", "d"]})
    submit = ("job", "submit", "replacing.py:Replacing", "--input", "in.parquet", "--output", "out.parquet")
    ran = command(*submit)
    assert ran.returncode == 1, ran.stderr
    assert "in.parquet changed" in ran.stderr
    assert not Path("out.parquet").exists()
    write("in.parquet", {"text": ["a", "b"]})
    assert command(*submit).returncode == 0
    assert [row["upper"] for row in rows("out.parquet")] == ["A", "B"]


@pytest.mark.parametrize("name", ["in.parquet", "in.csv"])
def test_what_makes_a_file_another_one(name: str) -> None:
    def make(texts: list[str]) -> None:
        if name.endswith(".csv"):
            Path(name).write_text("\n".join(["text", *texts, ""]))
        else:
            write(name, {"text": texts}, write_statistics=False, compression="none", use_dictionary=False)

    make(["a", "b"])
    files = list_files(name)
    verify_unchanged(files)
    stamp = Path(name).stat().st_mtime_ns
    make(["a", "c"])  # of the same size; in parquet with the same footer, too
    os.utime(name, ns=(stamp + 10**9, stamp + 10**9))
    with pytest.raises(JobError, match=f"{name} changed"):
        verify_unchanged(files)
    files = list_files(name)
    Path(name).unlink()
    with pytest.raises(JobError, match=f"{name} was removed"):
        verify_unchanged(files)


def test_a_file_that_cannot_be_read_any_more_says_so() -> None:
    with pytest.raises(DataError, match="gone"):
        list_files("gone.parquet")
    table = pa.table({"text": ["a"]})
    write("in.parquet", table)
    files = list_files("in.parquet")
    Path("in.parquet").write_text("x" * files.files[0].size)
    with pytest.raises(JobError, match=r"in\.parquet changed"):
        verify_unchanged(files)


@pytest.mark.parametrize("folder", ["d[1]", "d{1..2}", "a{b", "d*"])
def test_a_folder_that_is_there_is_no_pattern(folder: str) -> None:
    write(f"{folder}/k=1/in.parquet", {"text": ["a"]})
    write("d1/k=2/in.parquet", {"text": ["b"]})
    for pattern in (folder, f"{folder}/*/in.parquet", f"{folder}/k={{1..1}}/*.parquet", f"{folder}/**"):
        (found,) = list_files(pattern).files
        assert (found.path, found.hive) == (str(Path(f"{folder}/k=1/in.parquet").absolute()), (("k", 1),))


@pytest.mark.parametrize("flag", ["--input", "--output"])
def test_a_url_that_names_no_bucket_is_refused(command: Command, flag: str) -> None:
    write("in.parquet", {"text": ["a"]})
    paths = {"--input": "in.parquet", "--output": "out.parquet"} | {flag: "s3://"}
    ran = command("job", "submit", job("Upper"), *(part for pair in paths.items() for part in pair))
    assert (ran.returncode, Path("out.parquet").exists()) == (2, False)
    assert "names no bucket" in ran.stderr


def test_files_without_columns_are_refused(command: Command) -> None:
    pq.write_table(pa.table({"text": ["a"]}).select([]), "in.parquet")
    ran = command("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet")
    assert (ran.returncode, "has no columns" in ran.stderr) == (2, True)
