"""Jobs that send requests to OpenAI-compatible endpoints: what they have in common."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl

import msgspec

from domyn_swarm.concurrency import slots
from domyn_swarm.data.finite import check_finite
from domyn_swarm.endpoint.access import AUTHORIZATION, access_of
from domyn_swarm.endpoint.address import REQUEST_PATHS, normalised
from domyn_swarm.endpoint.client import REQUEST_SECONDS, EndpointClient
from domyn_swarm.endpoint.demo import MODEL as DEMO_MODEL
from domyn_swarm.endpoint.demo import demo_server
from domyn_swarm.endpoint.load_balancer import Answer, LoadBalancer
from domyn_swarm.endpoint.preflight import Found, listed_models, look
from domyn_swarm.endpoint.rate_limit import Rates
from domyn_swarm.errors import ConfigurationError, EndpointError, JobError, opt
from domyn_swarm.jobs.base import MODEL, REVISION, SwarmJob
from domyn_swarm.masking import holds
from domyn_swarm.redaction import public_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.endpoint.access import Access
    from domyn_swarm.endpoint.load_balancer import Judge
    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.telemetry.counts import Counts

DEMO = "demo"

logger = logging.getLogger("domyn_swarm")


class ItemError(ValueError):
    """A row that no request can be made from; trying again would not help."""

    retryable = False


class EndpointJob(SwarmJob):
    """A job that sends requests for its rows to OpenAI-compatible endpoints.

    `request` holds parameters that every request carries as they are: `{"temperature": 0, "max_tokens": 200}`. What
    stands in `extra_body` goes into the body as well, as with the official client.

    Write `transform_item` and send requests with `ask`, or with `client`, the official one. Requests are tried again,
    spread over the endpoints and kept within the run's limits; `timeout`, `retries` and `retry_timeout` are those of a
    request.
    """

    defaults: ClassVar[dict[str, Any]] = {"retries": 5, "grace": 30.0}
    times_itself = True
    reserved: ClassVar[tuple[str, ...]] = ("model", "stream", "extra_headers", "extra_query", "timeout")
    """Parameters that `request` may not hold, because the job sets them or cannot work with them."""

    request: dict[str, Any] = dataclasses.field(default_factory=dict)

    def preflight(self, spec: JobSpec) -> Mapping[str, Any]:
        """Check `request`, the key, and that the endpoints answer and have the model, so that a mistake costs no row.

        Returns the model that requests will name, and its revision where the endpoints tell one.

        Raises:
            ConfigurationError: something of it is wrong, no endpoint is given, or none answers.
        """
        self.prepare(spec)
        check_finite("job_kwargs", {"request": self.request})  # a class may have its own
        if taken := sorted(self.parameters().keys() & set(self.reserved)):
            raise ConfigurationError(
                f"`request` holds {', '.join(taken)}.",
                f"{opt('model')} names the model, {opt('timeout')} the time; the content is the row's, and answers are "
                "not streamed.",
                code="request.reserved",
                option="job_kwargs",
            )
        if not spec.endpoints and not spec.serve:
            raise ConfigurationError(
                f"{opt('endpoints')} is missing: {type(self).__name__} asks an OpenAI-compatible server.",
                f"Give its URL, set ENDPOINT, start one with {opt('serve')}, or try {opt('endpoints', 'demo')}.",
                code="endpoint.missing",
                option="endpoints",
            )
        access = access_of(spec)
        if holds(" ".join(_texts(msgspec.to_builtins(spec))), access.key or ""):
            raise ConfigurationError(
                "The key stands in an option, which would be written down with the run.",
                f"Leave it to DOMYN_SWARM_API_KEY, OPENAI_API_KEY or {opt('api_key_file')} alone.",
                code="option.secret",
            )
        if not spec.endpoints:  # the run's own servers are not there yet
            return {}
        found = self._look(spec, access)
        return {MODEL: found.model, REVISION: found.revisions}

    def _look(self, spec: JobSpec, access: Access) -> Found:
        wanted = spec.model or getattr(self, "model", None)
        for url in spec.endpoints:
            if url.strip().partition("?")[0].rstrip("/").endswith(REQUEST_PATHS):
                logger.info("%s is the address of a request; its server is at %s", public_text(url), normalised(url))
        urls = list(dict.fromkeys(url for url in spec.endpoints if url != DEMO))
        if spec.preflight and urls:
            return look(urls, wanted, access, spec.preflight_timeout, through_proxies=not spec.serve)
        if urls and wanted is None:
            raise ConfigurationError(
                f"{opt('preflight', False)}: no model is named, and nobody asks the endpoints for one.",
                f"Name it with {opt('model')}.",
                code="model.missing",
                option="preflight",
            )
        return Found(wanted or DEMO_MODEL)

    def prepare(self, spec: JobSpec) -> None:
        """Make ready what needs no connection and is the same for every row; called before each check and each run.

        Raises:
            ConfigurationError: it cannot be made from the options.
        """

    def parameters(self) -> dict[str, Any]:
        """`request`, with what stands in `extra_body` beside the rest."""
        given = dict(self.request)
        extra = given.pop("extra_body", None) or {}
        if not isinstance(extra, dict):
            raise ConfigurationError(
                f"`extra_body` in `request` is {extra!r}, which is no object.",
                "Fix the JSON.",
                code="request.invalid",
                option="job_kwargs",
            )
        return {**given, **extra}

    async def open(self, spec: JobSpec) -> None:
        """Connect, and start the demo endpoint where that is asked for.

        Raises:
            EndpointError: no endpoint lists its models, and none is named.
        """
        self.prepare(spec)
        self._access = access_of(spec)
        self._timeout = spec.timeout or REQUEST_SECONDS
        async with contextlib.AsyncExitStack() as resources:
            clients = []
            for url in _endpoints_of(spec):
                client = EndpointClient(
                    resources.enter_context(demo_server()) if url == DEMO else url,
                    access=self._access, timeout=self._timeout, connect_timeout=spec.connect_timeout,
                    through_proxies=url != DEMO and not spec.serve,
                )  # fmt: skip
                clients.append(await resources.enter_async_context(client))
            self._replicas = LoadBalancer(
                clients, Rates(spec.max_rpm, spec.max_tpm),
                retries=spec.retries, retry_timeout=spec.retry_timeout, dedupe=spec.dedupe,
                absence=max(spec.retry_timeout, spec.serve_timeout if spec.serve else 0.0),
            )  # fmt: skip
            resources.push_async_callback(self._replicas.close)
            self._limiter = slots.current()
            self._parameters = self.parameters()
            self._official: dict[str, Any] = {}
            self._clients = {client.base_url: client for client in clients}
            self.model = spec.model or getattr(self, "model", None) or await _first_model(clients)
            self._resources = resources.pop_all()

    async def close(self) -> None:
        """Disconnect."""
        await self._resources.aclose()

    def traffic(self) -> Counts | None:
        """Requests, answers, tokens and latencies so far; None before the job is open."""
        replicas: LoadBalancer | None = getattr(self, "_replicas", None)
        if replicas is None:
            return None
        replicas.counts.limit = self._limiter.limit if self._limiter else 0
        return replicas.counts.copy()

    async def ask(self, path: str, content: dict[str, Any], judge: Judge | None = None) -> Answer:
        """The answer to a POST of the model, `request` and `content` to `path` (`chat/completions`).

        What stands in `content` wins, also over the model.

        `judge` is called with the body of an answer, and raises an EndpointError if it cannot be used: with
        `retryable` the request is sent again.

        Raises:
            EndpointError: there is none, after as many tries as are allowed and can help.
        """
        own = content.get("model")
        return await self._replicas.post(path, {"model": self.model, **self._parameters, **content}, judge, own)

    @property
    def client(self) -> Any:
        """The official client (`openai.AsyncOpenAI`) of one of the endpoints, taking turns.

        It costs ten times the CPU of `ask`, and knows nothing of `dedupe`, `max_rpm` and `max_tpm`; its errors are
        tried again as all errors of a row are.

        Raises:
            JobError: the package is not installed, which ends the run.
        """
        return self._official_for(self._replicas.pick().base_url)

    def _official_for(self, url: str) -> Any:
        if url not in self._official:
            client = self._clients[url]
            try:
                import openai  # noqa: PLC0415 - an extra

                http = openai.DefaultAioHttpClient(
                    proxy=client.way.proxy_url, verify=client.way.tls, trust_env=False,
                    event_hooks={"request": [self._with_our_headers]},
                )  # fmt: skip
            except (ImportError, RuntimeError):  # there is no openai, or it has no aiohttp
                raise JobError(
                    "self.client needs the package openai.",
                    "Run: pip install 'domyn-swarm[openai]'",
                    code="dependency.openai",
                ) from None
            official = openai.AsyncOpenAI(
                base_url=url, api_key=self._access.key or "none", timeout=self._timeout, max_retries=0,
                http_client=http, default_query=dict(parse_qsl(client.address.query[1:])),
            )  # fmt: skip
            self._resources.push_async_callback(official.close)
            self._official[url] = official
        return self._official[url]

    async def _with_our_headers(self, request: Any) -> None:
        """Give a request of the official client, which knows one header for the key, the headers that ours have."""
        request.headers.pop(AUTHORIZATION, None)
        request.headers.update(self._access.headers)


def _endpoints_of(spec: JobSpec) -> list[str]:
    """The endpoints' URLs.

    Raises:
        JobError: they are the run's own servers, which were not started as no row was pending.
    """
    if spec.serve and not spec.endpoints:
        raise JobError(
            "Rows have to be computed again, and the model servers were not started, as none was left to do.",
            code="server.not_started",
        )
    return spec.endpoints or [DEMO]


def _texts(value: Any) -> list[str]:
    """All texts in plain data, names of keys included."""
    if isinstance(value, dict):
        return [text for one in (*value, *value.values()) for text in _texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def kind_of(value: Any) -> str:
    """What a row has instead of what is needed, for messages."""
    if value is None:
        return "null"
    return "an empty list" if value == [] else f"{type(value).__name__} {value!r:.80}"


async def _first_model(clients: Sequence[EndpointClient]) -> str:
    """The first model of the first endpoint that lists any."""
    error: Exception = EndpointError(
        "The endpoints list no models.", f"Name one with {opt('model')}.", code="model.missing"
    )
    for client in clients:
        try:
            if models := await listed_models(client):
                return models[0].name
        except EndpointError as failed:
            error = failed
    raise error
