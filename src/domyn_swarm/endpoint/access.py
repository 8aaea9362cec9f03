"""What tells an endpoint who asks: the key, the header that it goes in, and other headers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from domyn_swarm.endpoint.keys import read_key
from domyn_swarm.errors import ConfigurationError, opt
from domyn_swarm.references import IN_HEADER, resolved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domyn_swarm.jobspec import JobSpec

AUTHORIZATION = "Authorization"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OF_A_MODEL = re.compile(r"[^\W\d]\w*=")
"""What stands before a header that is for one of the models of a job of steps."""
_OURS = frozenset({"content-length", "content-type", "content-encoding", "transfer-encoding", "connection"})
"""Headers that describe a request as it is sent."""


class Access(msgspec.Struct, frozen=True):
    """The key, the name of its header (None: `Authorization`, as a bearer's), and other headers, by their names."""

    key: str | None = None
    key_header: str | None = None
    extra: dict[str, str] = {}

    @property
    def headers(self) -> dict[str, str]:
        """All of these as headers. One that was given by its name wins over the key."""
        given = {name.lower() for name in self.extra}
        name = self.key_header or AUTHORIZATION
        if not self.key or name.lower() in given:
            return self.extra
        return {name: self.key if self.key_header else f"Bearer {self.key}", **self.extra}


def access_of(spec: JobSpec) -> Access:
    """The access to the endpoints of `spec`, whose secrets are masked in this process from now on.

    Raises:
        ConfigurationError: a key, a header or a variable cannot be used.
    """
    return Access(read_key(spec.api_key_file), spec.api_key_header, read_headers(spec.headers))


def read_headers(given: Sequence[str]) -> dict[str, str]:
    """Headers as options have them, by their names, with the environment's values in the place of references.

    Raises:
        ConfigurationError: one cannot be a header, or a variable does not exist.
    """
    headers = {}
    for name, value in map(parted, given):
        found = IN_HEADER.sub(lambda match: f"{match[1]}{resolved(f'env:{match[2]}')}", value).strip()
        if not found or not _is_line(found):
            raise ConfigurationError(
                f"the header {name} is empty, or holds what no header can.",
                "A line of plain characters is needed.",
                code="header.invalid",
                option="headers",
            )
        headers[name] = found
    return headers


def check_headers(given: Sequence[str], key_header: str | None) -> None:
    """Refuse what can be no header, whatever the environment holds.

    Raises:
        ConfigurationError: it has no name and value, is set by the client itself, or is given twice.
    """
    names = []
    for header in given:
        of_model = found[0] if (found := _OF_A_MODEL.match(header)) else ""
        names.append(f"{of_model}{parted(header.removeprefix(of_model))[0].lower()}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigurationError(
            f"the header {twice} is given twice.", "Give it once.", code="header.invalid", option="headers"
        )
    if key_header is not None and (not _NAME.fullmatch(key_header) or key_header.lower() in _OURS):
        raise ConfigurationError(
            f"{key_header!r} cannot be the name of the key's header.",
            f"Name one, as in {opt('api_key_header', 'api-key')}.",
            code="header.invalid",
            option="api_key_header",
        )


def parted(header: str) -> tuple[str, str]:
    """The name and the value of `Name: value`.

    Raises:
        ConfigurationError: it is no header.
    """
    name, colon, value = header.partition(":")
    name = name.strip()
    if not colon or not _NAME.fullmatch(name) or not value.strip() or not _is_line(value):
        raise ConfigurationError(  # without the text, which may be a credential
            "a header is a name and a value.",
            f"Write {opt('headers', 'X-Team: search')}, with env:NAME for what stands in an environment variable.",
            code="header.invalid",
            option="headers",
        )
    if name.lower() in _OURS:
        raise ConfigurationError(
            f"the header {name} describes each request, and is set when it is sent.",
            "Leave it out.",
            code="header.invalid",
            option="headers",
        )
    return name, value.strip()


def _is_line(text: str) -> bool:
    return text.isascii() and text.isprintable()
