"""A look at the endpoints before a run: whether they are there, and which model will be asked.

The list of models is advice. With a model named, whatever is wrong with the list is a warning: servers restrict it,
leave it out, or answer it slowly, and serve the model all the same.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from domyn_swarm.concurrency.retry import OVERLOADED_STATUS, backoff
from domyn_swarm.endpoint.access import Access
from domyn_swarm.endpoint.client import PROBE_SECONDS, EndpointClient
from domyn_swarm.endpoint.models import named
from domyn_swarm.errors import PYTHON, ConfigurationError, EndpointError, opt, render
from domyn_swarm.redaction import public_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domyn_swarm.endpoint.models import Model

LISTED_MODELS = 10
_WITHOUT = f"Name another, or add {opt('preflight', False)} if the server has models that it does not list."

_WITHOUT_KEY = f"Set DOMYN_SWARM_API_KEY or OPENAI_API_KEY, or name an {opt('api_key_file')}, with a key that it takes."
_WITH_KEY = (
    "The key that is set was sent: it is not accepted, or may not list models. Set another, or name the model with "
    f"{opt('model')}, which needs no list."
)
_CONNECTING = {
    "request.certificate": "Name the CA that signed its certificate: SSL_CERT_FILE=/path/to/ca.pem.",
    "request.proxy": "HTTP_PROXY or HTTPS_PROXY names a proxy; list the endpoint's host in NO_PROXY if it needs none.",
}
"""What to do where no connection came about, by the error's code."""

logger = logging.getLogger("domyn_swarm")

Listing: TypeAlias = "list[Model] | EndpointError"


class Found(msgspec.Struct, frozen=True):
    """The model that requests will name, and what the endpoints tell of its revision, each text once."""

    model: str
    revisions: list[str] = []


def look(
    urls: Sequence[str], wanted: str | None, access: Access, seconds: float = PROBE_SECONDS, *,
    through_proxies: bool = True,
) -> Found:  # fmt: skip
    """Ask the endpoints at `urls` for their models, for `seconds` each and all at once; `wanted` is named by the user.

    Raises:
        ConfigurationError: no endpoint is there, none tells which model it has and none is named, or a list that can be
            read has no such model.
    """
    listings = dict(zip(map(shown, urls), _in_a_thread(_listings(urls, access, seconds, through_proxies)), strict=True))
    key = access.key
    absent = {url: said for url, said in listings.items() if isinstance(said, EndpointError) and is_absent(said)}
    if len(absent) == len(listings):
        raise _unusable(*next(iter(absent.items())), key)
    for url, error in absent.items():
        logger.warning("endpoint %s cannot be used: %s", url, error.message)
    there = {url: said for url, said in listings.items() if url not in absent}
    model = wanted or _first(there, key)
    revisions = [_checked(url, said, model, key, is_named=wanted is not None) for url, said in there.items()]
    return Found(model, sorted({one for one in revisions if one}))


def _first(listings: dict[str, Listing], key: str | None) -> str:
    """The first model that is listed, where none is named."""
    for url, said in listings.items():
        if isinstance(said, EndpointError):
            raise _unusable(url, said, key) from said
        if said:
            return said[0].name
    raise ConfigurationError(
        f"{opt('model')} is missing: {next(iter(listings))} lists none.",
        f"Name one with {opt('model')}.",
        code="model.missing",
        option="model",
    )


def _checked(url: str, said: Listing, model: str, key: str | None, *, is_named: bool) -> str:
    """The revision of `model` at `url`, empty if it is not known.

    Raises:
        ConfigurationError: a list that can be read has no such model.
    """
    if isinstance(said, EndpointError):
        logger.warning(
            "endpoint %s does not show its models, so the run starts without having seen %r: %s %s",
            url, model, said.message, render(advice(said, has_key=key is not None), PYTHON),
        )  # fmt: skip
        return ""
    found = named(model, said)
    if found is None and said:
        hint = _WITHOUT if is_named else "The endpoints of a run serve the same model: name one that all have."
        listed = ", ".join(one.name for one in said[:LISTED_MODELS])
        more = ", …" if len(said) > LISTED_MODELS else ""
        raise ConfigurationError(
            f"{url} has no model {model!r}.",
            f"It lists: {listed}{more}.\n{hint}",
            code="model.unknown",
            option="model",
            path=url,
        )
    if found is not None and found.name != model:
        logger.info("endpoint %s lists the model %r, which is taken for %r", url, found.name, model)
    return found.revision if found else ""


def check_endpoint(url: str, api_key: str | None = None, seconds: float = PROBE_SECONDS) -> list[Model]:
    """The models of one endpoint.

    Raises:
        ConfigurationError: it does not tell them within `seconds`; the hint says what to do.
    """
    (said,) = _in_a_thread(_listings([url], Access(api_key), seconds, True))
    if isinstance(said, EndpointError):
        raise _unusable(url, said, api_key) from said
    models: list[Model] = said
    return models


def _unusable(url: str, error: EndpointError, key: str | None) -> ConfigurationError:
    hint = advice(error, has_key=key is not None)
    return ConfigurationError(
        f"{url} cannot be used: {error.text}", hint, code="endpoint.unusable", option="endpoints", path=url
    )


def advice(error: EndpointError, *, has_key: bool) -> str:
    """What to do about an endpoint that does not list its models."""
    if error.status in (401, 403):
        return _WITH_KEY if has_key else _WITHOUT_KEY
    if error.status in OVERLOADED_STATUS:
        return "It is there, and has too much to do: try again later."
    if error.status == 404:
        return "The address of an OpenAI-compatible server mostly ends in /v1."
    if error.status == 0 and error.overload:
        return f"It is there, and slow: give it more time with {opt('preflight_timeout')}."
    return _CONNECTING.get(error.code, "Is the server up, and is this its address?")


def is_absent(error: EndpointError) -> bool:
    """Whether no connection came about, so that no request will fare better."""
    return error.status == 0 and not error.overload


def shown(url: str) -> str:
    """An endpoint's URL as messages have it."""
    return str(public_text(url))


async def _listings(urls: Sequence[str], access: Access, seconds: float, proxies: bool) -> list[Listing]:
    return await asyncio.gather(*(_listing(url, access, seconds, proxies) for url in urls))


async def _listing(url: str, access: Access, seconds: float, proxies: bool) -> Listing:
    try:
        async with EndpointClient(url, access=access, through_proxies=proxies) as client:
            return await listed_models(client, seconds)
    except EndpointError as error:
        return error


async def listed_models(client: EndpointClient, seconds: float = PROBE_SECONDS) -> list[Model]:
    """The models of an endpoint, which may be too busy to tell at first.

    Raises:
        EndpointError: it does not tell within `seconds` or so.
    """
    waits = 0.0
    for attempt in itertools.count(1):
        try:
            return await client.models(seconds)
        except EndpointError as error:
            wait = backoff(attempt, error)
            waits += wait
            if error.status not in OVERLOADED_STATUS or waits > seconds:
                raise
            await asyncio.sleep(wait)
    raise AssertionError


def _in_a_thread(work: Any) -> Any:
    """Run a coroutine to its end, whether or not the caller's thread has a running loop (a notebook does)."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((asyncio.run(work), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
