"""Paths are compared as what they lead to: no spelling makes a run write where its input, or its own folder, is."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from domyn_swarm.data.listing import would_name
from domyn_swarm.storage.locations import Location
from tests import forked
from tests.conftest import Command, command_line, job, rows, write

TABLE = {"text": ["a", "b"]}
SPY = """
import json, os, sys
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING = {"os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree",
            "shutil.move", "os.utime", "os.chmod", "os.chown"}
def path_of(value):
    return os.path.realpath(os.fsdecode(value)) if isinstance(value, (str, bytes, os.PathLike)) else None
def hook(event, args):
    if event == "open":
        mode, flags = args[1] or "", args[2] or 0
        paths = [args[0]] if set(mode) & set("wax+") or flags & WRITING else []
    else:
        paths = args[:2] if event in CHANGING else []
    for path in filter(None, map(path_of, paths)):
        os.write(log, (json.dumps([event, path]) + "\\n").encode())
log = os.open(os.environ["SPY_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
sys.addaudithook(hook)
"""


@pytest.fixture(autouse=True)
def inputs() -> None:
    """A file, a folder and names that lead to them by other ways."""
    write("in.parquet", TABLE)
    for name in ("a", "b"):
        write(f"data/{name}.parquet", TABLE)
    write("real/in.parquet", TABLE)
    write("v[1].parquet", TABLE)
    write("v1.parquet", {"text": ["other"]})
    write("store/input/parts/0001-000001.parquet", TABLE)
    Path("x/y").mkdir(parents=True)
    Path("l").symlink_to("real")
    Path("to_data").symlink_to("data")
    Path("up").symlink_to("x/y")
    Path("link.parquet").symlink_to("in.parquet")
    Path("data/linked.parquet").symlink_to("../real/in.parquet")
    os.link("in.parquet", "hard.parquet")


def content() -> dict[str, tuple[str, int]]:
    """Every file and folder below the test's, with what is in it and when it was changed."""
    return {
        str(path): (path.read_bytes().hex() if path.is_file() else "", path.lstat().st_mtime_ns)
        for path in Path().rglob("*")
        if "__pycache__" not in path.parts
    }


@dataclass(frozen=True)
class Case:
    """Flags of `job submit`; `{here}` stands for the test's folder."""

    what: str
    input: str
    output: str
    flags: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        paths = [text.format(here=Path.cwd()) for text in (self.input, self.output, *self.flags)]
        return ["job", "submit", job("Upper"), "--input", paths[0], "--output", *paths[1:]]


REFUSED = [
    Case("itself", "in.parquet", "in.parquet"),
    Case("by a folder and back", "in.parquet", "x/../in.parquet"),
    Case("by a linked folder and back", "in.parquet", "up/../../in.parquet"),
    Case("from the root", "in.parquet", "{here}/in.parquet"),
    Case("slashes", "in.parquet", ".//in.parquet"),
    Case("dots", "in.parquet", "./././in.parquet"),
    Case("as a URL", "in.parquet", "file://{here}/x/../in.parquet"),
    Case("as a local URL", "local://{here}/in.parquet", "in.parquet"),
    Case("through a cache", "simplecache::file://{here}/in.parquet", "in.parquet"),
    Case("by a linked folder", "real/in.parquet", "l/in.parquet"),
    Case("input by a linked folder", "l/in.parquet", "real/in.parquet"),
    Case("by a link", "in.parquet", "link.parquet"),
    Case("input by a link", "link.parquet", "in.parquet"),
    Case("the link itself", "link.parquet", "link.parquet"),
    Case("by another name of the file", "in.parquet", "hard.parquet"),
    Case("folder", "data", "data"),
    Case("folder by a way back", "data", "x/../data"),
    Case("folder by a link", "data", "to_data/"),
    Case("folder around the input", "data/a.parquet", "data/"),
    Case("folder around the input by a link", "to_data/a.parquet", "data"),
    Case("new file in the folder", "data", "data/new.parquet"),
    Case("new file in the folder by a link", "data", "x/../to_data/new.parquet"),
    Case("new folder in the folder", "data", "to_data/new/"),
    Case("what a file of the folder leads to", "data", "real/in.parquet"),
    Case("folder of what a file of the folder leads to", "data", "real"),
    Case("file that a pattern matches", "data/*.parquet", "to_data/a.parquet"),
    Case("file that a pattern would match", "data/*.parquet", "x/../data/new.parquet"),
    Case("pattern by a link", "to_data/*.parquet", "data/new.parquet"),
    Case("file in a folder that a pattern matches", "dat*", "data/new.parquet"),
    Case("file of a range", "data/{{a,b}}.parquet", "x/../data/b.parquet"),
    Case("name that looks like a pattern", "v[1].parquet", "x/../v[1].parquet"),
    Case("file of failed rows", "data/a.errors.parquet", "x/../data/a.parquet"),
    Case("run's folder around the input", "store/input/parts", "out.parquet",
         ("--checkpoint-dir", "x/../store", "--checkpoint-tag", "input")),
    Case("run's folder around the input, anew", "store/input/parts", "out.parquet",
         ("--checkpoint-dir", "store", "--checkpoint-tag", "input", "--no-resume")),
    Case("run's folder in the input", "data", "out.parquet", ("--checkpoint-dir", "to_data/ck")),
    Case("run's folder in the output", "in.parquet", "o2/", ("--checkpoint-dir", "x/../o2/ck")),
    Case("run's folder in the output by a link", "in.parquet", "real", ("--checkpoint-dir", "l/ck")),
    Case("output in the run's folder", "in.parquet", "x/../ck/t/parts/0001-000001.parquet",
         ("--checkpoint-dir", "ck", "--checkpoint-tag", "t")),
]  # fmt: skip


@pytest.fixture
def spied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The command as a script that writes down every path that it opens for writing or changes, and where it does."""
    folder = tmp_path_factory.mktemp("spy")
    (folder / "spy.py").write_text(f"{SPY}\nfrom domyn_swarm.cli.main import main\nmain()\n")
    return folder / "spy.py", folder / "spy.jsonl"


def changed(log: Path) -> set[str]:
    """The paths that a command wrote to."""
    return {json.loads(line)[1] for line in log.read_text().splitlines()} if log.exists() else set()


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.what)
def test_what_would_damage_an_input_is_refused(command: Command, case: Case) -> None:
    if case.what == "file of failed rows":
        write("data/a.errors.parquet", TABLE)
        Path("data/a.parquet").unlink()
    before = content()
    for overwrite in ((), ("--overwrite",)):
        ran = command(*case.arguments(), *overwrite)
        assert ran.returncode == 2, (ran.stdout, ran.stderr)
        assert "--overwrite" not in ran.stderr
        assert "Traceback" not in ran.stderr
        assert content() == before


@pytest.mark.parametrize("case", [
    REFUSED[1], REFUSED[14], REFUSED[17], REFUSED[25],
    Case("written", "in.parquet", "out.parquet"),
    Case("written over another output", "in.parquet", "v1.parquet", ("--overwrite", "--no-resume")),
    Case("written as a folder", "data", "out/", ("--overwrite",)),
    Case("written beside the input", "data/a.parquet", "data/c.parquet", ("--overwrite",)),
], ids=lambda case: case.what)  # fmt: skip
def test_an_input_is_never_opened_for_writing(spied: tuple[Path, Path], case: Case) -> None:
    script, log = spied
    before = {path: Path(path).read_bytes() for path in ("in.parquet", "data/a.parquet", "data/b.parquet")}
    ran = forked.run(str(script), *case.arguments(), "--overwrite", env={**os.environ, "SPY_LOG": str(log)})
    assert ran.returncode == (0 if "written" in case.what else 2), ran.stderr
    assert {path: Path(path).read_bytes() for path in before} == before
    wrote = changed(log)
    assert not wrote & {str(Path(path).resolve()) for path in before}
    if "written" in case.what:
        assert any(str(Path.cwd()) in path for path in wrote), "the spy was there"


@pytest.mark.stress
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.what)
def test_nothing_is_opened_for_writing_where_an_input_would_be_damaged(spied: tuple[Path, Path], case: Case) -> None:
    script, log = spied
    if case.what == "file of failed rows":
        write("data/a.errors.parquet", TABLE)
        Path("data/a.parquet").unlink()
    before = content()
    ran = forked.run(str(script), *case.arguments(), "--overwrite", env={**os.environ, "SPY_LOG": str(log)})
    assert ran.returncode == 2, ran.stderr
    assert content() == before
    assert {path for path in changed(log) if path.startswith(str(Path.cwd())) and "__pycache__" not in path} == set()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_kernel_sees_no_input_opened_for_writing() -> None:
    calls = "open,openat,creat,truncate,rename,renameat,renameat2,unlink,unlinkat,link,linkat"
    trace = ["strace", "-f", "-qq", "-o", "trace.txt", "-e", f"trace={calls}"]
    if subprocess.run([*trace, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not allow strace")
    case = Case("", "data", "out/", ("--overwrite",))
    ran = subprocess.run([*trace, *command_line(*case.arguments())], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = Path("trace.txt").read_text().splitlines()
    folders = (f"{Path.cwd()}/data/", f"{Path.cwd()}/real/", '"data/')
    touching = [line for line in lines if any(folder in line for folder in folders)]
    assert touching, "the files were read"
    assert [line for line in touching if "O_RDONLY" not in line and "ENOENT" not in line] == []


def test_outputs_that_only_look_alike_are_written(command: Command) -> None:
    for output in ("data2.parquet", "x/in.parquet", "in.parquet.d/", "datax/"):
        ran = command(*Case("", "data/a.parquet", output).arguments())
        assert ran.returncode == 0, (output, ran.stderr)
    assert command(*Case("", "data", "beside.parquet", ("--checkpoint-dir", "data/.ck")).arguments()).returncode == 0
    assert command(*Case("", "data", "beside.parquet", ("--checkpoint-dir", "data/.ck")).arguments()).returncode == 0


@pytest.mark.parametrize(("path", "flags"), [
    ("folder.parquet", ()), ("folder.parquet", ("--overwrite",)), ("/dev/null", ()), ("/dev/null", ("--overwrite",)),
    ("/dev/stdout", ()), ("/dev/null/out.parquet", ()), ("fifo.parquet", ()), ("fifo", ("--overwrite",)),
    ("in.parquet/out.parquet", ()), ("plain", ("--overwrite",)), ("plain/out.parquet", ()),
    (f"{'n' * 250}.parquet", ()), ("memory://out.parquet", ()), ("memory://out", ()),
    ("http://127.0.0.1:1/out.parquet", ()),
    ("failing.parquet", ()),
])  # fmt: skip
def test_what_cannot_become_an_output_is_refused_before_the_first_call(
    command: Command, path: str, flags: tuple[str, ...]
) -> None:
    Path("folder.parquet").mkdir()
    Path("failing.errors.parquet").mkdir()
    Path("plain").touch()
    os.mkfifo("fifo.parquet")
    os.mkfifo("fifo")
    before = sorted(map(str, Path().rglob("*")))
    arguments = ("--input", "in.parquet", "--output", path, "--checkpoint-dir", "ck", *flags)
    ran = command("job", "submit", job("Recorded"), *arguments)
    assert ran.returncode == 2, (ran.stdout, ran.stderr)
    assert "--output" in ran.stderr
    assert sorted(map(str, Path().rglob("*"))) == before
    assert stat.S_ISFIFO(Path("fifo").stat().st_mode)


def test_a_path_that_exists_is_itself_before_it_is_a_pattern(command: Command) -> None:
    for name in (
        "v[1].parquet",
        "data{1}.parquet",
        "{a,b}.parquet",
        "what?.parquet",
        "all*.parquet",
        "back\\slash.parquet",
    ):
        write(name, {"text": [name]})
        output = f"{Path('out') / name}"
        ran = command("job", "submit", job("Upper"), "--input", name, "--output", output)
        assert ran.returncode == 0, (name, ran.stderr)
        assert rows(output) == [{"text": name, "upper": name.upper()}]


def test_urls_are_compared_in_their_normal_form() -> None:
    place = Location.of("memory://bucket/data/a.parquet")
    assert Location.of("memory://bucket//data/x/../a.parquet").is_same_as(place)
    assert place.lies_in(Location.of("memory://bucket/data/"))
    assert not Location.of("memory://bucket/data2/a.parquet").lies_in(Location.of("memory://bucket/data"))
    assert not place.is_same_as(Location.of("bucket/data/a.parquet"))
    assert would_name("memory://bucket/data/*.parquet", Location.of("memory://bucket//data/new.parquet"))
    assert would_name("memory://bucket/k=*", Location.of("memory://bucket/k=1/new.parquet"))
    assert not would_name("memory://bucket/data/*.parquet", Location.of("memory://bucket/data/.hidden/new.txt"))


def test_a_filesystem_that_folds_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that lead to the same inode are one, however they are written."""
    real = os.lstat

    def folding(path: str) -> os.stat_result:
        return real(str(path).replace("/REAL", "/real").replace("IN.parquet", "in.parquet"))

    monkeypatch.setattr(os, "lstat", folding)
    assert Location.of("REAL/IN.parquet").is_same_as(Location.of("real/in.parquet"))
    assert Location.of("REAL/new.parquet").lies_in(Location.of("real"))


def test_export_does_not_write_over_the_runs_input(command: Command) -> None:
    assert command(*Case("", "data", "out.parquet").arguments()).returncode == 0
    before = content()
    for path in ("data/a.parquet", "x/../to_data/new.parquet", "data", "real/in.parquet", "to_data/new"):
        ran = command("checkpoint", "export", ".domyn-swarm/out.parquet", path, "--overwrite")
        assert (ran.returncode, content()) == (2, before), (path, ran.stderr)
    assert command("checkpoint", "export", ".domyn-swarm/out.parquet", "sofar.parquet").returncode == 0


def test_a_name_like_a_pattern_deletes_nothing_else_on_an_object_store() -> None:
    import fsspec

    from domyn_swarm.checkpoint.folder import RunFolder

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name in ("v[1]", "v1"):
        for part in ("0001-000001.parquet", "0001-000002.parquet"):
            memory.pipe_file(f"/runs/{name}/parts/{part}", pa.py_buffer(name.encode()).to_pybytes())
    run = RunFolder("memory://runs/v[1]")
    run.set_aside(["0001-000001.parquet"])
    assert len(memory.find("/runs/v1")) == 2
    assert memory.find("/runs/v[1]/damaged") == ["/runs/v[1]/damaged/0001-000001.parquet"]
    run.clear()
    assert len(memory.find("/runs/v1")) == 2
    assert memory.find("/runs/v[1]/parts") == []
