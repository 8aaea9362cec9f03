"""What a run writes down of itself in `run.json`, as far as others than its report read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from domyn_swarm.checkpoint import records
from domyn_swarm.checkpoint.records import Count, RunId, Text, check_moment

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.folder import RunFolder

FILE = "run.json"
RunState = Literal["running", "done", "failed", "interrupted", "lost"]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class Broke(msgspec.Struct, frozen=True):
    """What ended a run, and how to resume it."""

    message: str
    hint: str = ""


class Example(msgspec.Struct, frozen=True):
    """One of the rows that failed alike."""

    message: str = ""


class FailedAlike(msgspec.Struct, frozen=True):
    """Rows that failed for the same reason."""

    type: str
    message: str
    count: Count
    examples: list[Example] = []

    @property
    def reason(self) -> str:
        """The first line of one of their messages."""
        return (self.examples[0].message if self.examples else self.message).partition("\n")[0]


class Traffic(msgspec.Struct, frozen=True):
    """What the run's requests came to."""

    tokens_in: Count = 0
    tokens_out: Count = 0


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run's record. Earlier versions wrote down less, so each entry has a default: `state` is None without one.

    Times are ISO 8601 with a time zone, or empty. `total` rows are in the input, `done_before` of them from earlier
    runs, `rows` finished in this one, `failed` of those without an output. `input_files` has name, rows and digest of
    each file, `ids` says which ids were checked, `content` what the output was made of.
    """

    run_id: RunId = ""
    number: Annotated[int, msgspec.Meta(ge=0, le=10**12)] = 0
    state: RunState | None = None
    job: Text = ""
    started: Text = ""
    as_of: Text = ""
    ended: Text | None = None
    host: Text = ""
    seconds: Seconds | None = None
    total: Count | None = None
    done_before: Count = 0
    rows: Count = 0
    failed: Count = 0
    output: Text = ""
    errors_path: Text = ""
    error: str | None = None
    broken: Broke | None = None
    id_column: Text | None = None
    input: Text = ""
    input_columns: list[Text] = []
    input_digest: Text | None = None
    input_files: list[tuple[str, int | None, str]] | None = None
    ids: Text | None = None
    content: Text | None = None
    failures: list[FailedAlike] = []
    traffic: Traffic = msgspec.field(default_factory=Traffic)
    identity: dict[str, Any] = {}

    def __post_init__(self) -> None:
        for moment in filter(None, (self.started, self.as_of, self.ended)):
            check_moment(moment)

    @property
    def has_begun(self) -> bool:
        """Whether it tells enough to judge a run by."""
        return bool(self.state is not None and self.started and self.as_of and self.total is not None)

    @classmethod
    def read(cls, folder: RunFolder) -> RunRecord | None:
        """The record of the run in `folder`; None when there is none.

        Raises:
            UnreadableRecordError: it is there, and cannot be read.
        """
        return records.read(folder, FILE, cls)

    @classmethod
    def load(cls, folder: RunFolder) -> RunRecord | None:
        """As `read`; None, too, when it cannot be read."""
        return records.load(folder, FILE, cls)


class SpecRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What of a run's `spec.json` is shown: that of any version, so it is no JobSpec."""

    input: Text = ""
    output: Text = ""
    id_column: Text | None = None
    limit: Count | None = None
    backend_read_kwargs: dict[str, Any] = {}
    backend_write_kwargs: dict[str, Any] = {}

    @classmethod
    def load(cls, folder: RunFolder) -> SpecRecord | None:
        """The newest spec of the run in `folder`; None when there is none that can be read."""
        return records.load(folder, "spec.json", cls)
