"""`python -m domyn_swarm.data.backends.ray_probe ADDRESS`: whether a Ray cluster takes work from here, as JSON.

Ray may hang, or end the process, where something is wrong with a cluster: whoever asks does so from outside.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from domyn_swarm.concurrency.stop import Stop
from domyn_swarm.errors import ConfigurationError, MissingDependencyError


def look(address: str) -> dict[str, Any]:
    """What the cluster is: its Ray's version, machines and CPUs; of a job server its Ray's version alone.

    Raises:
        ConfigurationError: Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray  # noqa: PLC0415 - it may not be there
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise MissingDependencyError("Ray is not installed.", command="pip install 'domyn-swarm[ray]'") from None
    if address.startswith(("http://", "https://")):
        return {"here": ray.__version__, "there": _version_of_job_server(address)}
    from domyn_swarm.data.backends.ray_cluster import check_address, session  # noqa: PLC0415

    check_address(address)
    with session(address, Stop(), lambda _: None):  # as a run does; Ray itself compares the versions
        machines = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        cpus = ray.cluster_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
    return {"here": ray.__version__, "machines": len(machines), "cpus": cpus}


def _version_of_job_server(url: str) -> str:
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

    answer = JobSubmissionClient(url)._do_request("GET", "/api/version")  # noqa: SLF001 - nothing public tells it
    answer.raise_for_status()
    return str(answer.json()["ray_version"])


def main(address: str) -> None:
    """Print what was found, or what is wrong."""
    try:
        said = look(address)
    except ConfigurationError as error:
        said = {"error": " ".join(error.text.split()), "fix": getattr(error, "command", "") or error.advice}
    except Exception as error:  # noqa: BLE001 - whatever Ray throws is what was found
        said = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    print(msgspec.json.encode(said).decode(), flush=True)  # noqa: T201 - a command's result


if __name__ == "__main__":
    main(sys.argv[1])
