"""Checks of a JobSpec that concern several options, or more than a type can say."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from domyn_swarm.data.finite import check_finite
from domyn_swarm.endpoint.access import check_headers
from domyn_swarm.errors import ConfigurationError, opt
from domyn_swarm.storage.paths import is_text, split

if TYPE_CHECKING:
    from domyn_swarm.jobspec import JobSpec


def check_spec(spec: JobSpec) -> None:
    """Refuse options that contradict each other, and values that cannot be stored or used.

    Raises:
        ConfigurationError: with the option.
    """
    _check_texts(spec)
    check_headers(spec.headers, spec.api_key_header)
    for name in spec.__struct_fields__:
        check_finite(name, getattr(spec, name))
    if not spec.checkpointing and not spec.resume:
        raise ConfigurationError(
            f"{opt('resume', False)} and {opt('checkpointing', False)} exclude each other: without checkpoints there "
            "is nothing to resume.",
            "Drop one of the two.",
            code="option.conflict",
            option="resume",
        )
    name = split(spec.output)[1]
    if name in ("", ".", ".."):
        raise ConfigurationError(
            f"{spec.output!r} does not name a file or a folder.",
            "Name a file that ends in .parquet, or a directory to create.",
            code="output.invalid",
            option="output",
            path=spec.output,
        )
    suffix = PurePosixPath(name).suffix
    if not spec.output_is_directory and suffix != ".parquet":
        raise ConfigurationError(
            f"{spec.output!r} ends in {suffix!r}, but outputs are always parquet.",
            "Name a file that ends in .parquet, or a directory (no suffix, or a trailing /).",
            code="output.suffix",
            option="output",
            path=spec.output,
        )
    if spec.checkpoint_tag is not None and not re.fullmatch(r"(?!\.+$)[\w.@+=-]+", spec.checkpoint_tag):
        raise ConfigurationError(
            f"{spec.checkpoint_tag!r} is not a plain name.",
            "Use only letters, digits and . _ - @ + =; it names a folder.",
            code="option.invalid",
            option="checkpoint_tag",
        )


def _check_texts(spec: JobSpec) -> None:
    """Refuse names whose bytes are not UTF-8: they cannot be stored in the run's JSON files."""
    for name in spec.__struct_fields__:
        value = getattr(spec, name)
        texts = value if isinstance(value, list) else [value]
        if invalid := next((text for text in texts if isinstance(text, str) and not is_text(text)), None):
            raise ConfigurationError(f"{invalid!r} is not UTF-8.", "Rename it.", code="option.not_text", option=name)
