"""The command: counts the calls of an undisturbed run, then plays a run for each of them that `--every` picks."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

SHIM = Path(__file__).with_name("shim.c")
JOB = f"{Path(__file__).parents[1] / 'jobs.py'}:Upper"
TEXTS = [f"row {number}" for number in range(40)]
KILLED = -9
HOWS = ("kill", "after", str(errno.EIO), str(errno.ENOSPC))


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what was asked for; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.injection")
    parser.add_argument("--every", type=int, default=1, help="play every Nth call")
    parser.add_argument("--how", default=",".join(HOWS), help="kill, after, or numbers of errors")
    parser.add_argument("--output", default="out.parquet", help="a file, or a directory")
    options = parser.parse_args(arguments)
    if "INJECT_COUNT" not in os.environ:
        return _again_with_shim(sys.argv[1:] if arguments is None else arguments)
    _imported()
    with tempfile.TemporaryDirectory(prefix="domyn-swarm-injection-") as root:
        calls = _undisturbed(Path(root, "undisturbed"), options.output)
        failed = 0
        for how in options.how.split(","):
            for at in range(1, calls + 1, options.every):
                verdict = _played(Path(root, f"{how}-{at}"), options.output, at, how)
                failed += verdict != ""
                if verdict:
                    print(f"{how:>6} at call {at:>3} of {calls}: {verdict}", flush=True)
        print(f"{calls} calls, {failed} failed")
    return 1 if failed else 0


def _again_with_shim(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="domyn-swarm-shim-") as folder:
        library = f"{folder}/shim.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, str(SHIM), "-ldl"], check=True)
        environment = {**os.environ, "LD_PRELOAD": library, "INJECT_COUNT": f"{folder}/none", "INJECT_DIR": "/nowhere"}
        command = [sys.executable, "-m", "tests.injection", *arguments]
        return subprocess.run(command, env=environment, check=False).returncode


def _imported() -> None:
    """What each run needs, once for all of them."""
    import domyn_dags.job  # noqa: F401
    import domyn_swarm.cli.main
    import domyn_swarm.data.backends.pandas_backend
    import domyn_swarm.engine.runner
    import domyn_swarm.runs.submit  # noqa: F401


def _undisturbed(folder: Path, output: str) -> int:
    """The calls of a first run, and of one that replaces its output."""
    _prepare(folder)
    counted = Path(f"{folder}.count")
    for more in ([], ["--output-mode", "io_only"]):
        status = _run(folder, output, more, {"INJECT_COUNT": str(counted), "INJECT_AT": "0"})
        assert status == 0, _log(folder)
    return counted.stat().st_size


def _played(folder: Path, output: str, at: int, how: str) -> str:
    """Two runs, of which one meets the fault, and one more without: what is wrong then."""
    _prepare(folder)
    fault = {"INJECT_COUNT": f"{folder}.count", "INJECT_AT": str(at), "INJECT_HOW": how}
    for more in ([], ["--output-mode", "io_only"]):
        status = _run(folder, output, more, fault)
        if status not in (0, 1, 2, KILLED) or (how not in ("kill", "after") and status == KILLED):
            return f"exit status {status}: {_log(folder)}"
        if "Traceback" in _log(folder):
            return _log(folder)
    status = _run(folder, output, [], {"INJECT_AT": "0"})
    if status != 0:
        return f"the run after it ended with {status}: {_log(folder)}"
    verdict = _wrong(folder, output)
    if not verdict:
        shutil.rmtree(folder)
    return verdict


def _wrong(folder: Path, output: str) -> str:
    found = pq.read_table(folder / output, partitioning=None).to_pylist()
    if found != [{"text": text, "upper": text.upper()} for text in TEXTS]:
        return f"the output is {found}"
    if left := [path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".old"))]:
        return f"left behind: {left}"
    if pq.read_table(folder / "in.parquet")["text"].to_pylist() != TEXTS:
        return "the input is another"
    return ""


def _prepare(folder: Path) -> None:
    folder.mkdir()
    pq.write_table(pa.table({"text": TEXTS}), folder / "in.parquet")


def _run(folder: Path, output: str, more: Sequence[str], fault: dict[str, str]) -> int:
    """The command in a process that is forked from this one; its status, negative for a signal."""
    if (pid := os.fork()) == 0:
        _in_child(folder, output, more, fault)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -1


def _in_child(folder: Path, output: str, more: Sequence[str], fault: dict[str, str]) -> NoReturn:
    status = 70
    try:
        status = _command(folder, output, more, fault)
    except SystemExit as error:
        status = int(error.code or 0)
    except Exception:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _command(folder: Path, output: str, more: Sequence[str], fault: dict[str, str]) -> int:
    from domyn_swarm.cli.main import main as domyn_swarm

    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    os.environ.update({
        "XDG_DATA_HOME": f"{folder}.home", "XDG_STATE_HOME": f"{folder}.home", "INJECT_DIR": f"{folder}/", **fault
    })  # fmt: skip
    sys.argv = [
        "domyn-swarm", "job", "submit", JOB, "--input", "in.parquet", "--output", output, "--checkpoint-interval",
        "0.001", "--max-concurrency", "1", *more,
    ]  # fmt: skip
    domyn_swarm()
    return 0


def _log(folder: Path) -> str:
    path = Path(f"{folder}.log")
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
