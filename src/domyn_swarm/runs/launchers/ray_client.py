"""Client of Ray's job server: one URL, and a timeout for each request."""

from __future__ import annotations

import logging
import re
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

FAILURES = (requests.RequestException, aiohttp.ClientError, AuthenticationError, OSError, RuntimeError)
"""Errors of a request without a valid response."""

for _chatty in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
    logging.getLogger(f"ray.{_chatty}").setLevel(logging.WARNING)  # they log each upload


class Client(JobSubmissionClient):
    """Ray's own client has no timeout, and RAY_ADDRESS overrides its URL, which could reach another cluster."""

    def __init__(self, url: str, seconds: float, *, with_token: bool) -> None:
        self._seconds = seconds
        super(JobSubmissionClient, self).__init__(url)
        if not with_token:
            self._headers = {}

    def _do_request(self, method: str, endpoint: str, **more: Any) -> requests.Response:
        return super()._do_request(method, endpoint, **{"timeout": self._seconds, **more})

    def reach(self) -> None:
        """Check that a Ray job server responds.

        Raises:
            Exception: one of FAILURES.
        """
        response = self._do_request("GET", "/api/version")
        if response.status_code != requests.codes.ok or '"ray_version"' not in response.text:
            raise ConnectionError(f"the server is not a Ray dashboard (HTTP status {response.status_code})")

    def info(self, submission: str) -> dict[str, Any] | None:
        """The server's data about a job; None when it does not know the job. Not Ray's class, which needs an extra."""
        response = self._do_request("GET", f"/api/jobs/{submission}")
        if response.status_code == requests.codes.not_found:
            return None
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found


def render_text(error: Exception) -> str:
    """The root cause of an error in one line."""
    if isinstance(error, AuthenticationError):
        return f"{str(error).partition(chr(10))[0]} (set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)"
    while isinstance(below := getattr(error, "reason", None) or next(iter(error.args), None), Exception):
        error = below
    text = next((part for part in error.args if isinstance(part, str)), "") or type(error).__name__
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", text).partition("\n")[0].rstrip(".")
