"""From `module:Class` or `path/to/file.py:Class` and JSON to a job, anywhere."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
import weakref
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec

from domyn_swarm.errors import ConfigurationError, SwarmError
from domyn_swarm.jobs.base import SwarmJob
from domyn_swarm.jobs.working_folder import SENT_ALONG, find_in_working_folder
from domyn_swarm.jobspec import option_names
from domyn_swarm.references import resolved

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_LIVE: weakref.WeakValueDictionary[str, type[SwarmJob]] = weakref.WeakValueDictionary()
"""Classes that no import finds, like those of a function's body, by the references that name them."""
_STEPS: dict[str, Any] = {}
"""Classes of modules of steps, by the references that name them."""


def reference_to(job_class: type[SwarmJob]) -> str:
    """What names the class in this process, for `load_job_class`."""
    name, module = job_class.__qualname__, sys.modules.get(job_class.__module__)
    if getattr(module, name, None) is job_class:
        loader = getattr(module, "__loader__", None)
        return f"{loader.path}:{name}" if isinstance(loader, _JobFile) else f"{_shortest(job_class)}:{name}"
    reference = f"{job_class.__module__}:{name}"
    _LIVE[reference] = job_class
    return reference


def _shortest(job_class: type[SwarmJob]) -> str:
    """The outermost package that has the class under its name: where people import it from."""
    parts = job_class.__module__.split(".")
    packages = (".".join(parts[:count]) for count in range(1, len(parts)))
    found = (name for name in packages if getattr(sys.modules[name], job_class.__name__, None) is job_class)
    return next(found, job_class.__module__)


def stands_in_no_file(job_class: type[SwarmJob]) -> bool:
    """Whether the class was written into a notebook or at a prompt."""
    return getattr(sys.modules.get(job_class.__module__), "__file__", None) is None


def is_known_here_only(job_class: type[SwarmJob]) -> bool:
    """Whether no other process finds the class: it stands in no file, in the script that runs, or in a function."""
    return stands_in_no_file(job_class) or job_class.__module__ == "__main__" or "<locals>" in job_class.__qualname__


def is_module(reference: str) -> bool:
    """Whether `reference` names a module or a file alone, whose functions are the job's steps."""
    return ":" not in reference


def module_in(reference: str) -> str:
    """The module or file that `reference` names."""
    return reference if is_module(reference) else reference.rpartition(":")[0]


def load_job_class(reference: str) -> type[SwarmJob]:
    """Import the class that `reference` names; for a module alone, the job of its functions.

    Raises:
        ConfigurationError: the module, file or class does not exist, or is no concrete SwarmJob, or a module has no
            steps.
    """
    if is_module(reference):
        return _job_of_steps(reference)
    where, _, name = reference.rpartition(":")
    if not where or not name:
        hint = "Write module:Class or path/to/file.py:Class, or the module or file alone for a job of steps."
        raise ConfigurationError(f"Job {reference!r} names no class.", hint, code="job.reference", path=reference)
    module = _load(where, reference)
    job_class: Any = getattr(module, name, None) or _LIVE.get(reference)
    if job_class is None:
        jobs = f"Jobs there: {_listed(_jobs_in(module))}."
        raise _refused(reference, f"{where} has no class {name!r}", jobs, "job.missing")
    if not _is_job(job_class):
        hint = "Derive the class from domyn_swarm.SwarmJob."
        raise _refused(reference, f"{name} is not a SwarmJob", hint, "job.not_a_job")
    if inspect.isabstract(job_class) or job_class is SwarmJob:
        missing = sorted(getattr(job_class, "__abstractmethods__", ())) or ["transform_item"]
        raise _refused(reference, f"{name} is abstract", f"Write its {_listed(missing)}.", "job.abstract")
    _check_members(job_class, reference)
    checked: type[SwarmJob] = job_class
    return checked


def _job_of_steps(reference: str) -> type[SwarmJob]:
    from domyn_swarm.jobs.steps.job import steps_class  # noqa: PLC0415 - for jobs of steps only

    # Modifiers come from Hamilton, which would import polars wherever that is installed.
    os.environ.setdefault("HAMILTON_AUTOLOAD_EXTENSIONS", "0")
    module = _load(reference, reference)
    known = _STEPS.get(reference)
    if known is None or known.module is not module:
        known = _STEPS[reference] = steps_class(module, reference, _jobs_in(module))
    return known


def _load(where: str, reference: str) -> ModuleType:
    return _load_file(where, reference) if where.endswith(".py") else _load_module(where, reference)


def _check_members(job_class: type[SwarmJob], reference: str) -> None:
    for columns in ("input_columns", "output_columns"):
        if isinstance(text := getattr(job_class, columns), str):  # each of its characters would be a column
            hint = f"Write {columns} = ({text!r},)."
            raise _refused(reference, f"{columns} = {text!r} is no tuple", hint, "job.columns")
    ours = [base for base in job_class.__mro__ if base.__module__.startswith("domyn_swarm.")]
    for name in job_fields(job_class):
        if any(callable(vars(base).get(name)) for base in ours):
            raise _refused(
                reference, f"a field hides the method {name!r}", "Give it another name.", "job.hidden_method"
            )


def _refused(reference: str, wrong: str, hint: str, code: str) -> ConfigurationError:
    return ConfigurationError(f"Job {reference!r}: {wrong}.", hint, code=code, path=reference)


def job_fields(job_class: type[SwarmJob]) -> frozenset[str]:
    """Names of the parameters that the job's constructor takes."""
    return frozenset(p.name for p in _parameters(job_class) if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))


def build_job(job_class: type[SwarmJob], kwargs: Mapping[str, Any]) -> SwarmJob:
    """The job with its fields set from JSON values, types checked.

    Raises:
        ConfigurationError: a kwarg is unknown, missing or of the wrong type.
    """
    name, fields = job_class.__name__, job_fields(job_class)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in _parameters(job_class))
    for key in kwargs:
        if key not in fields and not takes_any:
            near = difflib.get_close_matches(key, {*fields, *option_names()}, 1)
            meant = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigurationError(
                f"{name} has no field {key!r}.",
                f"{meant}Fields: {_listed(sorted(fields))}.",
                code="job.unknown_field",
                option="job_kwargs",
                choices=tuple(sorted(fields)),
            )
    kwargs = resolved(kwargs)
    try:
        if "__dataclass_fields__" in vars(job_class):
            return msgspec.convert(dict(kwargs), job_class)
        return job_class(**kwargs)  # it has an __init__ of its own, which takes the values as JSON gives them
    except SwarmError:
        raise
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"{name} cannot be made: {error}.", "Fix the JSON.", code="job.fields", option="job_kwargs"
        ) from None
    except Exception as error:
        raise ConfigurationError(
            f"{name} cannot be made: {type(error).__name__}: {error}.",
            "Fix the JSON, or the class.",
            code="job.fields",
            option="job_kwargs",
        ) from error


def _load_file(path: str, reference: str) -> ModuleType:
    file = Path(os.environ.get(SENT_ALONG) or path).expanduser().resolve()
    if not file.is_file():
        raise _refused(reference, f"there is no file {path}", "Check the path.", "job.missing")
    loader = _JobFile(_module_name(file), file)
    known = sys.modules.get(loader.name)
    if known is not None and known.__loader__ == loader:
        return known
    try:
        return _executed(loader, file)
    except (Exception, SystemExit) as error:
        raise _import_refusal(reference, error) from error


def _executed(loader: _JobFile, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(loader.name, file, loader=loader)
    module = importlib.util.module_from_spec(cast("ModuleSpec", spec))
    sys.modules[loader.name] = module
    folder = str(file.parent)
    sys.path.insert(0, folder)  # for its neighbours, as if it had been run
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[loader.name]
        raise
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for those that its methods import, but in the place of nobody else's
    return module


def _module_name(file: Path) -> str:
    """The file's own name, so that its classes can be found again, unless that is another module's."""
    try:
        found = importlib.util.find_spec(file.stem) if file.stem.isidentifier() else None
        taken = found is not None and found.origin != str(file)
    except ValueError:  # a module without a spec has the name
        taken = True
    return f"domyn_swarm_job_{file.stem}" if taken else file.stem


class _JobFile(SourceFileLoader):
    """One version of a file, equal to itself only. No bytecode: the folder stays as it is, no edit is overlooked."""

    def __init__(self, name: str, file: Path) -> None:
        super().__init__(name, str(file))
        self.version = file.stat().st_mtime_ns  # loaders are equal when all of their attributes are

    def path_stats(self, path: str) -> NoReturn:
        raise OSError(path)


def _load_module(name: str, reference: str) -> ModuleType:
    """Import a module: that of the working folder if it is there, as `python -m` would, else an installed one.

    A working folder that has not got the job is not looked into: its files may be called like modules of others.
    """
    find_in_working_folder(name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            hint = "Check the name, or write path/to/file.py:Class."
            raise _refused(reference, f"there is no module {name!r}", hint, "job.missing") from None
        raise _import_refusal(reference, error) from error
    except (Exception, SystemExit) as error:
        raise _import_refusal(reference, error) from error


def _import_refusal(reference: str, error: BaseException) -> ConfigurationError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    # A syntax error has no frame in the file that holds it, and says itself where it is.
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if not isinstance(error, SyntaxError) else ""
    return ConfigurationError(
        f"Job {reference!r} cannot be imported: {type(error).__name__}: {error}{where}.",
        "Fix the module.",
        code="job.import",
        path=reference,
    )


def _parameters(job_class: type[SwarmJob]) -> list[inspect.Parameter]:
    return list(inspect.signature(job_class).parameters.values())


def _jobs_in(module: ModuleType) -> list[str]:
    names = dict.fromkeys([*vars(module), *getattr(module, "__all__", ())])  # some are imported when they are used
    values = {name: getattr(module, name, None) for name in names}
    return [name for name, value in values.items() if _is_job(value) and value is not SwarmJob]


def _is_job(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, SwarmJob)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
