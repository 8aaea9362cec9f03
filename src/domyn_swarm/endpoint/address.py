"""The address of an endpoint: what of it goes in front of a request's path, and what behind it."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

from domyn_swarm.errors import ConfigurationError, opt
from domyn_swarm.references import is_reference, resolved

REQUEST_PATHS = ("/chat/completions", "/completions", "/embeddings")
"""What people copy along with the address of a server."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """A server's URL up to a request's path, and the query that each request has (`?api-version=…`, or nothing)."""

    base_url: str
    query: str

    def of(self, path: str) -> str:
        """The URL of a request."""
        return f"{self.base_url}/{path}{self.query}"


def address_of(url: str) -> Address:
    """The address that `url` means, with the environment's values in the place of references in it.

    Raises:
        ConfigurationError: it is no http or https URL, more than an address, or a variable does not exist.
    """
    url = resolved(url.strip())
    query = urlsplit(url).query if _is_readable(url) else ""
    return Address(normalised(url), f"?{_filled_in(query)}" if query else "")


def _filled_in(query: str) -> str:
    """A query with the environment's values in the place of references: `key=env:KEY`."""
    pairs = (pair.partition("=") for pair in query.split("&"))
    return "&".join(
        f"{name}{equals}{quote(resolved(value), safe='') if is_reference(value) else value}"
        for name, equals, value in pairs
    )


def normalised(url: str) -> str:
    """`url` without its query and a trailing slash, and with `/v1` when it has no path.

    The address of a request (`…/chat/completions`) becomes that of its server.

    Raises:
        ConfigurationError: it is no http or https URL, or more than an address.
    """
    url = url.strip()
    parts = urlsplit(url if _is_readable(url) else "")
    if "@" in parts.netloc:
        raise ConfigurationError(
            "the URL holds a user name or a password, which would be written down with the run.",
            f"Leave them out; a key is read from DOMYN_SWARM_API_KEY, OPENAI_API_KEY or {opt('api_key_file')}.",
            code="option.secret",
            option="endpoints",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ConfigurationError(
            f"{url!r} is not a URL of an endpoint.",
            "Write http://host:port/v1, or `demo` for the bundled endpoint.",
            code="endpoint.url",
            option="endpoints",
        )
    url = urlunsplit((*parts[:3], "", "")).rstrip("/")
    if path := next((path for path in REQUEST_PATHS if url.endswith(path)), None):
        return url.removesuffix(path)
    return url if parts.path.strip("/") else f"{url}/v1"


def same_site(url: str, elsewhere: str) -> bool:
    """Whether both have the same host, port and scheme, or the second is the default HTTPS of the first's host."""
    (scheme, host, port), there = _origin(url), _origin(elsewhere)
    return there in ((scheme, host, port), *([("https", host, 443)] if port == 80 else []))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _is_readable(url: str) -> bool:
    try:
        _ = urlsplit(url).port  # is checked when it is asked for
    except ValueError:
        return False
    return True
