"""The temporary folder of a plan whose output is a frame."""

from __future__ import annotations

import shutil
import tempfile
import weakref


class Scratch:
    """A temporary folder, created on first use and removed when it is garbage collected or the process ends."""

    def __init__(self) -> None:
        self._path: str | None = None

    @property
    def path(self) -> str:
        """The folder's path."""
        if self._path is None:
            self._path = tempfile.mkdtemp(prefix="domyn-swarm-")
            weakref.finalize(self, shutil.rmtree, self._path, True)
        return self._path

    def options(self) -> dict[str, str]:
        """Options of a run whose output is a frame."""
        return {"checkpoint_dir": f"{self.path}/runs", "output": f"{self.path}/output.parquet"}

    def holds(self, path: str) -> bool:
        """Whether `path` lies in the folder."""
        return self._path is not None and path.startswith(f"{self._path}/")

    def shown(self, text: str) -> str:
        """`text` without the folder's name, which differs each time."""
        return text.replace(f"{self._path}/", "<temporary folder>/") if self._path else text

    def close(self) -> None:
        """Remove the folder and its content. Files written later are removed at the end of the process."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
