"""Runs against endpoints in trouble: servers of their own processes that fail on purpose and write down what they saw.

What a run says of itself is held against the servers' logs (see tests/servers/chaos.py).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import Command, rows, start_command, stop, write
from tests.servers.chaos import Chaos, answer_to, chaos

TEXTS = [f"row {number}" for number in range(1000)]
RUN = Path(".domyn-swarm/out.parquet")
TIMER = 0.01  # seconds by which an event loop's timers may come early

FAULTS = ("429", "429-date", "500", "reset", "truncated", "garbage", "hang")
IN_TROUBLE = (
    "--latency", "0.02", "--retry-after", "0.1..0.3", *(word for one in FAULTS for word in ("--share", f"{one}=0.043")),
)  # fmt: skip
REASONS = {
    "429": r"POST chat/completions: status 429: this is a 429, nobody!",
    "429-date": r"POST chat/completions: status 429: this is a 429-date, nobody!",
    "500": r"POST chat/completions: status 500: this is a 500, nobody!",
    "reset": r"POST chat/completions: \w+: .*(reset by peer|not completed|disconnected).*",
    "truncated": r"POST chat/completions: ClientPayloadError: Response payload is not completed.*",
    "garbage": r"POST chat/completions: the answer is not a JSON object: .+",
    "hang": r"POST chat/completions: no answer within [15] s\.",
}
"""What a failed row says, by what became of its last request."""


def submit(servers: Chaos | Sequence[Chaos], *options: str) -> list[str]:
    """The command that asks `servers` for an answer to each `item` of in.parquet."""
    servers = [servers] if isinstance(servers, Chaos) else servers
    return [
        "job", "submit", "--input", "in.parquet", "--input-column", "item", "--output", "out.parquet",
        *(word for server in servers for word in ("--endpoint", server.url)), *options,
    ]  # fmt: skip


@contextlib.contextmanager
def running(arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """The command as a process that does not outlive the test."""
    process = start_command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        stop(process, signal.SIGKILL)
        process.communicate()


def wait_for_requests(servers: Sequence[Chaos], count: int, process: subprocess.Popen[str]) -> None:
    """Return when `servers` have seen that many together."""
    deadline = time.monotonic() + 60
    while sum(server.count() for server in servers) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the requests do not come"
        time.sleep(0.01)


def record() -> dict[str, Any]:
    """What the newest run wrote down of itself."""
    found: dict[str, Any] = json.loads((RUN / "run.json").read_text())
    return {**found, **found["traffic"]}


def durable(texts: Sequence[str]) -> set[str]:
    """The rows that are done for good: those in parts that have an answer."""
    tables = [pq.read_table(part) for part in sorted((RUN / "parts").glob("*.parquet"))]
    return {texts[row["_row_id"]] for table in tables for row in table.to_pylist() if row["answer"] is not None}


def failures() -> dict[str, dict[str, Any]]:
    """The failed rows by their text."""
    if not Path("out.errors.parquet").exists():
        return {}
    texts = [row["item"] for row in rows("out.parquet")]
    return {texts[row["_row_id"]]: row for row in rows("out.errors.parquet")}


def by_row(requests: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The log's lines for each row, in order."""
    lines = defaultdict(list)
    for line in requests:
        lines[line["text"]].append(line)
    return lines


def check_answers(texts: Sequence[str], failed: set[str]) -> None:
    """Every row has its own answer, and the failed ones have none."""
    expected = [{"item": text, "answer": None if text in failed else answer_to(text)} for text in texts]
    assert rows("out.parquet") == expected


def most_in(seconds: float, lines: Sequence[dict[str, Any]], what: str | None = None) -> float:
    """The most requests (or the most of `what` in them) in any window of so many seconds."""
    most = now = 0.0
    start = 0
    for line in lines:
        now += line[what] if what else 1
        while lines[start]["at"] <= line["at"] - seconds:
            now -= lines[start][what] if what else 1
            start += 1
        most = max(most, now)
    return most


# Three requests in ten go wrong.


@pytest.mark.stress
@pytest.mark.parametrize("retries", [None, 1])
def test_each_row_has_its_own_answer_or_its_own_reason_when_three_requests_in_ten_go_wrong(
    retries: int | None, command: Command
) -> None:
    texts = TEXTS[:400]
    write("in.parquet", {"item": texts})
    options = ["--max-concurrency", "64", "--timeout", "1", *(["--retries", str(retries)] if retries else [])]
    with chaos(*IN_TROUBLE) as server:
        done = command(*submit(server, *options))
        requests = server.requests()
    check_trouble(texts, requests, done, allowed=5 if retries is None else retries)
    if retries == 1:  # of 400 rows 18 go wrong twice
        assert len(failures()) > 4
        assert done.returncode == 3


@pytest.mark.stress
def test_the_same_with_workers_whose_requests_add_up_to_no_more(command: Command) -> None:
    texts = TEXTS[:600]
    for number in range(12):  # each is a block, and goes to the worker that has the fewest
        write(f"in.parquet/{number:02}.parquet", {"item": texts[number * 50 : (number + 1) * 50]})
    # While workers start, a small machine has no time for the server: it takes seconds until it sees a request.
    options = ["--max-concurrency", "64", "--timeout", "5", "--retries", "1", "--data-backend", "ray"]
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
    with chaos(*IN_TROUBLE) as server:
        done = command(*submit(server, *options), env=environment, timeout=200)
        requests = server.requests()
    check_trouble(texts, requests, done, allowed=1)
    assert record()["limit"] in (32, 64)  # of the workers that had something to do


def failed_in(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The requests of a row that count as its tries: a rate limit is nobody's failure."""
    return [line for line in lines if line["did"] != "answer" and not line["did"].startswith("429")]


def check_trouble(texts: Sequence[str], requests: Sequence[dict[str, Any]], done: Any, allowed: int) -> None:
    """What holds for every row when requests go wrong."""
    lines, failed = by_row(requests), failures()
    assert done.returncode == (3 if failed else 0), done.stderr
    check_answers(texts, set(failed))
    assert len(requests) > 1.2 * len(texts)
    assert {line["did"] for line in requests} == {"answer", *FAULTS}
    for text, row in failed.items():
        assert row["type"] == "EndpointError"
        assert row["attempts"] == len(lines[text])
        assert len(failed_in(lines[text])) == allowed + 1, lines[text]
        # The client's clock is its own: an answer that a busy machine brings late is none.
        reasons = f"{REASONS.get(lines[text][-1]['did'], REASONS['hang'])}|{REASONS['hang']}"
        assert re.fullmatch(reasons, row["message"]), (row, lines[text])
    for text in texts:
        tries = lines[text]
        assert len(failed_in(tries)) <= allowed + (text in failed)
        for before, after in itertools.pairwise(tries):
            assert after["at"] >= before.get("not_before", 0) - TIMER, "it was asked to wait for longer"
    assert max(line["in_flight"] for line in requests) <= 64
    assert record()["requests"] == len(requests)
    assert record()["failed"] == len(failed)


def test_a_server_that_takes_few_requests_at_once_is_not_asked_by_rows_that_wait(command: Command) -> None:
    write("in.parquet", {"item": TEXTS[:100]})
    with chaos("--latency", "0.02", "--most-in-flight", "8", "--retry-after", "0.2") as server:
        done = command(*submit(server, "--max-concurrency", "16", "--retries", "50"))
        requests = server.requests()
    assert done.returncode == 0, done.stderr
    check_answers(TEXTS[:100], set())
    assert Counter(line["did"] for line in requests).keys() == {"answer", "429"}
    for tries in by_row(requests).values():
        for before, after in itertools.pairwise(tries):
            assert after["at"] >= before["not_before"] - TIMER


# What is allowed in a minute.


@pytest.mark.stress
def test_a_limit_of_requests_holds_in_every_second(command: Command) -> None:
    write("in.parquet", {"item": TEXTS[:60]})
    with chaos() as server:
        done = command(*submit(server, "--max-rpm", "600"))
        requests = server.requests()
    assert done.returncode == 0, done.stderr
    assert len(requests) == 60
    for seconds in (0.1, 0.5, 1, 2, 3, 5, 10):
        assert most_in(seconds, requests) <= 10 * (seconds + 1) + 1
    assert requests[-1]["at"] - requests[0]["at"] >= 4.5  # ten at once, then ten a second


@pytest.mark.stress
@pytest.mark.parametrize("tokens", [18, 198], ids=["cheaper than they look", "dearer than they look"])
def test_a_limit_of_tokens_holds_whatever_requests_turn_out_to_cost(tokens: int, command: Command) -> None:
    # A request has about 90 bytes, and is thought to cost as many tokens before anything is known.
    count = 12_000 // (tokens + 2)
    count = min(count, 150)
    total = count * (tokens + 2)
    write("in.parquet", {"item": TEXTS[:count]})
    rate = 50 * (tokens + 2)  # tokens a second, so that 60 to 150 requests take some seconds
    with chaos("--tokens", str(tokens)) as server:
        done = command(*submit(server, "--max-tpm", str(60 * rate), "--max-concurrency", "4"))
        requests = server.requests()
    assert done.returncode == 0, done.stderr
    assert sum(line["tokens"] for line in requests) == total
    for seconds in (0.1, 0.5, 1, 2, 3, 5, 10):
        # A second's worth at once, and what those in flight may cost beyond what they were thought to.
        assert most_in(seconds, requests, "tokens") <= rate * (seconds + 1) + 4 * (tokens + 2)
    assert requests[-1]["at"] - requests[0]["at"] >= (total - 5 * (tokens + 2)) / rate - 1


@pytest.mark.stress
def test_a_limit_of_requests_holds_after_an_outage_in_which_rows_have_waited() -> None:
    write("in.parquet", {"item": TEXTS[:90]})
    with chaos("--latency", "0.05") as server:
        options = ["--max-rpm", "600", "--max-concurrency", "64", "--retry-timeout", "60"]
        with running(submit(server, *options)) as process:
            wait_for_requests([server], 20, process)
            server.kill()
            time.sleep(4)  # some 40 rows are let through and wait for it
            server.start()
            _, err = process.communicate(timeout=60)
        requests = server.requests()
    assert process.returncode == 0, err
    check_answers(TEXTS[:90], set())
    for seconds in (0.1, 0.5, 1, 2, 3, 5, 10):
        assert most_in(seconds, requests) <= 10 * (seconds + 1) + 1


# Several endpoints.


@contextlib.contextmanager
def three(*options: Sequence[str]) -> Iterator[list[Chaos]]:
    """Three servers, each with options of its own."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(chaos(*one, log=f"{number}.jsonl")) for number, one in enumerate(options)]


@pytest.mark.stress
def test_one_of_three_endpoints_dies_and_comes_back_while_the_others_take_its_rows() -> None:
    texts = [f"row {number}" for number in range(1200)]
    write("in.parquet", {"item": texts})
    with three(*[["--latency", "0.1"]] * 3) as servers:
        dying, *others = servers
        with running(submit(servers, "--max-concurrency", "16", "--connect-timeout", "2")) as process:
            wait_for_requests(servers, 240, process)
            killed = time.time()
            dying.kill()
            seen = dying.count()
            wait_for_requests(others, sum(server.count() for server in others) + 250, process)
            started = time.time()
            dying.start()
            out, err = process.communicate(timeout=120)
        asked = sorted(line["at"] for server in servers for line in server.requests())
        meanwhile = [line["at"] for server in others for line in server.requests() if killed <= line["at"] < started]
        assert dying.count() > seen + 16, "it is asked again once it is back"
    assert process.returncode == 0, err
    check_answers(texts, set())
    assert not Path("out.errors.parquet").exists()
    assert re.search(r"failed +0\n", out)
    assert f"{dying.url} is set aside until it answers: POST chat/completions: " in err
    assert f"{dying.url} is back" in err
    warmed_up = asked[50]
    before = sum(warmed_up <= at < killed for at in asked) / (killed - warmed_up)
    assert len(meanwhile) / (started - killed) >= 0.55 * before


def test_the_slowest_of_three_endpoints_is_asked_least(command: Command) -> None:
    write("in.parquet", {"item": TEXTS[:300]})
    with three(["--latency", "0.2"], ["--latency", "0.04"], ["--latency", "0.04"]) as servers:
        done = command(*submit(servers, "--max-concurrency", "12"))
        slow, *fast = [server.count() for server in servers]
    assert done.returncode == 0, done.stderr
    assert slow + sum(fast) == 300
    assert 0 < slow < min(fast) / 2


@pytest.mark.stress
@pytest.mark.parametrize("fault", ["500", "503", "429", "garbage"])
def test_one_of_three_endpoints_that_fails_at_once_draws_no_row_into_its_failure(fault: str, command: Command) -> None:
    # It has always the fewest requests in flight, because it is done with each so soon.
    write("in.parquet", {"item": TEXTS[:120]})
    with three(["--share", f"{fault}=1"], ["--latency", "0.1"], ["--latency", "0.1"]) as servers:
        done = command(*submit(servers, "--max-concurrency", "12"))
    assert {row["message"] for row in failures().values()} == set()
    assert done.returncode == 0, done.stderr
    check_answers(TEXTS[:120], set())


def test_all_endpoints_die_and_come_back_in_time() -> None:
    write("in.parquet", {"item": TEXTS[:300]})
    with three(["--latency", "0.05"], ["--latency", "0.05"]) as servers:
        with running(submit(servers, "--max-concurrency", "8", "--retry-timeout", "60")) as process:
            wait_for_requests(servers, 100, process)
            for server in servers:
                server.kill()
            time.sleep(1.5)
            for server in servers:
                server.start()
            _, err = process.communicate(timeout=60)
        asked = sum(server.count() for server in servers)
    assert process.returncode == 0, err
    check_answers(TEXTS[:300], set())
    assert asked <= 300 + 2 * 8  # those that were in flight, once more for each that died
    assert "Traceback" not in err


@pytest.mark.stress
def test_all_endpoints_die_for_good_and_the_same_command_goes_on_when_they_are_back(command: Command) -> None:
    texts = TEXTS[:300]
    write("in.parquet", {"item": texts})
    with three(["--latency", "0.05"], ["--latency", "0.05"]) as servers:
        arguments = submit(servers, "--max-concurrency", "8", "--retry-timeout", "1.5")
        with running(arguments) as process:
            wait_for_requests(servers, 100, process)
            for server in servers:
                server.kill()
            _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f"Error: No endpoint has answered for 1.5 s: {servers[0].url}, {servers[1].url}.\n" in err
        kept = durable(texts)
        assert "rows of this run are kept in .domyn-swarm/out.parquet. Run the same command again to resume" in err
        assert len(kept) >= 100 - 8
        assert record()["state"] == "failed"
        seen = [server.count() for server in servers]
        for server in servers:
            server.start()
        done = command(*arguments)
        logs = [server.requests()[count:] for server, count in zip(servers, seen, strict=True)]
        again = {line["text"] for line in itertools.chain(*logs)}
    assert done.returncode == 0, done.stderr
    assert again == set(texts) - kept
    check_answers(texts, set())


# Requests that no row can make good.


@pytest.mark.parametrize("status", ["401", pytest.param("404", marks=pytest.mark.stress)])
def test_an_endpoint_that_lists_its_models_and_refuses_all_else_ends_the_run_at_once(
    status: str, command: Command
) -> None:
    write("in.parquet", {"item": TEXTS[:200]})
    with chaos("--latency", "0.05", "--share", f"{status}=1") as server:
        done = command(*submit(server, "--max-concurrency", "16"))
        assert 1 <= server.count() <= 16
    assert done.returncode == 1
    assert f"Error: {server.url} refuses every request: POST chat/completions: status {status}: " in done.stderr
    assert "Run the same command again to resume." in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("out.parquet").exists()
    record = json.loads(Path(".domyn-swarm/out.parquet/run.json").read_text())
    record |= record["traffic"]
    assert (record["state"], record["rows"], record["answers"]) == ("failed", 0, 0)
    assert 1 <= record["requests"] <= 16


def test_refusals_that_begin_in_mid_run_end_it_as_well_and_a_rerun_asks_for_the_rest(command: Command) -> None:
    texts = TEXTS[:500]
    write("in.parquet", {"item": texts})
    with chaos("--latency", "0.02", "--after", "100=401") as server:
        stopped = command(*submit(server, "--max-concurrency", "8"))
        requests = server.requests()
    assert stopped.returncode == 1
    assert f"Error: {server.url} refuses every request: POST chat/completions: status 401: " in stopped.stderr
    counts = Counter(line["did"] for line in requests)
    assert counts["answer"] == 100
    assert 3 <= counts["401"] <= 2 * 8
    kept = durable(texts)
    assert len(kept) == 100
    with chaos(log="again.jsonl") as server:
        done = command(*submit(server))
        assert {line["text"] for line in server.requests()} == set(texts) - kept
    assert done.returncode == 0, done.stderr
    check_answers(texts, set())


def test_a_request_that_is_wrong_in_itself_is_its_rows_failure_and_sent_once(command: Command) -> None:
    texts = [f"row {number}{' is rude' if number % 2 else ''}" for number in range(300)]
    write("in.parquet", {"item": texts})
    with chaos("--when", "rude=400") as server:  # 150 of them, and many in a row
        done = command(*submit(server))
        asked = Counter(line["text"] for line in server.requests())
    assert done.returncode == 3, done.stderr
    assert asked == Counter(texts)
    rude = {text for text in texts if "rude" in text}
    check_answers(texts, rude)
    assert failures().keys() == rude
    assert {(row["type"], row["message"], row["attempts"]) for row in failures().values()} == {
        ("EndpointError", "POST chat/completions: status 400: this is a 400, nobody!", 1)
    }


# The error budget.


def told_of_failures(err: str) -> tuple[int, int]:
    """How many rows failed, and of how many, as the error says it."""
    found = re.search(r"Error: ([\d,]+) of ([\d,]+) rows have failed, more than --max-errors ", err)
    assert found, err
    failed, finished = (int(number.replace(",", "")) for number in found.groups())
    return failed, finished


def mostly_good(count: int) -> list[str]:
    """Texts of which every fourth is bad."""
    return [f"{'bad' if number % 4 == 0 else 'good'} {number}" for number in range(count)]


@pytest.mark.parametrize(("budget", "least", "most"), [("5", 6, 5 + 8), ("10%", 25, 25 + 8)])
def test_a_run_stops_when_more_rows_have_failed_than_may(budget: str, least: int, most: int, command: Command) -> None:
    texts = mostly_good(600)
    write("in.parquet", {"item": texts})
    with chaos("--latency", "0.1", "--when", "bad=400") as server:
        arguments = submit(server, "--max-concurrency", "8", "--max-errors", budget)
        stopped = command(*arguments)
        counts = Counter(line["did"] for line in server.requests())
    assert stopped.returncode == 1
    failed, finished = told_of_failures(stopped.stderr)
    assert f"--max-errors {budget} allows.\n" in stopped.stderr
    assert least <= failed <= most  # a share is looked at from 100 rows on
    assert failed == counts["400"] == record()["failed"]
    assert finished == counts.total() == record()["rows"]
    assert record()["state"] == "failed"
    assert not Path("out.parquet").exists()
    kept = durable(texts)
    assert len(kept) == counts["answer"]
    with chaos(log="again.jsonl") as server:  # the cause is mended
        done = command(*submit(server, "--max-errors", budget))
        assert {line["text"] for line in server.requests()} == set(texts) - kept
    assert done.returncode == 0, done.stderr
    check_answers(texts, set())


@pytest.mark.parametrize("budget", ["25", "25%", pytest.param("100%", marks=pytest.mark.stress)])
def test_a_run_whose_failures_are_within_its_budget_is_done(budget: str, command: Command) -> None:
    texts = mostly_good(100)
    write("in.parquet", {"item": texts})
    with chaos("--when", "bad=400") as server:
        done = command(*submit(server, "--max-errors", budget))
    assert done.returncode == 3, done.stderr
    check_answers(texts, {text for text in texts if text.startswith("bad")})


def test_rows_that_only_wait_when_the_budget_is_spent_have_not_failed(command: Command) -> None:
    texts = [f"{('tired', 'bad', 'good')[number % 3]} {number}" for number in range(300)]
    write("in.parquet", {"item": texts})
    with chaos("--latency", "0.05", "--when", "bad=400", "--when", "tired=429", "--retry-after", "0.3") as server:
        stopped = command(*submit(server, "--max-concurrency", "8", "--max-errors", "5"))
        counts = Counter(line["did"] for line in server.requests())
    assert stopped.returncode == 1
    assert counts["400"] >= 6
    assert counts["429"] > 0
    assert told_of_failures(stopped.stderr)[0] == counts["400"]


# Equal requests.


def test_equal_rows_share_one_request_and_each_has_the_answer(command: Command) -> None:
    texts = [f"row {number * 7 % 50}" for number in range(1000)]
    write("in.parquet", {"item": texts})
    with chaos("--latency", "0.02") as server:
        done = command(*submit(server, "--dedupe"))
        asked = Counter(line["text"] for line in server.requests())
    assert done.returncode == 0, done.stderr
    assert asked == dict.fromkeys(texts, 1)
    assert len(asked) == 50
    check_answers(texts, set())
    assert (record()["requests"], record()["shared"]) == (50, 950)


def test_the_failure_of_a_shared_request_is_that_of_each_of_its_rows(command: Command) -> None:
    texts = [f"{'bad' if number % 5 == 0 else 'good'} {number % 10}" for number in range(100)]
    write("in.parquet", {"item": texts})
    with chaos("--latency", "0.1", "--when", "bad=400") as server:
        done = command(*submit(server, "--dedupe", "--max-concurrency", "16"))
        asked = Counter(line["text"] for line in server.requests())
    assert done.returncode == 3, done.stderr
    bad = {"bad 0", "bad 5"}
    check_answers(texts, bad)
    assert [texts[row["_row_id"]] for row in rows("out.errors.parquet")] == [text for text in texts if text in bad]
    assert {row["message"] for row in rows("out.errors.parquet")} == {
        "POST chat/completions: status 400: this is a 400, nobody!"
    }
    assert {asked[text] for text in texts if text not in bad} == {1}
    assert all(1 <= asked[text] < 10 for text in bad), "those that wait for a failure share it"


# An end while rows wait.


def sometimes_tired() -> list[str]:
    """Texts of which the last third is told to come back later."""
    return [f"{'fresh' if number < 60 else 'tired'} {number}" for number in range(90)]


@pytest.mark.parametrize("options", [[], ["--max-errors", "5"]], ids=["", "with an error budget"])
def test_a_run_that_is_stopped_while_rows_wait_ends_soon_and_the_same_command_goes_on(
    options: list[str], command: Command
) -> None:
    texts = sometimes_tired()
    write("in.parquet", {"item": texts})
    with chaos("--when", "tired=429", "--retry-after", "60") as server:
        with running(submit(server, "--max-concurrency", "8", *options)) as process:
            wait_for_requests([server], 61, process)
            time.sleep(0.5)  # the last answers arrive
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=8)
        assert {line["did"] for line in server.requests()} == {"answer", "429"}
    assert (process.returncode, out) == (130, ""), err
    fresh = {text for text in texts if text.startswith("fresh")}
    kept = durable(texts)
    assert kept == fresh
    assert record()["state"] == "interrupted"
    assert "Run the same command again to resume." in err
    assert "Traceback" not in err
    with chaos(log="again.jsonl") as server:
        done = command(*submit(server, *options))
        assert {line["text"] for line in server.requests()} == set(texts) - kept
    assert done.returncode == 0, done.stderr
    check_answers(texts, set())


def test_rows_that_only_wait_when_a_run_is_stopped_have_not_failed() -> None:
    write("in.parquet", {"item": sometimes_tired()})
    trouble = ("--when", "tired=429", "--retry-after", "60")
    with chaos(*trouble) as server, running(submit(server, "--max-concurrency", "8")) as process:
        wait_for_requests([server], 61, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=8)
    assert record()["failed"] == 0


@pytest.mark.stress
def test_rows_that_wait_for_their_turn_under_a_limit_are_not_sent_once_the_run_is_asked_to_stop() -> None:
    write("in.parquet", {"item": TEXTS})
    with chaos() as server, running(submit(server, "--max-rpm", "240")) as process:
        wait_for_requests([server], 8, process)
        process.send_signal(signal.SIGTERM)
        seen = server.count()
        _, err = process.communicate(timeout=8)
    assert process.returncode == 130, err
    assert server.count() <= seen + 2  # four a second come as long as it runs


@pytest.mark.stress
def test_a_run_that_is_stopped_while_requests_hang_ends_soon() -> None:
    texts = sometimes_tired()
    write("in.parquet", {"item": texts})
    with (
        chaos("--when", "tired=hang") as server,
        running(submit(server, "--max-concurrency", "40", "--grace", "2")) as process,
    ):
        wait_for_requests([server], 90, process)
        time.sleep(0.5)  # the last answers arrive
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)  # calls in flight have 2 s
    assert process.returncode == 130, err
    assert durable(texts) == {text for text in texts if text.startswith("fresh")}


# What a run says of itself.


def test_a_run_writes_down_and_says_what_it_asked_for_and_got(command: Command) -> None:
    write("in.parquet", {"item": TEXTS[:200]})
    with chaos("--latency", "0.05", "--share", "500=0.2") as server:
        done = command(*submit(server, "--max-concurrency", "16", "--retries", "50"))
        requests = server.requests()
    assert done.returncode == 0, done.stderr
    found = record()
    assert len(requests) > 220
    expected = {
        "state": "done", "rows": 200, "failed": 0, "requests": len(requests), "answers": 200,
        "retries": len(requests) - 200, "shared": 0, "tokens_in": 400, "tokens_out": 1200, "limit": 16,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert 0.05 * 0.95 <= found["p50"] <= found["p95"]  # to 5 %
    said = re.search(
        r"[\d,]+ requests/s, [\d,]+\+[\d,]+ tokens/s, \d+ of 16 in flight, (\d+) retries, "
        r"p50 [\d.]+ m?s, p95 [\d.]+ m?s\n",
        done.stderr,
    )
    assert said, done.stderr
    assert said[1] == str(len(requests) - 200)
    assert "200 of 200 rows, " in done.stderr
