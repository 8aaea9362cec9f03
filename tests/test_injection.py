"""A fault at any call that writes: see tests/injection, of which this is a sample."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="no C compiler"),
]


@pytest.mark.parametrize("output", ["out.parquet", "out"])
def test_a_fault_at_any_call_that_writes_loses_nothing(output: str) -> None:
    command = [sys.executable, "-m", "tests.injection", "--every", "7", "--output", output]
    played = subprocess.run(
        command, cwd=Path(__file__).parents[1], check=False, capture_output=True, text=True, timeout=280
    )
    assert played.returncode == 0, played.stdout + played.stderr
