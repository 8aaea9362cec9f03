"""What is counted while a run goes: counts that add up, percentiles in no space, and an error budget that ends it."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, POSITION
from domyn_swarm.engine.recording.metrics import ErrorBudget, Meter, NullProgress
from domyn_swarm.telemetry.counts import Counts, Latencies

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def recorded(seconds: list[float]) -> Latencies:
    latencies = Latencies()
    for one in seconds:
        latencies.record(one)
    return latencies


def assert_percentiles(seconds: list[float], precision: float) -> None:
    """Each percentile is that of numpy, or between the two values that numpy sees it between."""
    latencies = recorded(seconds)
    for share in SHARES:
        found = latencies.percentile(share)
        low, high = (np.percentile(seconds, 100 * share, method=method) for method in ("lower", "higher"))
        assert found is not None
        assert low * (1 - precision) <= found <= high * (1 + precision)


# Latencies.


@given(seconds=st.lists(st.floats(1e-5, 1e5), min_size=1, max_size=200))
@example(seconds=[0.7077])
@example(seconds=[0.93])
def test_percentiles_are_those_of_numpy_within_9_percent(seconds: list[float]) -> None:
    assert_percentiles(seconds, 0.09)


@pytest.mark.parametrize("typical", [0.002, 0.05, 0.7, 1.0, 8.0, 300.0])
def test_percentiles_of_many_calls_are_those_of_numpy_within_5_percent(typical: float) -> None:
    """As their description says; some calls are fast and some slow, as with answers of a language model."""
    seconds = np.random.default_rng(7).lognormal(np.log(typical), 0.7, 10_000)
    latencies = recorded(seconds.tolist())
    for share in (0.05, 0.5, 0.95, 0.99):
        assert latencies.percentile(share) == pytest.approx(float(np.quantile(seconds, share)), rel=0.05)


def test_without_requests_there_are_no_percentiles() -> None:
    assert [Latencies().percentile(share) for share in SHARES] == [None] * len(SHARES)


def test_where_nothing_happened_in_between_there_are_no_percentiles_either() -> None:
    then = Counts(latencies=recorded([0.3, 20]))
    between = (then.copy() - then).latencies
    assert [between.percentile(share) for share in SHARES] == [None] * len(SHARES)


def test_the_percentiles_of_what_happened_in_between_are_of_that_alone() -> None:
    then = Counts(latencies=recorded([0.001] * 10))
    now = Counts(latencies=recorded([0.001] * 10 + [50.0, 60.0]))
    between = (now - then).latencies
    assert between.percentile(0.0) == pytest.approx(50, rel=0.09)
    assert between.percentile(1.0) == pytest.approx(60, rel=0.09)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-300, 1e300, float("inf")])
def test_a_clock_that_lies_breaks_nothing(seconds: float) -> None:
    latencies = recorded([seconds])
    assert latencies.total() == 1
    assert latencies.percentile(0.5) is not None


def test_a_million_requests_take_no_more_space_than_a_few_hundred() -> None:
    seconds = np.random.default_rng(1).lognormal(0, 2, 20_000)
    assert len(recorded(seconds.tolist())) < 200


# Counts.

Numbers = st.lists(st.integers(0, 10**9), min_size=10, max_size=10)
Seconds = st.lists(st.floats(1e-4, 1e4), max_size=20)


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    return Counts(*draw(Numbers), latencies=recorded(draw(Seconds)))


@given(one=counts(), other=counts(), third=counts())
def test_counts_add_up_in_any_order_and_their_difference_is_what_was_added(
    one: Counts, other: Counts, third: Counts
) -> None:
    assert one + other - other == one
    assert one + other == other + one
    assert (one + other) + third == one + (other + third)
    assert sum([one, other, third], Counts()) == one + other + third
    assert one - one == Counts()
    assert one + Counts() == one


@given(one=counts(), other=counts())
def test_latencies_of_two_processes_are_as_if_one_had_recorded_all(one: Counts, other: Counts) -> None:
    both = (one + other).latencies
    assert both.total() == one.latencies.total() + other.latencies.total()
    assert both == Latencies(
        {key: one.latencies[key] + other.latencies[key] for key in {*one.latencies, *other.latencies}}
    )


@given(one=counts())
def test_counts_come_out_of_a_pickle_as_they_went_in(one: Counts) -> None:
    found = pickle.loads(pickle.dumps(one))
    assert found == one
    assert type(found.latencies) is Latencies
    assert found.latencies.percentile(0.5) == one.latencies.percentile(0.5)


def test_a_sum_and_a_copy_stay_as_they_are_when_counting_goes_on() -> None:
    one = Counts(rows=1, latencies=recorded([1.0]))
    total, copy = one + Counts(rows=2), one.copy()
    one.rows += 10
    one.latencies.record(5.0)
    assert (total.rows, total.latencies.total()) == (3, 1)
    assert (copy.rows, copy.latencies.total()) == (1, 1)


# The error budget.


@pytest.mark.parametrize(
    ("most", "failed", "rows", "spent"),
    [
        (None, 10**9, 10**9, False),
        ("0", 0, 1, False),
        ("0", 1, 1, True),
        ("50", 50, 50, False),
        ("50", 51, 51, True),
        ("50", 51, 10**9, True),
        ("0%", 0, 1000, False),
        ("0%", 99, 99, False),
        ("0%", 1, 100, True),
        ("5%", 99, 99, False),  # too few rows to speak of a share
        ("5%", 5, 100, False),
        ("5%", 6, 100, True),
        ("5%", 6, 120, False),
        ("5%", 7, 120, True),
        ("0.1%", 1, 1000, False),
        ("0.1%", 2, 1000, True),
        ("29%", 29, 100, False),
        ("100%", 1000, 1000, False),
    ],
)
def test_a_budget_is_spent_when_more_rows_failed_than_may(
    most: str | None, failed: int, rows: int, spent: bool
) -> None:
    assert ErrorBudget(most).is_spent(Counts(rows=rows, failed=failed)) is spent
    assert ErrorBudget(most).text == most


@given(percent=st.integers(0, 100), rows=st.integers(100, 10_000), beyond=st.sampled_from([-1, 0, 1]))
def test_a_share_is_exact_to_the_row(percent: int, rows: int, beyond: int) -> None:
    failed = percent * rows // 100 + beyond
    assert ErrorBudget(f"{percent}%").is_spent(Counts(rows=rows, failed=failed)) is (
        failed > Fraction(percent, 100) * rows
    )


# The meter.


class Seen(NullProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Counts] = []

    def advanced(self, more: Counts) -> None:
        self.told.append(more)


def finished(fine: int, failed: int = 0) -> pa.Table:
    """A table of so many rows that came out, and so many that failed."""
    failures = [None] * fine + [{"type": "E", "message": "m", "attempts": 1}] * failed
    rows = range(fine + failed)
    return pa.table({POSITION: rows, "id": [f"row {row}" for row in rows], FAILURE: pa.array(failures, FAILURE_TYPE)})


def without_failures(told: list[Counts]) -> list[Counts]:
    """The numbers alone."""
    return [replace(counts, failures={}) for counts in told]


def test_tables_pass_on_as_they_are_and_their_rows_are_counted() -> None:
    seen = Seen()
    meter = Meter(seen)
    for table in (finished(3, 2), finished(0), finished(0, 4), pa.concat_tables([finished(1), finished(0, 1)])):
        assert meter(table) is table
    assert without_failures(seen.told) == [Counts(5, 2), Counts(), Counts(4, 4), Counts(2, 1)]
    assert without_failures([meter.counts]) == [Counts(11, 7)]
    assert (meter.overspent, meter.stop.is_set()) == (False, False)


def test_requests_are_counted_from_one_table_to_the_next() -> None:
    traffic: list[Counts | None] = [
        None,  # the job is not open yet
        Counts(requests=5, answers=4, tokens_in=100, in_flight=3, limit=16, latencies=recorded([0.5])),
        Counts(requests=9, answers=9, tokens_in=300, in_flight=1, limit=32, latencies=recorded([0.5, 2.0])),
        None,  # it is closed
        Counts(requests=10, answers=10, tokens_in=310, in_flight=0, limit=8, latencies=recorded([0.5, 2.0, 2.0])),
    ]
    reports = iter(traffic)
    seen = Seen()
    meter = Meter(seen, lambda: next(reports))
    for _ in traffic:
        meter(finished(1))
    assert seen.told == [
        Counts(1),
        Counts(1, requests=5, answers=4, tokens_in=100, in_flight=3, limit=16, latencies=recorded([0.5])),
        Counts(1, requests=4, answers=5, tokens_in=200, in_flight=-2, limit=16, latencies=recorded([2.0])),
        Counts(1),
        Counts(1, requests=1, answers=1, tokens_in=10, in_flight=-1, limit=-24, latencies=recorded([2.0])),
    ]
    last = traffic[-1]
    assert last is not None
    assert meter.counts == last + Counts(5)


def test_what_happened_elsewhere_is_counted_and_told_and_weighs_on_the_budget() -> None:
    seen = Seen()
    meter = Meter(seen, budget=ErrorBudget("2"))
    meter(finished(1, 1))
    meter.advanced(Counts(10, 1))
    assert not meter.overspent
    meter.advanced(Counts(10, 1))
    assert (meter.overspent, meter.stop.is_set()) == (True, True)
    assert without_failures(seen.told) == [Counts(2, 1), Counts(10, 1), Counts(10, 1)]
    assert without_failures([meter.counts]) == [Counts(22, 3)]


@given(
    tables=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12),
    most=st.none() | st.integers(0, 60).map(str) | st.integers(0, 50).map(lambda percent: f"{percent}%"),
)
def test_the_run_is_stopped_with_the_table_that_exceeds_the_budget_and_with_none_before(
    tables: list[tuple[int, int]], most: str | None
) -> None:
    stop, budget, so_far = threading.Event(), ErrorBudget(most), Counts()
    meter = Meter(NullProgress(), budget=budget, stop=stop)
    spent = False
    for fine, failed in tables:
        meter(finished(fine, failed))
        so_far += Counts(fine + failed, failed)
        spent = spent or budget.is_spent(so_far)
        assert (meter.overspent, stop.is_set()) == (spent, spent)
    assert meter.stop is stop


def test_a_run_that_is_stopped_by_somebody_else_has_not_overspent() -> None:
    meter = Meter(NullProgress(), budget=ErrorBudget("0"))
    meter.stop.set()
    meter(finished(5))
    assert not meter.overspent


def test_rows_that_fail_before_the_hundredth_do_not_end_a_run_that_may_lose_a_share_and_the_hundredth_does() -> None:
    meter = Meter(NullProgress(), budget=ErrorBudget("5%"))
    meter(finished(0, 99))
    assert not meter.overspent
    meter(finished(1))
    assert meter.overspent
