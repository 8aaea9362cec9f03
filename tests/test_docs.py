"""What README and docs tell people to type works as it stands there, and prints what they say.

Each page is read by one test, in a folder with the examples: see tests/reader.py for how its blocks are checked.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conformance.table import sentence
from tests.conftest import Command, table
from tests.reader import ROOT, Block, Reader, assert_printed, blocks, flags, missing_extras, parses
from tests.servers.object_store import KEY, SECRET, ObjectStore, object_store

STORES = "docs/object-stores.md"
SLURM = "docs/slurm.md"
"""Read in tests/test_slurm.py, where there is one."""
SLOW = {"docs/contributing.md", "docs/ray.md", "docs/walk-away.md"}
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))]
READ = [
    pytest.param(page, marks=pytest.mark.stress if page in SLOW else ())
    for page in PAGES
    if page not in (STORES, SLURM) and blocks(page)
]
OTHERS = {
    "--backend", "--compile-bytecode", "--dashboard-host", "--help", "--keep-going", "--kills", "--threads-http",
    "--write-compatibility", "--array", "--chdir", "--cpus-per-task", "--export", "--open-mode", "--parsable",
    "--signal", "--time", "--when-time-is-up", "--alias", "--host", "--model-path", "--tp-size",
    "--tensor-parallel-size",
}  # fmt: skip
"""Flags of pytest, sphinx-build, ray start, sbatch, jobs.run, tests.chaos and model servers that pages speak of."""


def read(page: str, reader: Reader) -> None:
    for directory in ("docs/examples", "docs/pictures"):
        shutil.copytree(ROOT / directory, reader.folder / directory)
    shutil.copytree(ROOT / "tests", reader.folder / "tests", ignore=lambda folder, names: {*names} - {"jobs.py"})
    for block in blocks(page):
        try:
            reader.read(block)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{page}:{block.line}: {error}") from error


@pytest.fixture
def port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.mark.parametrize("page", READ)
def test_every_block_of_a_page_does_what_it_says(page: str, folder: Path, port: str) -> None:
    with Reader(folder, {}, {"--port 8000": f"--port {port}", "127.0.0.1:8000": f"127.0.0.1:{port}"}) as reader:
        read(page, reader)


@pytest.fixture
def store(folder: Path) -> Iterator[ObjectStore]:
    """A store with the bucket and the profiles that the page speaks of."""
    with object_store(log=folder / "requests.jsonl") as found:
        found.fs.mkdir("bucket")
        found.fs.pipe_file("bucket/texts/a.parquet", (ROOT / "docs/examples/packages.parquet").read_bytes())
        profile = f"aws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\nregion = us-east-1\n"
        Path("aws").write_text(f"[profile reader]\n{profile}[profile writer]\n{profile}")
        yield found


def test_every_block_on_object_stores_does_what_it_says_with_a_real_one(store: ObjectStore, folder: Path) -> None:
    environment = {**store.environment, "AWS_CONFIG_FILE": str(folder / "aws")}
    with Reader(folder, environment, {"https://minio.example": store.url}) as reader:
        read(STORES, reader)
    assert {"bucket/out/answers.parquet", "bucket/out/answers-again.parquet"} <= set(store.fs.find("bucket/out"))


def test_ci_runs_each_bash_block_and_there_is_none_but_in_the_readme() -> None:
    found = [page for page in PAGES for block in blocks(page) if block.language == "bash"]
    ran = re.findall(r"readme_command (\d+)\)", (ROOT / ".ci/run").read_text())
    assert found == ["README.md"] * len(ran)
    assert sorted(ran) == [str(number + 1) for number in range(len(ran))]


@pytest.mark.parametrize("page", PAGES)
def test_flags_and_extras_that_a_page_speaks_of_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    known = set().union(*flags().values()) | OTHERS
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)) - known == set()
    assert missing_extras(text) == set()


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_page_on_compatibility_has_a_line_for_each_case_that_runs_on_every_backend() -> None:
    page = (ROOT / "docs/compatibility.md").read_text()
    cases = [
        name
        for module in sorted((ROOT / "tests/conformance").glob("test_*.py"))
        for name in re.findall(r"^def (test_\w+)", module.read_text(), re.MULTILINE)
    ]
    assert re.findall(r"^\| (?!case|---)(.*?) \|", page, re.MULTILINE) == [sentence(name) for name in cases]


@pytest.fixture(scope="module")
def described() -> dict[str, list[str]]:
    """Heading of the page on files -> what the first column of the table beneath it has between backticks."""
    sections = re.split(r"^## (.*)$", (ROOT / "docs/reference/files.md").read_text(), flags=re.MULTILINE)[1:]
    cells = [re.findall(r"^\| (?!---)(.*?) \|", text, re.MULTILINE)[1:] for text in sections[1::2]]
    named = [[name for cell in column for name in re.findall(r"`(\w+)`", cell)] for column in cells]
    return dict(zip(sections[::2], named, strict=True))


def test_the_page_on_files_tells_what_is_in_them(described: dict[str, list[str]], command: Command) -> None:
    walkthroughs, packages = ROOT / "docs/examples/walkthroughs.py", str(ROOT / "docs/examples/packages.parquet")
    command("job", "submit", f"{walkthroughs}:LongestTerm", "--input", packages, "--output", "out/terms.parquet")
    run = Path("out/.domyn-swarm/terms.parquet")
    assert pq.read_schema("out/terms.errors.parquet").names == described["Failed rows"]
    assert [name for name in table(run / "parts").column_names if name != "term"] == described["Parts"]
    assert set(described["run.json"]) - json.loads((run / "run.json").read_text()).keys() == set()
    metadata = {**pq.read_schema("out/terms.parquet").metadata, **pq.read_schema(next(run.glob("parts/*"))).metadata}
    assert {b"domyn_swarm.run", b"domyn_swarm.content", b"domyn_swarm.part"} <= metadata.keys()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "tests/benchmarks/README.md"])
def test_what_pages_for_contributors_name_is_there(page: str) -> None:
    """Their commands take too long to be run here; the tools that they name are those of the `dev` extra."""
    text = (ROOT / page).read_text()
    assert {block.language for block in blocks(page)} == {"console"}
    tools = set(re.findall(r"\.venv/bin/([\w-]+)", text)) - {"pip"}
    assert {tool for tool in tools if shutil.which(tool, path=str(Path(sys.executable).parent)) is None} == set()
    named = re.findall(r"(?<![\w./])(?:tests|src|docs|dags)/[\w./-]*\w", text)
    named += [f"{page.rpartition('/')[0]}/{script}" for script in re.findall(r"^\| `(\w+\.py)`", text, re.MULTILINE)]
    assert [path for path in named if not (ROOT / path).exists()] == []


# The reader itself


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("yaml", "a: 1", "nothing checks blocks in 'yaml'"),
        ("{note}", "mind the gap", "nothing checks blocks in '{note}'"),
        ("text", "some output", "nothing before it prints anything"),
        ("text", "domyn-swarm job submit --colour red", "No such option"),
        ("text", "domyn-swarm job submit --limit ten", "valid integer"),
        ("console", "$ false", "('false', 1"),
        ("console", "$ echo 5 rows\n5 files", "5 rows"),
        ("console", "ls", "a line that is no command"),
        ("console", "$ pip install 'domyn-swarm[duckdb]'", "duckdb"),
        ("python", "1 / 0", "ZeroDivisionError"),
        ("json", "{", "Expecting"),
        ("mermaid", "flowchart LR\n  files --> flushed", "('files', 'flushed')"),
    ],
)
def test_a_block_that_does_not_hold_or_that_nothing_checks_fails(
    language: str, text: str, said: str, folder: Path
) -> None:
    with Reader(folder, {}, {}) as reader, pytest.raises(Exception, match=re.escape(said)):
        reader.read(Block(language, text, "", 1))


def test_numbers_and_times_do_not_count_in_what_is_printed() -> None:
    printed = "11:12:13 60 rows, 20 MB\n11:12:14 more\nx\ny\nrows 7\n"
    assert_printed("10:00:01 5 rows, 1.5 MB\n...\nrows  1,000", printed)
    assert_printed("rows 5", "11:12:13 60 rows\nrows 7\n")
    with pytest.raises(AssertionError):
        assert_printed("rows 5", "rows 7\nfiles 8\n")
    with pytest.raises(AssertionError):
        assert_printed("rows 5", "rows none\n")


def test_commands_for_what_a_test_has_not_are_parsed() -> None:
    parses("domyn-swarm job submit ... --endpoint http://gpu1:8000/v1  # a comment")
