"""A thin client for OpenAI-compatible endpoints: aiohttp for the connection, msgspec for the JSON, dicts in and out.

It makes one request and says exactly how it failed; whoever calls it owns the retries.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import aiohttp
import msgspec

from domyn_swarm.concurrency import slots
from domyn_swarm.concurrency.memory import SMALL_BYTES
from domyn_swarm.concurrency.resources import exhausted
from domyn_swarm.concurrency.retry import status_is_retryable
from domyn_swarm.endpoint.access import Access
from domyn_swarm.endpoint.address import address_of, same_site
from domyn_swarm.endpoint.conditions import condition_of, retry_after_of
from domyn_swarm.endpoint.connecting import Way, certificates, way_to
from domyn_swarm.endpoint.json_reader import NOT_JSON, read_json
from domyn_swarm.endpoint.models import models_in
from domyn_swarm.errors import EndpointError
from domyn_swarm.masking import hide

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from domyn_swarm.endpoint.models import Model

CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 600.0
PROBE_SECONDS = 5.0
MESSAGE_CHARS = 300
MOST_REDIRECTS = 10
LARGE_BYTES = 2**20
"""What is reserved for an answer that does not say how large it is, once it is large."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class _Reply(msgspec.Struct, frozen=True):
    """An HTTP response, read to its end."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Reply(msgspec.Struct, frozen=True):
    """An answer: the JSON object, and the headers it came with, which are found in any case."""

    body: dict[str, Any]
    headers: Mapping[str, str]


class EndpointClient:
    """Requests to one endpoint over connections that are kept and reused, as many as there are calls in flight.

    `timeout` is in seconds, for one request from its start to the last byte of the answer; `connect_timeout` is for
    getting a connection. `access` is for what needs more than a key. Proxies and certificates are those that the
    environment names (see `endpoint.connecting`), unless it is to go not `through_proxies`. Use it as an async context
    manager.

    Raises:
        ConfigurationError: `base_url` is no http or https URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        access: Access | None = None,
        timeout: float = REQUEST_SECONDS,
        connect_timeout: float = CONNECT_SECONDS,
        through_proxies: bool = True,
    ) -> None:
        self.address = address_of(base_url)
        self.base_url = self.address.base_url
        self._access = access or Access(api_key)
        hide(self._access.key or "")
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout)
        self._session: aiohttp.ClientSession | None = None
        self.way = way_to(self.base_url) if through_proxies else Way(None, certificates())
        self._proxy: dict[str, Any] = {"proxy": self.way.proxy, "proxy_headers": self.way.proxy_headers or None}

    async def __aenter__(self) -> EndpointClient:
        headers = {"Content-Type": "application/json", **self._access.headers}
        if self.base_url.startswith("http:"):  # the proxy reads the request itself; a tunnel has headers of its own
            headers |= self.way.proxy_headers
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self.way.tls), timeout=self._timeout, headers=headers
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, path: str, body: bytes) -> dict[str, Any]:
        """The answer to a POST of `body`, which is JSON, to `path` (`chat/completions`).

        Raises:
            EndpointError: no answer, an error's status, or an answer that is no JSON object.
        """
        return (await self.send(path, body)).body

    async def send(self, path: str, body: bytes) -> Reply:
        """The same, with the answer's headers."""
        reply = await self._request("POST", path, body)
        return Reply(_object_in(f"POST {path}", reply), reply.headers)

    async def models(self, seconds: float = PROBE_SECONDS) -> list[Model]:
        """The models that the endpoint lists, asked for with so many seconds of patience.

        Raises:
            EndpointError: there is no answer, an error's status, or no list.
        """
        what, listed = "GET models", None
        reply = await self._request("GET", "models", None, self._timeout_of(seconds))
        with contextlib.suppress(*NOT_JSON):
            listed = models_in(read_json(reply.content))
        if listed is None:
            raise EndpointError(
                f"{what}: the answer has no list of models ({_described(reply)}): {_beginning(reply.content)}",
                status=reply.status,
                code="reply.no_models",
            )
        return listed

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is not open: use `async with`")
        return self._session

    def _timeout_of(self, most: float) -> aiohttp.ClientTimeout:
        total = min(most, self._timeout.total or most)
        return aiohttp.ClientTimeout(total=total, sock_connect=self._timeout.sock_connect)

    async def _request(
        self, method: str, path: str, body: bytes | None, patience: aiohttp.ClientTimeout | None = None
    ) -> _Reply:
        """The reply, whose status is no error's."""
        what, timeout = f"{method} {path}", patience or self._timeout
        try:
            reply = await self._follow(method, self.address.of(path), body, timeout)
        except aiohttp.ConnectionTimeoutError:
            raise EndpointError(
                f"{what}: no connection within {timeout.sock_connect:g} s.", code="request.no_connection"
            ) from None
        except TimeoutError:
            raise EndpointError(
                f"{what}: no answer within {timeout.total:g} s.", overload=True, code="request.no_answer"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a key that no header can carry
            if (ran_out := exhausted(error)) is not None:
                raise ran_out from error
            raise EndpointError(f"{what}: {type(error).__name__}: {error}", code=_code_of(error)) from None
        if reply.status >= 300:
            raise _refusal(what, reply)
        return reply

    async def _follow(self, method: str, url: str, body: bytes | None, patience: aiohttp.ClientTimeout) -> _Reply:
        """The reply from `url`, or from where it redirects to within the same origin: the key goes nowhere else."""
        for _ in range(MOST_REDIRECTS):
            async with self._open_session().request(
                method,
                url,
                data=body,
                timeout=patience,
                allow_redirects=False,
                **self._proxy,
            ) as response:
                reply = _Reply(response.status, response.headers, await _content(response))
            if reply.status not in _REDIRECTS or "Location" not in reply.headers:
                break
            elsewhere = urljoin(url, reply.headers["Location"])
            if not same_site(url, elsewhere):
                break
            url = elsewhere
            if reply.status == 303:  # the result is there, and to be fetched
                method, body = "GET", None
        return reply


async def _content(response: aiohttp.ClientResponse) -> bytes:
    """The body, once there is memory for it; until then the server has to wait with it."""
    size = response.content_length
    if size is not None and "Content-Encoding" not in response.headers:
        if size > SMALL_BYTES:
            await slots.reserve(size)
        return await response.read()
    parts, read, reserved = [], 0, SMALL_BYTES
    while part := await response.content.readany():
        parts.append(part)
        read += len(part)
        if read > reserved:
            await slots.reserve(max(read, LARGE_BYTES))
            reserved += max(read, LARGE_BYTES)
    return b"".join(parts)


def _object_in(what: str, reply: _Reply) -> dict[str, Any]:
    """The JSON object that a reply holds.

    Raises:
        EndpointError: it holds none; the message shows what there is instead.
    """
    try:
        found = read_json(reply.content)
        if isinstance(found, dict):
            return found
        reason = f"it is a JSON {type(found).__name__}"
    except NOT_JSON as error:
        reason = f"{type(error).__name__}: {error}"
    raise EndpointError(
        f"{what}: the answer is not a JSON object: {reason} ({_described(reply)}): {_beginning(reply.content)}",
        status=reply.status,
        code="reply.not_json",
    )


def _refusal(what: str, reply: _Reply) -> EndpointError:
    """An error's status as an error, with what the server says of it."""
    error: Any = None
    try:
        said = read_json(reply.content)
        if isinstance(said, list) and len(said) == 1 and isinstance(said[0], dict):  # as Google's servers have it
            said = said[0]
        said = error = said.get("error", said) if isinstance(said, dict) else said
        said = said.get("message", said) if isinstance(said, dict) else said
        status = f"status {reply.status}"
    except NOT_JSON:
        said = reply.content.decode(errors="replace")
        status = f"status {reply.status}"
        is_message = reply.headers.get("Content-Type", "text/plain").startswith("text/plain")
        if "Location" in reply.headers or (said.strip() and not is_message):
            status = f"{status} ({_described(reply)})"
    words = str(said)
    text = _shortened(words)
    retry_after = retry_after_of(reply.headers, words, error) if status_is_retryable(reply.status) else None
    return EndpointError(
        f"{what}: {status}: {text or 'no message'}",
        status=reply.status,
        retryable=status_is_retryable(reply.status),
        retry_after=retry_after,
        condition=condition_of(reply.status, error, text, retry_after),
        code="request.refused",
    )


def _code_of(error: Exception) -> str:
    """The code of a request that failed without a reply."""
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError):
        return "request.certificate"
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return "request.proxy"
    return "request.failed"


def _described(reply: _Reply) -> str:
    """What a reply that cannot be read says of itself."""
    kind = reply.headers.get("Content-Type", "no content type")[:MESSAGE_CHARS]
    location = reply.headers.get("Location")
    return f"{kind}, Location {location[:MESSAGE_CHARS]}" if location else kind


def _beginning(content: bytes) -> str:
    return _shortened(content[: 4 * MESSAGE_CHARS + 4].decode(errors="replace")) or "(nothing)"


def _shortened(text: str) -> str:
    text = text.strip()
    return f"{text[:MESSAGE_CHARS]}…" if len(text) > MESSAGE_CHARS else text
