"""Open input and output files named in a run's record, for display."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.checkpoint.named_files import check_plain, storage_of
from domyn_swarm.data.input_files import list_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.data.input_files import InputFiles


def files_of(folder: RunFolder, pattern: str, kwargs: Mapping[str, Any]) -> InputFiles:
    """The files matched by `pattern`, which comes from a record in `folder`.

    Raises:
        DataError: no file matches, or the files are not on plain storage.
    """
    check_plain(pattern)
    return list_files(pattern, storage_of(folder, kwargs), hive=kwargs.get("hive", True) is True)
