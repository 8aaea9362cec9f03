"""Every case here runs on every installed backend, in compatibility and in native mode, against the same literals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from domyn_swarm import RunResult, make_spec, run
from domyn_swarm.errors import SwarmError
from tests.conftest import job

Run = Callable[..., RunResult]

CLUSTERS = ("ray",)
"""Engines whose runs start processes: each takes seconds of CPU."""
LIKE_PANDAS = ("toy-arrow",)
"""Engines that read, filter and write with the same code as pandas."""
RUNS = {"run_job", "shout", "shout_in_mode"}
"""Fixtures of cases that are runs; other cases call the backend's functions."""


@pytest.hookimpl(tryfirst=True)  # before items are selected by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose where cases that are runs are made; `--backend` makes all of them, on the engine it names.

    All are made on pandas in both modes. Those marked `clusters` are made on every engine, all others on engines that
    neither share their code with pandas nor start processes. Modes other than native, whose frames are the engine's
    own, are stress. So are the others on engines like pandas; on clusters these are left to `--backend`.
    """
    if config.getoption("--backend"):
        return
    left_out = set()
    for item in items:
        where = _of_a_run(item)
        if where is None or where["backend"] == "pandas":
            continue
        everywhere = item.get_closest_marker("clusters")
        if where["backend"] in CLUSTERS and not everywhere:
            left_out.add(item)
        elif where.get("mode") == "compatibility" or (where["backend"] in LIKE_PANDAS and not everywhere):
            item.add_marker("stress")
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _of_a_run(item: pytest.Item) -> dict[str, Any] | None:
    """The parameters of a case that is a run."""
    if not isinstance(item, pytest.Function) or "conformance" not in item.path.parts or not hasattr(item, "callspec"):
        return None
    params = item.callspec.params
    return params if "backend" in params and not RUNS.isdisjoint(item.fixturenames) else None


@pytest.fixture(scope="session", autouse=True)
def engines(backends: list[str]) -> Iterator[None]:
    """What engines need that is slow to start: one local Ray for all cases."""
    if "ray" not in backends:
        yield
        return
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(params=["compatibility", "native"])
def mode(request: pytest.FixtureRequest) -> str:
    """How rows reach the job: as plain Python values, or as frames of the engine."""
    name: str = request.param
    return name


@pytest.fixture
def run_job(backend: str, mode: str) -> Run:
    """`run_job("Upper", input=..., ...)`: the JobSpec's fields, and the job's own input and output columns if unset."""

    def run_it(name: str, **options: Any) -> RunResult:
        from tests import jobs

        job_class = getattr(jobs, name)
        # Workers may have another folder than the test.
        files = {field: str(Path(field).absolute()) for field in ("calls", "mended") if hasattr(job_class, field)}
        options["job_kwargs"] = {**files, **options.get("job_kwargs", {})}
        defaults = {
            "output": "out.parquet",
            "input_columns": list(job_class.input_columns),
            "output_columns": list(job_class.output_columns),
            "data_backend": backend,
            "native_backend": mode == "native",
        }
        return run(make_spec({**defaults, "job": job(name), **options}))

    return run_it


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """A case that is `refused_by` a backend has to be refused there, and to pass everywhere else."""
    mark = pyfuncitem.get_closest_marker("refused_by")
    if mark is None or pyfuncitem.callspec.params["backend"] not in mark.args:
        return (yield)
    with pytest.raises(SwarmError) as refused:
        yield
    assert refused.value.exit_status == 2
    return True
