"""`python -m domyn_swarm.jobs.run spec.json`: run a job from its JobSpec, on whatever machine this is."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from domyn_swarm.errors import ConfigurationError, SwarmError
from domyn_swarm.jobs.runner import run
from domyn_swarm.jobs.spec import make_spec


def main(arguments: list[str]) -> int:
    """Run the spec in the file that `arguments` name; print the result as JSON; return the exit status."""
    try:
        if len(arguments) != 1:
            raise ConfigurationError("One argument is needed.", "Usage: python -m domyn_swarm.jobs.run spec.json")
        result = run(make_spec(_options(arguments[0])))
    except SwarmError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's message
        return error.exit_status
    print(msgspec.json.encode(result).decode())  # noqa: T201 - a command's result
    return result.exit_status


def _options(path: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path} is no readable JobSpec: {error}.", "Name the spec.json of a run.") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
