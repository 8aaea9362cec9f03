"""Another user of the machine, with a real id of its own, reads nothing of a run that is its user's alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Command, job, run_command, write
from tests.test_job_view import viewed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
NOBODY = 65534
WORD = "a-private-word-of-the-input"
BECOME = """
import encodings.idna, os, sys, urllib.error, urllib.request
os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""
"""The interpreter may be where another user cannot start it, so it becomes one when it runs."""
LOOK = r"""
seen, looked_at = [], 0
def look(path):
    global looked_at
    try:
        with open(path, "rb") as file:
            content = file.read(2**22)
    except OSError:
        return
    looked_at += 1
    if sys.argv[1].encode() in content:
        seen.append(path)
for root in sys.argv[3:]:
    if os.path.isfile(root):
        look(root)
    for folder, _, files in os.walk(root):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.stat(path).st_mtime >= float(sys.argv[2]):
                look(path)
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) != os.getpid():
        for name in ("cmdline", "environ"):
            look(f"/proc/{pid}/{name}")
assert looked_at
print(seen)
"""
ASK = r"""
for path in ("", "data.json", "row.json?id=0", "?token="):
    try:
        print(urllib.request.urlopen(sys.argv[1] + path).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""


def as_nobody(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BECOME + script, *arguments], check=False, capture_output=True, text=True, cwd="/",
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def open_to_all(folder: Path) -> Iterator[Path]:
    """The test's folder can be entered by everybody, so that only what a run does protects it."""
    closed = [path for path in (folder, *folder.parents) if not path.stat().st_mode & stat.S_IXOTH]
    modes = {path: path.stat().st_mode for path in closed}
    for path in closed:
        path.chmod(modes[path] | 0o055)
    yield folder
    for path, mode in modes.items():
        path.chmod(mode)


def test_another_user_reads_nothing_of_a_run(command: Command, open_to_all: Path) -> None:
    began = time.time()
    write("in.parquet", {"text": [WORD]})
    Path("in.parquet").chmod(0o600)
    files = ("--input", "in.parquet", "--output", "out.parquet")
    sent = run_command("job", "submit", job("Upper"), *files, "--detach")
    assert sent.returncode == 0
    assert command("job", "wait", "out").returncode == 0
    Path("out.parquet").chmod(0o600)
    run = Path(".domyn-swarm/out.parquet")
    (run / "log.txt").write_text(WORD)
    with viewed(run) as view:
        assert as_nobody(ASK, view.origin).split() == ["403"] * 4
        left = [str(path) for path in Path("/tmp").iterdir() if path.lstat().st_mtime >= began]
        for secret in (WORD, view.token):
            roots = [str(open_to_all), *left, os.environ["XDG_DATA_HOME"], os.environ["XDG_STATE_HOME"]]
            assert as_nobody(LOOK, secret, str(began), *roots) == "[]"


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_runs_logs_and_the_index_are_their_user_s_alone(command: Command) -> None:
    write("in.parquet", {"text": ["a"]})
    files = ("--input", "in.parquet", "--output", "out.parquet")
    assert run_command("job", "submit", job("Upper"), *files, "--detach").returncode == 0
    command("job", "wait", "out")
    index = Path(os.environ["XDG_DATA_HOME"], "domyn-swarm/runs.sqlite")
    modes = {path: mode_of(path) for path in (Path(".domyn-swarm/out.parquet"), index.parent)}
    assert set(modes.values()) == {0o700}, modes
    modes = {path: mode_of(path) for path in (Path(".domyn-swarm/out.parquet/log.txt"), index)}
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.parametrize(
    ("parent", "umask", "run"),
    [(0o755, 0o002, 0o700), (0o775, 0o022, 0o750), (0o775, 0o002, 0o770), (0o2770, 0o007, 0o770), (0o775, 0o077, 0o700),
     (0o1777, 0o000, 0o700)],
)  # fmt: skip
def test_in_a_shared_folder_the_umask_says_who_else_may_look(parent: int, umask: int, run: int) -> None:
    write("in.parquet", {"text": ["a"]})
    Path("runs").mkdir()
    Path("runs").chmod(parent)
    files = ("--input", "in.parquet", "--output", "out.parquet", "--checkpoint-dir", "runs")
    done = run_command("job", "submit", job("Upper"), *files, umask=umask)
    assert done.returncode == 0
    assert oct(mode_of("runs/out.parquet") & 0o777) == oct(run)


HIDDEN = r"""
import os, subprocess, sys
subprocess.run(["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"], check=True)
from domyn_swarm.checkpoint.process import Process, _machine
os.setgroups([]); os.setgid(65534); os.setuid(65534)
living, gone = int(sys.argv[1]), int(sys.argv[2])
print([os.path.exists(f"/proc/{pid}") for pid in (living, gone)],
      [Process("h", pid, _machine(), 1.0).is_alive for pid in (living, gone)])
"""


def test_a_process_that_only_its_user_may_see_is_not_taken_for_dead(tmp_path_factory: Any) -> None:
    living = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    gone = subprocess.Popen(["true"])
    gone.wait()
    try:
        done = subprocess.run(
            ["unshare", "-m", sys.executable, "-c", HIDDEN, str(living.pid), str(gone.pid)], check=False,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        living.kill()
        living.wait()
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("may not mount /proc")
    assert done.stdout.strip() == "[False, False] [True, False]", done.stderr
