"""From `module:Class` or `path/to/file.py:Class` and JSON to a job, anywhere."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobs.base import SwarmJob

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType


def load_job_class(reference: str) -> type[SwarmJob]:
    """Import the class that `reference` names.

    Raises:
        ConfigurationError: the module, file or class does not exist, or is no concrete SwarmJob.
    """
    where, _, name = reference.rpartition(":")
    if not where or not name:
        raise ConfigurationError(f"Job {reference!r} names no class.", "Write module:Class or path/to/file.py:Class.")
    module = _load_file(where, reference) if where.endswith(".py") else _load_module(where, reference)
    job_class: Any = getattr(module, name, None)
    if job_class is None:
        jobs = [key for key, value in vars(module).items() if _is_job(value) and value is not SwarmJob]
        raise ConfigurationError(f"Job {reference!r}: {where} has no class {name!r}.", f"Jobs there: {_listed(jobs)}.")
    if not _is_job(job_class):
        raise ConfigurationError(
            f"Job {reference!r}: {name} is not a SwarmJob.", "Derive the class from domyn_swarm.SwarmJob."
        )
    if inspect.isabstract(job_class) or job_class is SwarmJob:
        missing = sorted(getattr(job_class, "__abstractmethods__", ())) or ["transform_item"]
        raise ConfigurationError(f"Job {reference!r}: {name} is abstract.", f"Write its {_listed(missing)}.")
    checked: type[SwarmJob] = job_class
    return checked


def job_fields(job_class: type[SwarmJob]) -> frozenset[str]:
    """Names of the parameters that the job's constructor takes."""
    return frozenset(inspect.signature(job_class).parameters)


def build_job(job_class: type[SwarmJob], kwargs: Mapping[str, Any]) -> SwarmJob:
    """The job with its fields set from JSON values, types checked.

    Raises:
        ConfigurationError: a kwarg is unknown, missing or of the wrong type.
    """
    name, fields = job_class.__name__, job_fields(job_class)
    for key in kwargs:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            meant = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigurationError(
                f"--job-kwargs: {name} has no field {key!r}.", f"{meant}Fields: {_listed(sorted(fields))}."
            )
    try:
        if "__dataclass_fields__" in vars(job_class):
            return msgspec.convert(dict(kwargs), job_class)
        return job_class(**kwargs)  # it has an __init__ of its own, which takes the values as JSON gives them
    except (TypeError, ValueError) as error:  # msgspec.ValidationError is a ValueError
        raise ConfigurationError(f"--job-kwargs: {name} cannot be made: {error}.", "Mend the JSON.") from None


def _load_file(path: str, reference: str) -> ModuleType:
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ConfigurationError(f"Job {reference!r}: there is no file {path}.", "Check the path.")
    # Under its own name, so that its classes can be found again, but never in the place of another module.
    known = sys.modules.get(file.stem)
    taken = known is not None and getattr(known, "__file__", None) != str(file)
    name = f"domyn_swarm_job_{file.stem}" if taken else file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"Job {reference!r}: {path} is no Python file.", "Name a .py file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(file.parent))  # for its neighbours, as if it had been run
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _import_refusal(reference, error) from error
    finally:
        sys.path.remove(str(file.parent))
    return module


def _load_module(name: str, reference: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a console script has its own folder there instead
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"Job {reference!r}: there is no module {name!r}.", "Check the name, or write path/to/file.py:Class."
            ) from None
        raise _import_refusal(reference, error) from error
    except Exception as error:
        raise _import_refusal(reference, error) from error


def _import_refusal(reference: str, error: Exception) -> ConfigurationError:
    where = ""
    if error.__traceback__ is not None:
        last = inspect.getinnerframes(error.__traceback__)[-1]
        where = f" ({last.filename}, line {last.lineno})"
    return ConfigurationError(
        f"Job {reference!r} cannot be imported: {type(error).__name__}: {error}{where}.", "Mend the module."
    )


def _is_job(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, SwarmJob)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
