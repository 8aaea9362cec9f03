"""Parts that count in an earlier version of the input, rewritten for the one that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from domyn_swarm.checkpoint.done_rows import moved_rows
from domyn_swarm.checkpoint.part import DamagedPartError, write_part

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.done_rows import Locate
    from domyn_swarm.checkpoint.locate import InputsNow
    from domyn_swarm.checkpoint.store import CheckpointStore


def rebase(store: CheckpointStore, locate: Locate, inputs: InputsNow | None = None) -> bool:
    """Rewrite parts that count in an earlier version of the input; whether there were any.

    Each is rewritten whole or not at all: a rebase that was interrupted resumes with the parts that are left. Rows
    whose ids are gone, or whose inputs have changed, stay in their parts, at position -1, where nobody looks for them.
    Damaged parts are set aside.
    """
    run_id = store.folder.run_id()
    stale = [
        part
        for part in store.readable(store.reader.paths())
        if part.origin.input_digest != store.input_digest and store.reader.is_ours(part.origin, run_id)
    ]
    for part in stale:
        try:
            with store.setting_aside():
                table = part.read()
        except DamagedPartError:
            continue
        moved = moved_rows(part, table, locate, inputs)
        origin = msgspec.structs.replace(part.origin, input_digest=store.input_digest)
        write_part(store.folder.fs, part.path, moved, origin)
    return bool(stale)
