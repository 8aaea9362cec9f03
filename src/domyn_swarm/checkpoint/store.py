"""The checkpoint store: which rows have finished, and what was made of them."""

from __future__ import annotations

import contextlib
import copy
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.checkpoint.compact import compact
from domyn_swarm.checkpoint.done_rows import READERS, PartReader, mark
from domyn_swarm.checkpoint.folder import EARLIER, PartName, RunFolder
from domyn_swarm.checkpoint.merge import in_order, output_types, that_may_not_fit
from domyn_swarm.checkpoint.part import DamagedPartError, Marks, Part, PartMetadata
from domyn_swarm.checkpoint.stored_values import StoredValues
from domyn_swarm.checkpoint.writer import FlushReport, PartWriter
from domyn_swarm.data.backends.base import Outputs
from domyn_swarm.data.columns import DEFAULT_COLUMN, FAILURE, POSITION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from domyn_swarm.checkpoint.done_rows import DoneRows, Locate
    from domyn_swarm.checkpoint.locate import InputsNow
    from domyn_swarm.checkpoint.lock import FencingToken
    from domyn_swarm.concurrency.stop import Stop

logger = logging.getLogger("domyn_swarm")


class CheckpointStore:
    """The parts in `folder`, for rows identified by `id_col` in the input with digest `input_digest`.

    `inputs` are the columns that outputs are made from. `versions` are entries of the job's identity that say what made
    each column of a step. Parts where these differ are kept apart, for their columns that are still the same.

    Nothing is written before `begin`.
    """

    def __init__(
        self,
        folder: RunFolder,
        id_col: str,
        input_digest: str,
        output_columns: Sequence[str] = (),
        inputs: Sequence[str] = (),
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.id_col = id_col
        self.input_digest = input_digest
        self.inputs = tuple(inputs)
        self.versions = dict(versions or {})
        self._declared = tuple(output_columns)
        self._origin = PartMetadata("", input_digest, id_col)
        self._first = PartName(0, "", 1)
        self.fence: FencingToken | None = None

    @property
    def path(self) -> str:
        """The run's folder."""
        return self.folder.path

    @property
    def identity(self) -> Mapping[str, Any]:
        """What parts to come belong to, since `begin`."""
        return self._origin.identity

    def begin(self, run_id: str, number: int, identity: Mapping[str, Any], fence: FencingToken | None = None) -> None:
        """Say what the parts to come belong to, before any process that the store travels to writes one.

        With a `fence` none is written once its lock has been taken over.
        """
        self.fence = fence
        self._origin = PartMetadata(run_id, self.input_digest, self.id_col, dict(identity))
        self._first = PartName(number, "", 1)

    def for_worker(self, name: str) -> CheckpointStore:
        """This run's store for one of several processes that write parts at once; `name` keeps their parts apart."""
        store = copy.copy(self)
        store._first = self._first._replace(worker=name)  # noqa: SLF001 - a copy of our own object
        return store

    def done(self, locate: Locate, inputs: InputsNow | None = None) -> DoneRows:
        """Read which rows have finished: see `PartReader.done`."""
        done = self.reader.done(locate, inputs)
        has_more = bool(self.versions and (done.failed or done.kept))
        return replace(done, stored=StoredValues(self)) if has_more else done

    @property
    def reader(self) -> PartReader:
        """Reads what the parts say."""
        return PartReader(self.folder, self.id_col, self.input_digest, self.versions)

    def arrange(self) -> None:
        """Move parts whose steps have changed out of the way, and those back whose steps are as they were again."""
        if not self.versions:
            return
        run_id = self.folder.run_id()
        for part in self.readable(self.reader.paths()):
            folder = "parts" if self.reader.is_current(part.origin) else EARLIER
            if self.reader.is_ours(part.origin, run_id) and f"/{folder}/" not in part.path[len(self.folder.root) :]:
                self.folder.move(part.path, folder)

    def newest_origin(self) -> PartMetadata | None:
        """What the newest part that can be read belongs to."""
        newest = next(self.readable(reversed(self.reader.paths())), None)
        return newest.origin if newest else None

    def id_field(self) -> Any:
        """Name and type of the ids in the newest part that can be read; None when there is none."""
        newest = next(self.readable(reversed(self.reader.paths())), None)
        return next(newest.batches([newest.origin.id_col])).schema.field(0) if newest else None

    def rows_of_this_run(self) -> int:
        """Rows that this run has finished and made durable; failed ones do not count."""
        states = (state for path in self._parts_of_this_run() for state in Part(self.folder.fs, path).states())
        return sum(done.stop - done.start if isinstance(done, slice) else len(done) for done, _ in states)

    def _parts_of_this_run(self) -> list[str]:
        return [path for path in self.folder.parts() if self.wrote(path)]

    def wrote(self, part: str) -> bool:
        """Whether this run wrote the part at `part`."""
        name = PartName.of(part)
        return name is not None and name.run == self._first.run

    def settled(self, locate: Locate) -> Marks:
        """Positions that are finished, or that failed in this very run: what is left needs another pass."""
        settled = self.done(locate).finished
        for path in self._parts_of_this_run():
            if (part := self.reader.states_of(path, self._origin.run_id, locate)) is not None:
                settled = mark(settled, part.failed)
        return settled

    def flush(
        self,
        tables: Iterable[pa.Table],
        interval: float | None,
        stop: Stop | None = None,
        refused: Callable[[pa.Table], None] | None = None,
    ) -> FlushReport:
        """Make a stream of finished rows durable, in parts cut by rows, by bytes, and every `interval` seconds.

        When the stream breaks, what came before is made durable first. When a part cannot be written, `stop` is set to
        end the stream, and what it still yields is written at its end if that is possible by then. Rows that cannot be
        stored become failed rows, and `refused` gets them.

        Raises:
            Exception: why a part could not be written, or whatever the stream raises.
        """
        self.folder.make()
        with PartWriter(self.folder, self._origin, self._next_name(), interval, self.fence, stop, refused) as writer:
            for table in tables:
                writer.add(table)
        return writer.report

    def _next_name(self) -> PartName:
        """The part after those that this run has already: one that finds damage goes over the rows again."""
        names = filter(None, map(PartName.of, self.folder.files("parts")))
        numbers = [name.number for name in names if name[:2] == self._first[:2]]
        return self._first._replace(number=max(numbers, default=0) + 1)

    def compact(self) -> None:
        """Merge small parts. Nobody may write meanwhile.

        Raises:
            DamagedPartError: the pages of a part cannot be read; it has been set aside.
            LockLostError: another process has taken over the run.
        """
        if self.fence is not None:
            self.fence.check(self.folder)
        with self.setting_aside():
            compact(self.folder, self.folder.parts())

    def readable(self, paths: Iterable[str]) -> Iterator[Part]:
        """Those of the parts whose footer can be read."""
        for path in paths:
            with contextlib.suppress(DamagedPartError):
                yield Part(self.folder.fs, path)

    def outputs(self) -> Outputs:
        """All finished rows in input order, one for each position.

        A success wins over a failure, and the later over the earlier.
        """
        parts = self._opened()
        schema = self._schema(parts)
        names = [POSITION, self.id_col, *schema.names]
        return Outputs(schema, lambda: (table.drop_columns(FAILURE) for table in self._in_order(parts, names, schema)))

    def failures(self) -> Iterator[pa.Table]:
        """POSITION, id and FAILURE of the rows that failed, in input order. Reads footers only when there are none."""
        parts = self._opened()
        doubtful = that_may_not_fit(parts, self._schema(parts))
        if doubtful.names or any(part.has_failures for part in parts):
            for table in self._in_order(parts, [POSITION, self.id_col, *doubtful.names], doubtful):
                yield table.drop_columns(doubtful.names).filter(pc.is_valid(table[FAILURE]))

    def _opened(self) -> list[Part]:
        with self.setting_aside(), ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(lambda path: Part(self.folder.fs, path), self.folder.parts()))

    def _in_order(self, parts: Sequence[Part], names: list[str], schema: pa.Schema) -> Iterator[pa.Table]:
        with self.setting_aside():
            yield from in_order(parts, [*names, FAILURE], schema)

    @contextlib.contextmanager
    def setting_aside(self) -> Iterator[None]:
        """Quarantine the part that turns out to be damaged in here; the error is raised again."""
        try:
            yield
        except DamagedPartError as error:
            self.folder.set_aside([error.part])
            logger.warning("%s; it is set aside in %s/damaged, and its rows are computed again", error, self.path)
            raise

    def _schema(self, parts: Sequence[Part]) -> pa.Schema:
        """The output columns of all parts, each with a type that holds all of its values."""
        types = output_types(parts, self._declared or (() if parts else (DEFAULT_COLUMN,)))
        # Parts of steps have more columns: what those of the output are made from.
        return pa.schema([types.field(name) for name in self._declared]) if self.versions else types
