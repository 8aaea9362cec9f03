"""How a server is reached: through which proxy, and trusting which certificates. The environment says it for all.

Requests, the look before a run and the official client go by the same: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and
`NO_PROXY` (or the same in lower case), `SSL_CERT_FILE` and `SSL_CERT_DIR`. aiohttp's own reading of the environment is
not used, because it also sends what `~/.netrc` holds in place of the key.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import ssl
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from domyn_swarm.errors import ConfigurationError
from domyn_swarm.masking import hide

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class Way(NamedTuple):
    """The proxy's URL (None: none), with user and password if it needs them, and what TLS is checked with."""

    proxy_url: str | None
    tls: ssl.SSLContext

    @property
    def proxy(self) -> str | None:
        """The proxy's URL without user and password."""
        if self.proxy_url is None:
            return None
        found = urlsplit(self.proxy_url)
        return found._replace(netloc=found.netloc.rpartition("@")[2]).geturl()

    @property
    def proxy_headers(self) -> dict[str, str]:
        """What tells the proxy who asks."""
        found = urlsplit(self.proxy_url or "")
        if not found.username:
            return {}
        secret = f"{unquote(found.username)}:{unquote(found.password or '')}".encode()
        return {"Proxy-Authorization": f"Basic {base64.b64encode(secret).decode()}"}


def way_to(url: str) -> Way:
    """How the server at `url` is reached.

    Raises:
        ConfigurationError: a variable names a proxy or certificates that cannot be used.
    """
    return Way(_proxy_for(url), certificates())


def certificates() -> ssl.SSLContext:
    """The certificates that are trusted.

    Raises:
        ConfigurationError: a variable names some that cannot be used.
    """
    return _tls(*(os.environ.get(name, "") for name in _CERTIFICATES))


def _proxy_for(url: str) -> str | None:
    proxies = getproxies_environment()
    parts = urlsplit(url)
    name = next((one for one in (parts.scheme, "all") if proxies.get(one)), None)
    if name is None or _is_exempt(parts.hostname or "", parts.netloc, proxies):
        return None
    proxy = proxies[name] if "://" in proxies[name] else f"http://{proxies[name]}"
    found = urlsplit(proxy)
    hide(unquote(found.password or ""))
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ConfigurationError(
            f"{name.upper()}_PROXY: a {found.scheme or 'nameless'} proxy cannot be used, only http and https ones can.",
            f"Change it, or exempt the endpoint: NO_PROXY={parts.hostname}",
            code="endpoint.proxy",
        )
    return proxy


def _is_exempt(host: str, place: str, proxies: dict[str, str]) -> bool:
    """Whether `NO_PROXY` lists the host: by name, suffix, with its port, as `*`, or by its network (10.0.0.0/8)."""
    entries = [entry.strip() for entry in proxies.get("no", "").split(",")]
    if "*" in entries or proxy_bypass_environment(place, proxies) or proxy_bypass_environment(host, proxies):
        return True
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        for entry in entries:
            with contextlib.suppress(ValueError):
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
    return False


@cache
def _tls(file: str, folder: str) -> ssl.SSLContext:
    """The system's certificates, or those that the variables name. OpenSSL itself passes over a path that is wrong."""
    for name, path in zip(_CERTIFICATES, (file, folder), strict=True):
        if path and not any(Path(one).exists() for one in path.split(os.pathsep)):
            raise ConfigurationError(
                f"{name}: {path} does not exist.",
                "Name the CA's certificate, in PEM.",
                code="endpoint.certificate",
                path=path,
            )
    context = ssl.create_default_context()
    if file:
        try:
            context.load_verify_locations(file)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(
                f"SSL_CERT_FILE: {file} cannot be read: {reason}.",
                "Name the CA's certificate, in PEM.",
                code="endpoint.certificate",
                path=file,
            ) from None
    return context
