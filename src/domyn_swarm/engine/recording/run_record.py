"""What a run writes down of itself: `spec.json`, `run.json`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.anchoring import anchored
from domyn_swarm.checkpoint.run_record import RunRecord
from domyn_swarm.edges import on_command_line
from domyn_swarm.engine.identity import listed_files, run_id_of
from domyn_swarm.masking import masked
from domyn_swarm.redaction import public_options
from domyn_swarm.storage.texts import now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.checkpoint.store import CheckpointStore
    from domyn_swarm.data.input_files import InputFiles
    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.report.model import Report


class Record:
    """`run.json` and `spec.json` of one run. The id stays the same for as long as its folder does; runs are numbered.

    `content` identifies the output that was written last.
    """

    def __init__(
        self,
        store: CheckpointStore,
        spec: JobSpec,
        identity: Mapping[str, Any],
        files: InputFiles,
        input_columns: list[str],
    ) -> None:
        before = RunRecord.load(store.folder)
        self.run_id = run_id_of(store) or uuid.uuid4().hex
        self.number = store.folder.newest_run() + 1
        self.identity = identity
        self._folder = store.folder
        self._spec = spec
        self.content: dict[str, Any] = {
            "run_id": self.run_id,
            "number": self.number,
            "started": now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "id_column": store.id_col,
            "input": anchored(without_secrets(spec)).input,
            "input_columns": input_columns,
            "input_digest": store.input_digest,
            "input_files": listed_files(files),
            "ids": _ids_key(store, spec.id_column, spec.backend_read_kwargs),
            "identity": self.identity,
            "content": before.content if before else None,
        }

    def begin(self, report: Report) -> None:
        """Record that the run has started, and its options."""
        self._folder.save("spec.json", without_secrets(self._spec))
        self.update(report)

    def update(self, report: Report) -> None:
        """Write down how the run goes."""
        self._folder.save("run.json", {**self.content, **msgspec.to_builtins(report)})

    def end(self, report: Report, error: BaseException | None = None, content: str = "") -> None:
        """Write down how the run ended; a disk that refuses does not hide the error that ended it."""
        record = {**self.content, **msgspec.to_builtins(report)}
        if error is None:
            self._folder.save("run.json", {**record, "content": content})
            return
        with contextlib.suppress(Exception):
            self._folder.save(
                "run.json", {**record, "error": masked(f"{type(error).__name__}: {on_command_line(error)}")}
            )


def origin_of(folder: RunFolder, spec: JobSpec) -> str:
    """The folder where the command of the run in `folder` was given; nothing when its paths do not tell."""
    record = RunRecord.load(folder)
    absolute = record.input if record else ""
    for whole, end in ((absolute, spec.input), (folder.root, os.path.normpath(spec.run_dir))):
        if whole.startswith("/") and whole.endswith(f"/{end}"):
            return whole.removesuffix(f"/{end}")
    return ""


def without_secrets(spec: JobSpec) -> JobSpec:
    """`spec` as others may read it; whoever runs it gives the credentials by the environment."""
    return msgspec.structs.replace(spec, **public_options(msgspec.structs.asdict(spec)))


def ids_are_known(store: CheckpointStore, read_kwargs: Mapping[str, Any]) -> bool:
    """Whether the ids of this very input have been checked before a run, so that it need not be done again."""
    record = RunRecord.load(store.folder)
    return record is not None and record.ids == _ids_key(store, store.id_col, read_kwargs)


def _ids_key(store: CheckpointStore, id_column: str | None, read_kwargs: Mapping[str, Any]) -> str:
    """Identifies the ids: what is read, and how. Secrets do not count: their digests could be guessed at."""
    options = public_options({"backend_read_kwargs": dict(read_kwargs)})
    read = msgspec.json.encode([store.input_digest, id_column, options["backend_read_kwargs"]])
    return hashlib.sha256(read).hexdigest()[:32]
