"""Modules of the working folder, as `python -m` would find them."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

SENT_ALONG = "DOMYN_SWARM_SENT_JOB"
"""The variable that names, where a run was sent, the copy of the job's file, or of the folder that has its module."""


def find_in_working_folder(module: str) -> None:
    """Put the working folder, or what was sent along instead, in front of `sys.path` if the module is there."""
    sent = os.environ.get(SENT_ALONG)
    folder, top = Path(sent or Path.cwd()).resolve(), module.partition(".")[0]
    if str(folder) in sys.path or (not sent and "" in sys.path) or (not sent and top in sys.modules):
        return
    if not top.isidentifier():  # no file holds it, and a pattern or a path made of it would find others
        return
    package = folder / top
    is_there = any(folder.glob(f"{top}.*")) or (package / "__init__.py").is_file()
    if sent or is_there or (package.is_dir() and importlib.util.find_spec(top) is None):
        sys.path.insert(0, str(folder))  # a console script has its own folder there instead
