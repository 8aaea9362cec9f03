"""Putting a run's folder in order before rows are computed. The caller holds the lock."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from domyn_swarm.checkpoint.locate import following
from domyn_swarm.checkpoint.rebase import rebase
from domyn_swarm.engine.output_writer import remove_half_written

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.done_rows import DoneRows
    from domyn_swarm.checkpoint.store import CheckpointStore
    from domyn_swarm.data.backends.base import DataBackend, Frame
    from domyn_swarm.jobspec import JobSpec

logger = logging.getLogger("domyn_swarm")


@dataclass(frozen=True)
class Recovery:
    """What was done to a run's folder; nothing by default.

    `done` is what it holds now, None if that is what was found before. `damaged` names the parts that were quarantined.
    """

    done: DoneRows | None = None
    damaged: tuple[str, ...] = ()


def recover(
    store: CheckpointStore, found: DoneRows, backend: DataBackend, identified: Frame, spec: JobSpec
) -> Recovery:
    """Remove half-written files, move parts to today's input, quarantine damaged parts, merge small ones.

    `found` is what the folder held when the run was planned. The parts are read again only if they have changed since.

    Raises:
        DamagedPartError: another part turned out to be damaged, and has been quarantined.
    """
    store.folder.tidy()
    remove_half_written(spec, store)
    store.arrange()
    locate, inputs = following(backend, identified, store, keep_changed=spec.keep_changed)
    done = None
    if rebase(store, locate, inputs) or found.fingerprint not in (None, store.folder.fingerprint()):
        done = replace(store.done(locate), changed=found.changed)
    if damaged := (done or found).damaged:
        store.folder.set_aside(damaged)
        logger.warning("%d damaged part(s) set aside in %s/damaged: %s", len(damaged), store.path, ", ".join(damaged))
    store.compact()
    return Recovery(done, damaged)


def clear(store: CheckpointStore, spec: JobSpec) -> Recovery:
    """Remove half-written files and all parts: every row is computed again."""
    store.folder.tidy()
    remove_half_written(spec, store)
    store.folder.clear()
    return Recovery()
