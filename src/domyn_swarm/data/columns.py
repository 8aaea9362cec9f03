"""Names of the columns that the program makes itself."""

from __future__ import annotations

import pyarrow as pa

ROW_ID = "_row_id"
"""The generated id column: an int64 that counts rows in input order."""

POSITION = "__position__"
"""A row's place in the input, counted from 0: int64, carried beside the id by every frame after `with_row_id`."""

FAILURE = "__failure__"
"""Why a row has no output, null where it has one."""

FAILURE_TYPE = pa.struct([("type", pa.string()), ("message", pa.string()), ("attempts", pa.int32())])

TRACE = "__trace__"
"""What happened to a row on its way (`helpers.trace`), as JSON; null or absent where nothing is known."""

INPUTS = "__inputs__"
"""A digest of what a row's input columns held (`digests.row_digests`): uint64, null or absent where nobody took it."""

MADE = (POSITION, FAILURE, TRACE, INPUTS)
"""Columns of a part that are neither the id nor outputs."""

DEFAULT_COLUMN = "result"
"""The output column of a job that names none."""

RUN_KEY = "domyn_swarm.run"
"""Where an output's footer says which run wrote it."""
