"""What a job is, as far as it makes a row's output: whether an earlier run's parts belong to it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import pyarrow as pa

from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.part import JOB_FIELD, NODE, united
from domyn_swarm.checkpoint.run_record import RunRecord
from domyn_swarm.checkpoint.store import CheckpointStore
from domyn_swarm.engine.graph.code_digest import code_digest
from domyn_swarm.engine.graph.overrides import NOTHING
from domyn_swarm.errors import CheckpointError, ConfigurationError, SwarmError, opt
from domyn_swarm.jobs.base import CODE, MODEL, REVISION, SwarmJob, is_resolved, of_model
from domyn_swarm.jobs.loading import stands_in_no_file
from domyn_swarm.jobs.steps.names import spec_for as spec_of_model
from domyn_swarm.redaction import public_fields
from domyn_swarm.references import holds_reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.data.input_files import InputFiles
    from domyn_swarm.engine.columns import Columns
    from domyn_swarm.engine.graph.overrides import Overrides
    from domyn_swarm.jobspec import JobSpec

Listed: TypeAlias = "list[tuple[str, int | None, str]]"
"""Name, rows and digest of each file of an input."""
IDENTITY = ("input_columns", "output_columns", "id_column", "model")
"""Options that change what a row's output is: parts made under others of these do not belong to the job."""
FILES_LISTED = 1000
"""Most files of the input that a run writes down, to tell later which have changed."""
VALUE_CHARS = 200


def identity_of(spec: JobSpec, job: SwarmJob, overrides: Overrides = NOTHING) -> dict[str, Any]:
    """What must stay the same for parts to belong to the job. A job's file may move; its name and class may not.

    A class that stands in no file, but in a notebook, is identified by its code, which may change at any time.

    Raises:
        ConfigurationError: the job does not say what it is.
    """
    where, _, name = spec.job.rpartition(":")
    identity = {
        "job": f"{PurePath(where).name}:{name}" if where else PurePath(name).name,
        **{name: getattr(spec, name) for name in IDENTITY},
    }
    # A job with an `__init__` of its own has no fields that could be asked.
    kwargs = {} if "__dataclass_fields__" in vars(type(job)) else spec.job_kwargs
    identity |= {"filters": spec.backend_read_kwargs.get("filters")}
    identity |= {CODE: code_digest(type(job))} if stands_in_no_file(type(job)) else {}
    identity |= job.facts(spec)
    identity |= {f"{NODE}{name}": f"replaced by {digest}" for name, digest in overrides.identity.items()}
    try:
        own = {**kwargs, **job.identity()}
        own |= {name: value for name, value in spec.job_kwargs.items() if name in own and holds_reference(value)}
        identity |= {f"{JOB_FIELD}{name}": value for name, value in public_fields(_plain(own)).items()}
        return {name: _plain(value) for name, value in identity.items()}
    except SwarmError:
        raise
    except Exception as error:  # whatever a job's own `identity` does
        raise ConfigurationError(
            f"Job {spec.job!r}: `identity()` raised {type(error).__name__}: {error}.",
            "Fix its `identity`.",
            code="job.identity",
            step="identity",
        ) from error


def open_store(
    run_dir: str, run_storage: Mapping[str, Any], files: InputFiles, columns: Columns, job: SwarmJob, spec: JobSpec
) -> CheckpointStore:
    """The store in the folder `run_dir`. The versions of a job's steps depend on what the run before was."""
    folder = RunFolder(run_dir, run_storage)
    digest = files.dated_digest if columns.follows else files.digest
    store = CheckpointStore(folder, columns.id, digest, columns.outputs, columns.inputs)
    if type(job).versions is not SwarmJob.versions:
        store.versions = dict(job.versions(spec, record_before(store).identity))
    return store


def record_before(store: CheckpointStore) -> RunRecord:
    """What the run before wrote down. Without run.json, the newest part says what it belongs to."""
    record = RunRecord.load(store.folder)
    if record is not None and record.identity:
        return record
    origin = store.newest_origin()
    return RunRecord(input_digest=origin.input_digest, identity=origin.identity) if origin else RunRecord()


def _plain(value: Any) -> Any:
    """`value` as the next run will read it: tuples are lists then, keys are strings, and sets need an order."""
    ordered = msgspec.to_builtins(value, str_keys=True, enc_hook=_described, order="deterministic")
    return msgspec.json.decode(msgspec.json.encode(ordered))


def _described(value: Any) -> str:
    """A value that JSON has no words for: its `repr` may hold an address, which no two processes share."""
    return os.fspath(value) if isinstance(value, os.PathLike) else type(value).__qualname__


def check_identity(now: Mapping[str, Any], spec: JobSpec, store: CheckpointStore, files: InputFiles) -> None:
    """Refuse to mix outputs of different jobs, or rows of different inputs under generated ids. `now` is the identity.

    Raises:
        CheckpointError: with what differs, and the ways out.
    """
    if not store.reader.paths():
        return
    record = record_before(store)
    ways_out = (
        f"Run with {opt('resume', False)} to compute every row again, or with another {opt('checkpoint_tag')} to "
        "keep both."
    )
    before = _public(record.identity)
    if changed := [
        name for name in _changed(before, now, spec) if not (store.versions and _is_of_steps(name, before, now, spec))
    ]:
        if all(map(is_resolved, changed)):
            ways_out += f" {opt('allow_model_change', True)} resumes from the rows that are there."
        lines = [_difference(name, before, now) for name in changed]
        raise CheckpointError(
            f"The rows in {store.path} were made by a job that differs from this one:\n" + "\n".join(lines),
            ways_out,
            code="job.changed",
            path=store.path,
        )
    same_input = record.input_digest in (None, store.input_digest)
    if spec.id_column is not None and not same_input:
        _check_id_type(store, files, ways_out)
    if spec.id_column is None and not same_input:
        lines = _changed_files(record.input_files, listed_files(files))
        why = f"The input changed since the run in {store.path}, and generated ids only count its rows."
        raise CheckpointError(
            "\n".join([why, *lines]),
            f"{ways_out} With {opt('id_column')}, a run follows its rows through changes of the input.",
            code="input.changed",
            path=store.path,
        )


def _public(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it is written down now; earlier versions kept more of a job's fields."""
    fields = {name: value for name, value in identity.items() if name.startswith(JOB_FIELD)}
    public = public_fields({name.removeprefix(JOB_FIELD): value for name, value in fields.items()})
    return {**identity, **{f"{JOB_FIELD}{name}": value for name, value in public.items()}}


def _check_id_type(store: CheckpointStore, files: InputFiles, ways_out: str) -> None:
    """Ids of kinds that no column can hold together are other ids, however alike they look."""
    before = store.id_field()
    if before is None or files.schema is None:
        return
    now = files.schema.field(store.id_col).type
    try:
        united([pa.schema([before]), pa.schema([(before.name, now)])])
    except pa.ArrowException:
        raise CheckpointError(
            f"{before.name!r} is {now} in the input, and {before.type} in {store.path}.",
            ways_out,
            code="id.type",
            option="id_column",
            column=before.name,
            path=store.path,
        ) from None


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], spec: JobSpec) -> list[str]:
    """Names of what differs. A field that the class got since, and that nobody set, has its default for all rows."""
    given = {f"{JOB_FIELD}{name}" for name in spec.job_kwargs}
    changed = [
        name
        for name in {**before, **now}
        if not is_resolved(name)
        and before.get(name) != now.get(name)
        and (name in before or (before and name in given))
    ]
    if spec.allow_model_change or not before:
        return changed
    names = dict.fromkeys(fact.partition(" ")[2] for fact in {**before, **now} if is_resolved(fact))
    return [*changed, *(fact for name in names for fact in _changed_model(before, now, spec, name))]


def _changed_model(before: Mapping[str, Any], now: Mapping[str, Any], spec: JobSpec, name: str) -> list[str]:
    """What of the model `name` differs, if anything. What is not known, as without a preflight, differs from nothing.

    Several replicas may tell several revisions: the model is the same as long as none is new.
    """
    model, revision = of_model(MODEL, name), of_model(REVISION, name)
    wanted = spec_of_model(spec, name).model
    if model in before and before[model] != now.get(model) and (wanted or (before[model] and now.get(model))):
        return [model]
    then, here = before.get(revision) or [], now.get(revision) or []
    return [revision] if then and here and not set(here) <= set(then) else []


def _is_of_steps(name: str, before: Mapping[str, Any], now: Mapping[str, Any], spec: JobSpec) -> bool:
    """Whether what differs is in the versions of steps, whose changes are computed: code, fields, names of models."""
    fact, _, model = name.partition(" ")
    if is_resolved(name):  # without a name the endpoint decides, and that is refused
        wanted = spec_of_model(spec, model).model
        return of_model(MODEL, model) not in now or wanted not in (None, before.get(of_model(MODEL, model)))
    return fact in ("step", "named", "anew", CODE, *IDENTITY[:2]) or name.startswith(JOB_FIELD)


def _difference(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """A line about what differs; digests of code say nothing to anybody."""
    if name == CODE and name in before and name in now:
        return f"  the code of {now['job'].rpartition(':')[2]} has changed"
    if name.startswith(f"{CODE} of "):
        what = "has changed" if name in before and name in now else "is new" if name in now else "is not used any more"
        return f"  the step {name.removeprefix(f'{CODE} of ')} {what}"
    return f"  {name}: {_shown(before, name)}, now {_shown(now, name)}"


def _shown(identity: Mapping[str, Any], name: str) -> str:
    if name not in identity:
        return "not there"
    text = repr(identity[name])
    return text if len(text) <= VALUE_CHARS else f"{text[:VALUE_CHARS]}… ({len(text):,} characters)"


def _changed_files(before: Listed | None, now: Listed | None) -> list[str]:
    """A line for each of the first files that differ."""
    if before is None or now is None:
        return []
    then, here = (Counter(map(tuple, files)) for files in (before, now))  # a name may stand in several folders
    old, new = ({name: rows for name, rows, _ in files} for files in (then - here, here - then))
    lines = [f"  {name} is gone" for name in old if name not in new]
    lines += [f"  {name} is new" for name in new if name not in old]
    both = [name for name in old if name in new]
    lines += [f"  {name}: {old[name] or 'some'} rows, now {new[name] or 'some'} rows of other content" for name in both]
    return sorted(lines)[:10] or ["  the same files in another order"]


def listed_files(files: InputFiles) -> Listed | None:
    """Name, rows and digest of each file; None when there are too many to list."""
    if len(files.files) > FILES_LISTED:
        return None
    return [(PurePosixPath(file.path).name, file.rows, file.digest[:24]) for file in files.files]


def run_id_of(store: CheckpointStore) -> str | None:
    """The id of the run whose folder it is; where its record is lost the parts know."""
    if (recorded := store.folder.run_id()) is not None:
        return recorded
    origin = store.newest_origin()
    return origin.run_id if origin else None
