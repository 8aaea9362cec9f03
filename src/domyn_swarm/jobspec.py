"""`JobSpec`: everything that one run needs, its options declared once, in `option_groups`.

The command line, `spec.json`, the graph's inputs and the documentation are all made from this class; nothing else
carries options around.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec evaluates the annotations
from typing import Any

import msgspec

from domyn_swarm import declared
from domyn_swarm.data.backends.registry import canonical
from domyn_swarm.declared import converted
from domyn_swarm.option_groups import CheckpointOptions
from domyn_swarm.redaction import public_options
from domyn_swarm.spec_checks import check_spec
from domyn_swarm.storage.paths import names_directory, split

OPTION_FIELDS_OF_THE_RUN = ("job", "job_kwargs", "input", "output")

RESUMED: Mapping[str, Any] = {"resume": True, "recompute": []}
"""Options of a run that resumes what it was to do before."""


class JobSpec(CheckpointOptions, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """One run of one job as plain data, without secrets; it converts to and from JSON.

    Build one with `make_spec`, which validates it; `JobSpec(...)` itself validates nothing.
    """

    @property
    def run_dir(self) -> str:
        """The run's folder: `<checkpoint-dir>/<tag>`."""
        root = self.checkpoint_dir or f"{split(self.output)[0]}.domyn-swarm"
        return f"{root.rstrip('/')}/{self.tag}"

    @property
    def tag(self) -> str:
        """The name of the run's folder."""
        return self.checkpoint_tag or split(self.output)[1]

    @property
    def run_storage(self) -> dict[str, Any]:
        """Storage options for the run's folder: the output's, when it is on the same kind of filesystem."""
        protocols = {path.rpartition("://")[0] for path in (self.run_dir, self.output)}
        return self.backend_write_kwargs.get("storage_options") or {} if len(protocols) == 1 else {}

    @property
    def errors_path(self) -> str:
        """Where failed rows are recorded: `<output>.errors.parquet`."""
        parent, name = split(self.output)
        return f"{parent}{name.removesuffix('.parquet')}.errors.parquet"

    @property
    def output_is_directory(self) -> bool:
        """Whether the output is a directory of parquet files rather than one file."""
        return names_directory(self.output)


def make_spec(options: Mapping[str, Any]) -> JobSpec:
    """Validate `options` (JobSpec's fields by name) and return them as a JobSpec.

    Raises:
        ConfigurationError: an option is unknown, of the wrong type, out of bounds, or contradicts another one.
    """
    public_options(options)  # secrets that it finds are masked from here on, in error messages too
    spec = converted(JobSpec, options)
    spec = msgspec.structs.replace(spec, data_backend=canonical(spec.data_backend))
    check_spec(spec)
    return spec


def option_names() -> frozenset[str]:
    """The fields that a job class or job kwargs may set."""
    return frozenset(JobSpec.__struct_fields__) - frozenset(OPTION_FIELDS_OF_THE_RUN)


def flag_of(field: str) -> str:
    """The flag that sets `field` on the command line, or the field's own name."""
    return declared.flag_of(JobSpec, field)


def option_of(field: str) -> declared.Option:
    """How `field` is declared."""
    return declared.option_of(JobSpec, field)
