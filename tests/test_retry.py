"""Which errors are worth another try, whether they mean overload, and how long the wait is. Errors of any client."""

from __future__ import annotations

import random
import statistics
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from domyn_swarm.concurrency.retry import backoff, is_overload, is_retryable, seconds_of, status_is_retryable
from domyn_swarm.errors import EndpointError


class SaidError(Exception):
    """An error with whatever attributes a client gives it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("said")
        vars(self).update(attributes)


def official(status: int, **headers: str) -> Exception:
    """An error of the official client. Its HTTP library goes by several names, so the answer is a stand-in."""
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    answer: Any = SimpleNamespace(status_code=status, headers=named, request=None)
    import openai  # takes a second to import

    return openai.APIStatusError("no", response=answer, body=None)


def of_aiohttp(status: int) -> Exception:
    return aiohttp.ClientResponseError(SimpleNamespace(real_url="http://host"), (), status=status)  # type: ignore[arg-type]


def asked(error: BaseException) -> float | None:
    """The seconds that the error asks for; None when the wait is the usual one, which is never the same."""
    waits = {backoff(1, error) for _ in range(20)}
    if len(waits) == 1:
        return waits.pop()
    assert all(0.05 <= wait <= 0.1 for wait in waits)
    return None


# Statuses.

STATUSES = [
    # status, worth another try, overload
    (400, False, False),
    (401, False, False),
    (403, False, False),
    (404, False, False),
    (405, False, False),
    (408, True, False),
    (409, True, False),
    (410, False, False),
    (413, False, False),
    (422, False, False),
    (425, True, False),
    (429, True, True),
    (451, False, False),
    (499, False, False),
    (500, True, False),
    (502, True, False),
    (503, True, True),
    (504, True, False),
    (529, True, True),
    (599, True, False),
]


@pytest.mark.parametrize(("status", "again", "overload"), STATUSES)
def test_a_status_tells_whether_another_try_can_help_and_whether_it_was_too_much(
    status: int, again: bool, overload: bool
) -> None:
    assert status_is_retryable(status) is again
    errors = [SaidError(status=status), SaidError(status_code=status), official(status), of_aiohttp(status)]
    assert [is_retryable(error) for error in errors] == [again] * 4
    assert [is_overload(error) for error in errors] == [overload] * 4


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        TimeoutError(),
        ConnectionResetError(),
        SaidError(status=0),
        SaidError(status=None),
        SaidError(status="404"),
    ],
    ids=repr,
)
def test_an_error_without_a_status_is_worth_a_try_and_no_overload(error: Exception) -> None:
    assert is_retryable(error)
    assert not is_overload(error)


def test_a_status_that_is_no_number_is_passed_over_for_one_that_is() -> None:
    assert not is_retryable(SaidError(status="error", status_code=404))
    assert not is_retryable(SaidError(status=HTTPStatus.NOT_FOUND))
    assert is_overload(SaidError(status_code=HTTPStatus.TOO_MANY_REQUESTS))


@pytest.mark.parametrize(
    ("attributes", "again"),
    [
        ({"retryable": False}, False),
        ({"retryable": True}, True),
        ({"retryable": False, "status": 503}, False),
        ({"retryable": True, "status": 404}, True),
        ({"retryable": None, "status": 404}, False),
        ({"retryable": 0}, False),
    ],
)
def test_what_an_error_says_itself_counts_more_than_its_status(attributes: dict[str, Any], again: bool) -> None:
    assert is_retryable(SaidError(**attributes)) is again


def test_an_error_may_say_itself_that_it_was_too_much() -> None:
    assert is_overload(SaidError(overload=True))
    assert is_overload(SaidError(overload=True, status=500))
    assert is_overload(SaidError(overload=False, status=429))
    assert not is_overload(SaidError(overload=False, status=500))


def test_our_own_errors_say_it_all() -> None:
    error = EndpointError("no", status=404, retryable=True, retry_after=7.0, overload=True)
    assert (is_retryable(error), is_overload(error), asked(error)) == (True, True, 7.0)
    error = EndpointError("no answer", status=503, retryable=False)
    assert (is_retryable(error), is_overload(error), asked(error)) == (False, True, None)


# Retry-After.


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        ("0.5", 0.5),
        (" 12 ", 12.0),
        ("-3", 0.0),
        ("1e3", 1000.0),
        ("inf", None),
        ("-inf", None),
        ("nan", None),
        ("1e999", None),
        ("", None),
        ("soon", None),
        ("10 seconds", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 +0200", 0.0),
        ("Wed, 21 Oct 2015 07:28:00", None),  # nobody says where
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999999999", None),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_anything_else_says_nothing(
    header: str | None, seconds: float | None
) -> None:
    assert seconds_of(header) == seconds


@pytest.mark.parametrize("seconds", [2, 90, 86_400])
def test_retry_after_as_a_date_to_come_is_the_seconds_until_then(seconds: int) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    assert seconds_of(date) == pytest.approx(seconds, abs=1.5)


@given(
    header=st.text(max_size=40)
    | st.floats().map(str)
    | st.from_regex(r"(Wed, )?\d{1,25} Oct \d{1,25} \d{1,25}:\d{1,25}:\d{1,25} ([+-]\d{1,25}|GMT)", fullmatch=True)
)
def test_no_header_that_a_server_can_send_breaks_anything(header: str) -> None:
    found = seconds_of(header)
    assert found is None or 0 <= found < float("inf")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (3, 3.0),
        (2.5, 2.5),
        ("4", 4.0),
        (0, 0.0),
        (-5, 0.0),
        (1e300, threading.TIMEOUT_MAX),
        (10**400, None),
        (float("inf"), None),
        (float("nan"), None),
        ("soon", None),
        ([1], None),
        (timedelta(seconds=3), None),
        pytest.param(object(), None, id="an object"),
    ],
    ids=repr,
)
def test_an_error_may_ask_itself_for_a_wait_and_nonsense_is_passed_over(said: Any, seconds: float | None) -> None:
    assert asked(SaidError(retry_after=said)) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"Retry_After": "7"}, 7.0),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_an_answer_asked_for_is_found_in_the_official_clients_errors(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert asked(official(429, **headers)) == seconds


@pytest.mark.parametrize(
    "response",
    [None, SimpleNamespace(), SimpleNamespace(headers=None), SimpleNamespace(headers=["7"]),
     SimpleNamespace(headers={"retry-after": 7j})],
)  # fmt: skip
def test_a_response_that_is_something_else_is_passed_over(response: Any) -> None:
    assert asked(SaidError(response=response)) is None


def test_what_the_error_says_itself_counts_more_than_the_header_it_came_with() -> None:
    error = official(429, retry_after="7")
    error.retry_after = 2  # type: ignore[attr-defined]
    assert asked(error) == 2


# The wait when nobody asked for one.


@pytest.mark.parametrize(
    ("attempt", "longest"),
    [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (8, 12.8), (9, 25.6), (10, 30), (11, 30), (2000, 30)],
)
def test_waits_double_up_to_30_seconds_and_lie_anywhere_in_the_upper_half(attempt: int, longest: float) -> None:
    waits = [backoff(attempt, ValueError()) for _ in range(500)]
    assert longest / 2 <= min(waits) < 0.55 * longest
    assert 0.95 * longest < max(waits) <= longest
    assert statistics.mean(waits) == pytest.approx(0.75 * longest, rel=0.05)
    assert len(set(waits)) > 450


@given(attempt=st.integers(1, 10**6), seed=st.integers())
@example(attempt=1, seed=0)
def test_no_wait_is_longer_than_30_seconds_or_shorter_than_the_longest_of_the_try_before(
    attempt: int, seed: int
) -> None:
    random.seed(seed)
    wait, next_wait = backoff(attempt, ValueError()), backoff(attempt + 1, ValueError())
    assert 0.05 <= wait <= 30
    assert next_wait >= min(wait, 15)


@pytest.mark.parametrize("attempt", [1, 5, 50])
def test_a_wait_that_was_asked_for_is_the_same_at_every_try_though_it_is_long(attempt: int) -> None:
    assert backoff(attempt, SaidError(retry_after=3600)) == 3600
