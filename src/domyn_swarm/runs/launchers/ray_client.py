"""Ray's job server, asked by its HTTP API: at one URL, and with a time limit for each answer."""

from __future__ import annotations

import logging
import re
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

FAILURES = (requests.RequestException, aiohttp.ClientError, AuthenticationError, OSError, RuntimeError)
"""What a request ends with that does not get its answer."""

for _chatty in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
    logging.getLogger(f"ray.{_chatty}").setLevel(logging.WARNING)  # they announce each upload


class Client(JobSubmissionClient):
    """Ray's own client waits for as long as it takes, and lets RAY_ADDRESS say where: it would ask another cluster."""

    def __init__(self, url: str, seconds: float, *, with_token: bool) -> None:
        self._seconds = seconds
        super(JobSubmissionClient, self).__init__(url)
        if not with_token:
            self._headers = {}

    def _do_request(self, method: str, endpoint: str, **more: Any) -> requests.Response:
        return super()._do_request(method, endpoint, **{"timeout": self._seconds, **more})

    def reach(self) -> None:
        """Make sure that it is Ray who answers.

        Raises:
            Exception: one of FAILURES.
        """
        answer = self._do_request("GET", "/api/version")
        if answer.status_code != requests.codes.ok or '"ray_version"' not in answer.text:
            raise ConnectionError(f"what answers there is no Ray dashboard (HTTP status {answer.status_code})")

    def info(self, submission: str) -> dict[str, Any] | None:
        """What the server knows of a job; None when it knows none. As data: Ray's own class for it needs an extra."""
        answer = self._do_request("GET", f"/api/jobs/{submission}")
        if answer.status_code == requests.codes.not_found:
            return None
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


def told(error: Exception) -> str:
    """What is at the root of an error, in a line, without the names of the classes on the way."""
    if isinstance(error, AuthenticationError):
        return f"{str(error).partition(chr(10))[0]} (RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH give a token)"
    while isinstance(below := getattr(error, "reason", None) or next(iter(error.args), None), Exception):
        error = below
    text = next((part for part in error.args if isinstance(part, str)), "") or type(error).__name__
    return re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", text).partition("\n")[0].rstrip(".")
