"""Completion of values in real shells, which press the tab key as people do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests import forked
from tests.conftest import write

SETUP = {
    "bash": "bind 'set enable-bracketed-paste off'",
    "zsh": "autoload -U compinit; compinit -u -D; unset zle_bracketed_paste",
}
FLAGS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}
COMPLETED = {
    "job submit @jo": "@job.toml",
    "job submit @sub/an": "@sub/answers.yaml",
    "job submit my_j": "my_job.py:MyJob",
    "job submit my_job.py:M": "my_job.py:MyJob",
    "job submit domyn_swarm.jobs:Emb": "domyn_swarm.jobs:EmbeddingJob",
    "job submit --data-backend pa": "pandas",
    "job submit --output-mode re": "replace",
    "job submit --on-error f": "fail",
    "job submit --run-on sl": "slurm",
    "job submit --endpoint de": "demo",
    "job submit --max-concurrency a": "auto",
    "job submit --sch": "--schema",
    "job submit --input in.p": "in.parquet",
    "job list --state canc": "cancelled",
    "job show --format y": "yaml",
    "job status ans": "answers",
    "checkpoint inspect ans": "answers",
}
"""What is typed, and the last word after the tab key."""


@pytest.fixture(params=["bash", pytest.param("zsh", marks=pytest.mark.stress)])
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A shell with the completion that `domyn-swarm --show-completion` prints."""
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    programs = tmp_path_factory.mktemp("bin")
    forked.write_script(programs)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PS1": "$ ", "TERM": "dumb"}
    shell = pexpect.spawn(name, FLAGS[name], env=environment, encoding="utf-8", dimensions=(50, 200), timeout=30)
    shell.sendline(f'{SETUP[name]}; eval "$(_DOMYN_SWARM_COMPLETE=source_{name} domyn-swarm)"')
    shell.sendline('domyn-swarm() { for word in "$@"; do :; done; echo "<""<$word>"">"; }; echo re""ady')
    shell.expect("ready")
    yield shell
    shell.close(force=True)


def test_values_complete(shell: Any) -> None:
    write("in.parquet", {"text": ["a"]})
    Path("job.toml").touch()
    Path("sub").mkdir()
    Path("sub/answers.yaml").touch()
    Path("my_job.py").write_text("class MyJob(SwarmJob): ...\n")
    submitted = ("--input", "in.parquet", "--output", "answers.parquet", "--limit", "1")
    done = forked.run(forked.PROGRAM, "job", "submit", f"{Path(__file__).with_name('jobs.py')}:Upper", *submitted)
    assert done.returncode == 0, done.stderr
    found = {typed: last_word(shell, typed) for typed in COMPLETED}
    assert found == COMPLETED


def last_word(shell: Any, typed: str) -> str:
    """The last word of the command line once the shell has completed it: that which the command gets."""
    shell.send(f"domyn-swarm {typed}\t\r")
    shell.expect(r"<<(.*?)>>")
    return str(shell.match[1])
