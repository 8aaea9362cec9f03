"""Input, parts and output in an object store, a server that speaks S3: what holds on a disk holds there."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domyn_swarm.storage.atomic import atomic_write
from domyn_swarm.storage.files import filesystem
from tests.conftest import Command, job, start_command, stop, tree
from tests.servers.object_store import OBSERVER, Bucket, ObjectStore, object_store

Troubled = Callable[..., Bucket]

ENGINES = ["pandas", "polars", pytest.param("ray", marks=pytest.mark.stress)]
TEXTS = [f"row {number}" for number in range(10_000)]
PARTS = "out/.domyn-swarm/answers.parquet/parts/"
FOLDER = PARTS.removesuffix("parts/")
OUTPUT = "out/answers.parquet"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A store that is in no trouble, for all tests."""
    with object_store(log=tmp_path_factory.mktemp("store") / "requests.jsonl") as healthy:
        yield healthy


@pytest.fixture
def bucket(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket of the test's own. The environment leads to its store."""
    return found_by_environment(store, monkeypatch)


@pytest.fixture
def troubled(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Troubled]:
    """Starts a store with options of tests/servers/object_store.py, for this test only."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Bucket:
            log = tmp_path_factory.mktemp("troubled") / "requests.jsonl"
            return found_by_environment(stack.enter_context(object_store(*options, log=log)), monkeypatch)

        yield start


def found_by_environment(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store.bucket()


def put(bucket: Bucket, key: str, texts: Sequence[str], **options: Any) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file, **options)
    bucket.put(key, file.getvalue())


def rows(bucket: Bucket, key: str) -> list[dict[str, Any]]:
    return pq.read_table(io.BytesIO(bucket.get(key))).to_pylist()


def answers(texts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"text": text, "upper": text.upper()} for text in texts]


def submit(bucket: Bucket, *more: str, name: str = "Recorded", seconds: float = 0.0) -> list[str]:
    """The job over `in.parquet`, its calls so long, and eight of them at once."""
    kwargs = ("--job-kwargs", json.dumps({"seconds": seconds})) if seconds else ()
    return [
        "job", "submit", job(name), "--input", bucket.url("in.parquet"), "--output", bucket.url(OUTPUT),
        "--max-concurrency", "8", "--checkpoint-interval", "0.2", *kwargs, *more,
    ]  # fmt: skip


def started(arguments: Sequence[str]) -> subprocess.Popen[str]:
    return start_command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def called() -> list[str]:
    """Every call so far: each is written down before it is made."""
    return Path("calls").read_text().splitlines() if Path("calls").exists() else []


def wait_for_calls(count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(called()) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the job does not start"
        time.sleep(0.01)


def durable(bucket: Bucket) -> set[str]:
    """The rows in parts. Reading them all shows that a part is whole or not there."""
    tables = [pq.read_table(io.BytesIO(bucket.get(key)), columns=["_row_id"]) for key in bucket.objects(PARTS)]
    return {TEXTS[row] for table in tables for row in table["_row_id"].to_pylist()}


def said_once(process: Any) -> str:
    """The one message of a run that was refused."""
    error: str = process.stderr
    assert process.returncode == 2, error
    assert "Traceback" not in error
    assert len(re.findall("^Error: ", error, re.MULTILINE)) == 1
    return error


# A run and its rerun.


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_from_store_to_store(engine: str, bucket: Bucket, command: Command) -> None:
    put(bucket, "in/000.parquet", TEXTS[:2000], row_group_size=300)
    put(bucket, "in/001.parquet", TEXTS[2000:3000])
    done = command(*submit(bucket, "--input", bucket.url("in/"), "--data-backend", engine, name="Upper"))
    assert done.returncode == 0, done.stderr
    assert rows(bucket, OUTPUT) == answers(TEXTS[:3000])
    assert bucket.made().count(OUTPUT) == 1, "the output becomes visible in one step"
    assert not bucket.uploads()
    assert all(key.startswith(("in/", OUTPUT, FOLDER)) for key in bucket.objects())
    assert {f"{FOLDER}run.json", f"{FOLDER}spec.json"} <= set(bucket.objects())
    assert tree() == set()


def test_a_rerun_replaces_the_output_in_one_step(bucket: Bucket, command: Command) -> None:
    put(bucket, "in.parquet", TEXTS[:3000])
    for limit in (1000, 3000, 3000):
        done = command(*submit(bucket, "--input", bucket.url("i*.parquet"), "--limit", str(limit)))
        assert done.returncode == 0, done.stderr
        assert rows(bucket, OUTPUT) == answers(TEXTS[:limit])
    assert sorted(called()) == sorted(TEXTS[:3000])
    assert bucket.made().count(OUTPUT) == 2, "the last of the three runs had nothing to do"


@pytest.mark.parametrize("engine", ["pandas", pytest.param("polars", marks=pytest.mark.stress)])
def test_a_directory_takes_the_place_of_what_was_there(engine: str, bucket: Bucket, command: Command) -> None:
    put(bucket, "in.parquet", TEXTS[:1000])
    for number in (0, 7):
        put(bucket, f"out/all/part-{number:05d}.parquet", ["of another program"])
    arguments = submit(bucket, "--output", bucket.url("out/all/"), "--data-backend", engine, name="Upper")
    assert "--overwrite" in said_once(command(*arguments))
    assert rows(bucket, "out/all/part-00007.parquet") == [{"text": "of another program"}]
    done = command(*arguments, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert bucket.objects("out/all/") == ["out/all/part-00000.parquet"]
    assert rows(bucket, "out/all/part-00000.parquet") == answers(TEXTS[:1000])
    assert not bucket.uploads()


def test_rows_that_fail_are_listed_beside_the_output(bucket: Bucket, command: Command) -> None:
    put(bucket, "in.parquet", ["good", "bad", "better"])
    arguments = ["--retries", "0", "--id-column", "text"]
    failed = command(*submit(bucket, *arguments, name="Picky"))
    assert failed.returncode == 3, failed.stderr
    assert [row["text"] for row in rows(bucket, "out/answers.errors.parquet")] == ["bad"]
    Path("mended").touch()
    mended = command(*submit(bucket, *arguments, name="Picky"))
    assert mended.returncode == 0, mended.stderr
    assert sorted(called()) == ["bad", "bad", "better", "good"]
    assert rows(bucket, OUTPUT) == answers(["good", "bad", "better"])
    assert "out/answers.errors.parquet" not in bucket.objects()


@pytest.mark.parametrize("engine", [pytest.param("pandas", marks=pytest.mark.stress), "polars"])
def test_storage_options_in_place_of_the_environment(
    engine: str, bucket: Bucket, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "in.parquet", TEXTS[:100])
    arguments = submit(bucket, *without_environment(bucket, monkeypatch), "--data-backend", engine, name="Upper")
    for before in (0, 100):
        done = command(*arguments)
        assert done.returncode == 0, done.stderr
        assert re.search(rf"done before +{before}\n", done.stdout)
    assert rows(bucket, OUTPUT) == answers(TEXTS[:100])
    assert bucket.objects(PARTS)
    assert tree() == set()


def without_environment(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that say where the store is and who may use it, as the environment does no more."""
    for name in bucket.store.environment:
        monkeypatch.delenv(name)
    options = json.dumps({"storage_options": bucket.store.storage_options})
    return ["--backend-read-kwargs", options, "--backend-write-kwargs", options]


def test_a_look_into_the_folder_of_a_run(bucket: Bucket, command: Command) -> None:
    put(bucket, "in.parquet", TEXTS[:100])
    assert command(*submit(bucket)).returncode == 0
    verified = command("checkpoint", "verify", bucket.url(FOLDER))
    assert verified.returncode == 0, verified.stderr
    (part,) = bucket.objects(PARTS)
    bucket.put(part, bucket.get(part)[:-100])
    verified = command("checkpoint", "verify", bucket.url(FOLDER))
    assert verified.returncode != 0
    assert "0001-000001.parquet" in verified.stdout + verified.stderr
    assert "Traceback" not in verified.stderr


# Runs that are cut off.


@pytest.mark.stress
def test_kills_lose_nothing_and_durable_rows_are_not_called_again(bucket: Bucket, command: Command) -> None:
    put(bucket, "in.parquet", TEXTS, row_group_size=1000)
    arguments = submit(bucket, seconds=0.004)
    moments = random.Random(20260726)
    for _ in range(5):
        seen, kept = len(called()), durable(bucket)
        process = started(arguments)
        wait_for_calls(seen + 1, process)
        time.sleep(moments.uniform(0.0, 0.8))
        process.kill()
        process.communicate()
        assert not kept & set(called()[seen:]), "a durable row was computed again"
        assert OUTPUT not in bucket.objects()
    seen, kept = len(called()), durable(bucket)
    assert 0 < len(kept) < len(TEXTS), "some lives were long enough to leave a part, and none to finish"
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert not kept & set(called()[seen:])
    assert set(called()) == set(TEXTS)
    assert rows(bucket, OUTPUT) == answers(TEXTS)
    assert bucket.made().count(OUTPUT) == 1


@pytest.mark.stress
def test_a_run_on_ray_that_is_killed_goes_on(bucket: Bucket, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers know the store by storage options."""
    put(bucket, "in.parquet", TEXTS[:4000], row_group_size=500)
    arguments = submit(bucket, *without_environment(bucket, monkeypatch), "--data-backend", "ray", seconds=0.01)
    process = started(arguments)
    deadline = time.monotonic() + 60
    while not bucket.objects(PARTS):
        assert time.monotonic() < deadline, "no part appears"
        time.sleep(0.1)
    process.kill()
    process.communicate()
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"done before +0\n", done.stdout)
    assert rows(bucket, OUTPUT) == answers(TEXTS[:4000])


def test_an_interrupted_run_keeps_its_rows_and_goes_on(bucket: Bucket, command: Command) -> None:
    texts = TEXTS[:2000]
    put(bucket, "in.parquet", texts)
    arguments = submit(bucket, seconds=0.005)
    process = started(arguments)
    wait_for_calls(100, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert bucket.url(FOLDER).rstrip("/") in error
    assert set(called()) == durable(bucket)
    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert sorted(called()) == sorted(texts)
    assert rows(bucket, OUTPUT) == answers(texts)


# One writer at a time.


def test_a_second_runner_is_refused_until_the_first_is_gone(bucket: Bucket, command: Command) -> None:
    put(bucket, "in.parquet", TEXTS[:3])
    process = started(submit(bucket, seconds=3600))
    try:
        wait_for_calls(3, process)
        before = set(bucket.objects())
        assert f"process {process.pid}" in said_once(command(*submit(bucket, seconds=3600)))
        reports = {f"{FOLDER}{name}" for name in ("graph.svg", "report.html")}  # which the first keeps up to date
        assert set(bucket.objects()) - reports == before - reports
    finally:
        stop(process, signal.SIGKILL)
        process.communicate()
    at = time.monotonic()
    done = command(*submit(bucket, "--no-resume"))
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - at < 15, "a holder that is seen to be gone is not waited for"
    assert rows(bucket, OUTPUT) == answers(TEXTS[:3])
    assert not [key for key in bucket.objects(FOLDER) if "lock" in key]


@pytest.mark.stress
def test_of_runners_that_start_in_the_same_instant_one_runs(bucket: Bucket) -> None:
    put(bucket, "in.parquet", TEXTS[:400])
    processes = [started(submit(bucket, seconds=0.1)) for _ in range(3)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2, 2], errors
    assert sum("Another process is running this job" in error for error in errors) == 2
    assert sorted(called()) == sorted(TEXTS[:400])
    assert rows(bucket, OUTPUT) == answers(TEXTS[:400])


# Objects that are damaged.


@pytest.mark.parametrize(
    "spoiled",
    [
        pytest.param(lambda part: part[:-100], id="cut off"),
        pytest.param(lambda _: b"what is this?", id="text", marks=pytest.mark.stress),
    ],
)
def test_parts_that_cannot_be_read_are_set_aside_and_computed_again(
    spoiled: Callable[[bytes], bytes], bucket: Bucket, command: Command
) -> None:
    put(bucket, "in.parquet", TEXTS[:600])
    assert command(*submit(bucket, "--limit", "400")).returncode == 0
    parts = {key: spoiled(bucket.get(key)) for key in bucket.objects(PARTS)}
    for key, content in parts.items():
        bucket.put(key, content)
    done = command(*submit(bucket))
    assert done.returncode == 0, done.stderr
    assert sorted(called()) == sorted(TEXTS[:400] + TEXTS[:600])
    assert sorted(map(bucket.get, bucket.objects(f"{FOLDER}damaged/"))) == sorted(parts.values())
    assert rows(bucket, OUTPUT) == answers(TEXTS[:600])


def test_damage_that_is_found_when_parts_are_merged_is_mended_in_the_same_run(bucket: Bucket, command: Command) -> None:
    """Which rows are done is known from other columns than the damaged one."""
    put(bucket, "in.parquet", TEXTS[:3000])
    assert command(*submit(bucket, "--limit", "2000")).returncode == 0
    damage(bucket, bucket.objects(PARTS)[0], "upper")
    done = command(*submit(bucket))
    assert done.returncode == 0, done.stderr
    assert sorted(called()) == sorted(TEXTS[:2000] + TEXTS[:3000])
    assert rows(bucket, OUTPUT) == answers(TEXTS[:3000])
    assert len(bucket.objects(f"{FOLDER}damaged/")) == 1


def test_damage_that_is_found_while_the_output_is_written(bucket: Bucket, command: Command) -> None:
    """The half of it that was written never becomes visible."""
    texts = [f"row {number}" for number in range(60_000)]
    put(bucket, "in.parquet", texts)
    arguments = submit(bucket, "--checkpoint-interval", "60", name="Upper")
    assert command(*arguments).returncode == 0
    (part,) = bucket.objects(PARTS)
    damage(bucket, part, "upper", group=1)
    done = command(*arguments, "--output-mode", "io_only")
    assert done.returncode == 0, done.stderr
    assert len(bucket.objects(f"{FOLDER}damaged/")) == 1
    assert [row["upper"] for row in rows(bucket, OUTPUT)] == [text.upper() for text in texts]
    assert bucket.made().count(OUTPUT) == 2
    assert not bucket.uploads()


def damage(bucket: Bucket, key: str, column: str, group: int = 0) -> None:
    """Turn over some bits in the first page of a column: only who reads that column notices."""
    content = bytearray(bucket.get(key))
    columns = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(group)
    chunk = next(one for one in map(columns.column, range(columns.num_columns)) if one.path_in_schema == column)
    at = chunk.data_page_offset + chunk.total_compressed_size // 2
    content[at : at + 8] = bytes(255 - byte for byte in content[at : at + 8])
    bucket.put(key, bytes(content))


@pytest.mark.parametrize("streamed", [False, True])
def test_what_breaks_while_it_is_written_leaves_the_old_object(streamed: bool, bucket: Bucket) -> None:
    fs, path = filesystem(bucket.url(OUTPUT), bucket.store.storage_options)
    bucket.put(OUTPUT, b"old")
    with contextlib.suppress(KeyError), atomic_write(fs, path, streamed=streamed) as file:
        file.write(b"half of what is new")
        raise KeyError
    assert bucket.get(OUTPUT) == b"old"
    assert not bucket.uploads()


# Stores that say no.


def test_wrong_credentials(bucket: Bucket, command: Command) -> None:
    put(bucket, "in.parquet", TEXTS[:3])
    refused = command(*submit(bucket), env={"AWS_ACCESS_KEY_ID": "AKIAWRONG"})
    assert "in.parquet" in said_once(refused)
    assert bucket.objects() == ["in.parquet"]


def test_no_credentials(bucket: Bucket, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket, "in.parquet", TEXTS[:3])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "credentials" in said_once(command(*submit(bucket)))
    assert bucket.objects() == ["in.parquet"]


@pytest.mark.parametrize(
    "options",
    [
        ("--input", "s3://no-such-bucket/in.parquet"),
        ("--output", "s3://no-such-bucket/out.parquet"),
        ("--checkpoint-dir", "s3://no-such-bucket/runs"),
    ],
)
def test_a_bucket_that_is_not_there(options: tuple[str, str], bucket: Bucket, command: Command) -> None:
    put(bucket, "in.parquet", TEXTS[:3])
    assert options[1] in said_once(command(*submit(bucket, *options)))
    assert not bucket.store.fs.exists("no-such-bucket")
    assert bucket.objects() == ["in.parquet"]
    assert called() == []


# Stores in trouble.


@pytest.mark.stress
def test_a_store_that_fails_now_and_then(troubled: Troubled, command: Command) -> None:
    bucket = troubled("--share", "503=0.03", "--share", "reset=0.03", "--share", "lost=0.03")
    put(bucket, "in.parquet", TEXTS[:1000])
    for limit in ("600", "1000"):
        done = command(*submit(bucket, "--limit", limit))
        assert done.returncode == 0, done.stderr
    assert sorted(called()) == sorted(TEXTS[:1000])
    assert rows(bucket, OUTPUT) == answers(TEXTS[:1000])
    assert {entry["did"] for entry in bucket.store.requests()} > {"answer"}, "the store was in trouble"


@pytest.mark.parametrize("request_", ["lock-", "parts/", "answers.parquet?uploadId"])
def test_an_answer_that_is_lost_on_its_way(request_: str, troubled: Troubled, command: Command) -> None:
    """What was asked for is done, and asked for again."""
    bucket = troubled("--once", f"{request_}=lost")
    put(bucket, "in.parquet", TEXTS[:100])
    done = command(*submit(bucket))
    assert done.returncode == 0, done.stderr
    assert [entry["did"] for entry in bucket.store.requests()].count("lost") == 1
    assert rows(bucket, OUTPUT) == answers(TEXTS[:100])


@pytest.mark.parametrize("fault", ["500", pytest.param("reset", marks=pytest.mark.stress)])
def test_an_output_that_cannot_be_written(fault: str, troubled: Troubled, command: Command) -> None:
    """The rows are kept; whoever may write the output need not compute them again."""
    bucket = troubled("--when", f"{OUTPUT}?={fault}")
    put(bucket, "in.parquet", TEXTS[:100])
    broken = command(*submit(bucket), env={"AWS_MAX_ATTEMPTS": "2"})
    assert broken.returncode == 1, broken.stderr
    assert "100 rows of this run are kept" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert OUTPUT not in bucket.objects()
    assert durable(bucket) == set(TEXTS[:100])
    done = command(*submit(bucket), env={"AWS_ACCESS_KEY_ID": OBSERVER})
    assert done.returncode == 0, done.stderr
    assert sorted(called()) == sorted(TEXTS[:100])
    assert rows(bucket, OUTPUT) == answers(TEXTS[:100])


def test_a_store_that_is_gone(bucket: Bucket, command: Command) -> None:
    """It is not known that anything was wrong with the options: the run broke."""
    put(bucket, "in.parquet", TEXTS[:3])
    gone = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "2"}
    broken = command(*submit(bucket), env=gone)
    assert broken.returncode in (1, 2), broken.stderr
    assert "127.0.0.1:9" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert called() == []


def test_a_store_that_goes_away_under_a_run(troubled: Troubled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls whose rows cannot be kept are not made for long."""
    bucket = troubled()
    put(bucket, "in.parquet", TEXTS)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    process = started(submit(bucket, seconds=0.05))
    wait_for_calls(100, process)
    bucket.store.kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1, error
    assert "Traceback" not in error
    assert bucket.store.url in error
    assert "Run the same command again" in error
    assert len(called()) < len(TEXTS)
