"""`domyn-swarm doctor`: what it says of a machine that has everything, and of one that lacks nearly all."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from domyn_swarm.doctor import checkpoints, endpoints, installation
from domyn_swarm.doctor.finding import Finding, ProbeError, probed
from domyn_swarm.endpoint.demo import demo_server
from tests.conftest import Command, tree
from tests.servers.object_store import object_store
from tests.test_endpoint import Handler, answering, closed_port, serving

KEY = "sk-a-key-that-nobody-must-see-0123456789"


def completion(text: str | None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]}


def looked_at(url: str, model: str | None = None, api_key_file: str | None = None) -> list[tuple[str, str, str]]:
    """What is found of an endpoint; times do not count."""
    found = endpoints.check_endpoint(url, model, api_key_file)
    return [(one.name, one.state, re.sub(r"\d+ ms", "0 ms", one.found).replace(url, "URL")) for one in found]


# Machines


@pytest.mark.stress
def test_a_machine_that_has_everything_is_well_and_nothing_stays_there(command: Command) -> None:
    done = command("doctor", "--endpoint", "demo", "--checkpoint-dir", "deep/er", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert [(one["name"], one["state"]) for one in told["checks"]] == [
        ("python", "ok"), ("domyn-swarm", "ok"), ("packages", "ok"),
        ("backend pandas", "ok"), ("backend polars", "ok"), ("backend ray", "ok"),
        ("extra openai", "ok"), ("extra s3", "ok"), ("extra structured", "ok"), ("graphviz", "ok"),
        ("endpoint", "ok"), ("completion", "ok"),
        ("checkpoints", "ok"), ("rename", "ok"), ("lock", "ok"), ("space", "ok"),
    ]  # fmt: skip
    assert told["ok"] is True
    assert {one["fix"] for one in told["checks"]} == {""}
    assert tree() == set()


@pytest.fixture
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real environment without Ray, Graphviz and s3fs: all other packages are those of the tests."""
    home = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(home, symlinks=True)
    here, there = (next(Path(prefix).glob("lib/python3*/site-packages")) for prefix in (sys.prefix, home))
    for package in here.iterdir():
        if not re.match(r"(ray|graphviz_pure|s3fs)(\W|$)", package.name) and not (there / package.name).exists():
            (there / package.name).symlink_to(package)
    script = home / "bin/domyn-swarm"
    script.write_text(f"#!{home}/bin/python\nfrom domyn_swarm.cli.main import main\nmain()\n")
    script.chmod(0o755)
    return home / "bin"


def without_roots_rights(*arguments: str) -> list[str]:
    """Root may write anywhere, unless it gives that up."""
    if os.geteuid():
        return [*arguments]
    return [str(shutil.which("setpriv")), "--bounding-set=-dac_override", *arguments]


@pytest.mark.stress
def test_a_machine_that_lacks_nearly_all_is_told_so_line_by_line(bare: Path, folder: Path) -> None:
    Path("shared").mkdir(mode=0o555)
    url = closed_port()
    done = subprocess.run(
        without_roots_rights(
            str(bare / "domyn-swarm"), "doctor", "--endpoint", url, "--checkpoint-dir", "shared/runs",
            "--ray", "auto", "--slurm",
        ),
        check=False, capture_output=True, text=True, timeout=120, env={"PATH": f"{bare}:/nowhere", "HOME": str(folder)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    host, port = re.findall(r"http://(.*):(\d+)/v1", url)[0]
    assert (
        [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
        == f"""\
warning  backend ray        the package 'ray' is not installed.
                            fix: pip install 'domyn-swarm[ray]'
warning  extra s3           s3fs is not installed
                            fix: pip install 'domyn-swarm[s3]'
warning  graphviz           Graphviz for SVG is missing or does not work; report pages draw graphs themselves
                            fix: pip install graphviz-pure, or your system's graphviz
failed   endpoint           {url} does not respond: GET models: ClientConnectorError: Cannot connect to host \
{host}:{port} ssl:default [Connect call failed ('{host}', {port})]
                            fix: Check that the server is up and that this is its address. The timeout is 10 s.
failed   checkpoints        shared/runs is not writable: Permission denied
                            fix: Give this user write permission there, or use another --checkpoint-dir.
failed   ray cluster        Ray is not installed.
                            fix: pip install 'domyn-swarm[ray]'
failed   slurm              sbatch, squeue, scancel, scontrol not found on PATH
                            fix: Run this on a login node of the cluster, or install Slurm's client \
(Debian: slurm-client).

14 checks: 4 failed, 3 with a warning
""".splitlines()
    )
    assert tree() == {"shared"}


# The endpoint


def test_an_endpoint_is_asked_for_its_models_and_for_a_completion() -> None:
    with demo_server() as url:
        assert looked_at(url) == [
            ("endpoint", "ok", "URL responds in 0 ms; models: demo"),
            ("completion", "ok", "demo answered 'You wrote 6 words: Answer with the one word: ready' in 0 ms"),
        ]
        assert looked_at(url, "large") == [("endpoint", "failed", "URL has no model 'large'")]


def test_a_key_that_is_refused_is_told_and_not_shown(folder: Path) -> None:
    Path("key").write_text(KEY)

    def refusing() -> web.Response:
        return web.json_response({"error": {"message": f"Wrong key: {KEY}"}}, status=401)

    with serving(answering(refusing), refusing) as server:
        assert looked_at(server.url, None, "key") == [
            ("endpoint", "failed", "URL: the API key was rejected: GET models: status 401: Wrong key: ***")
        ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    with serving(answering(refusing)) as server:
        assert looked_at(server.url, "large", "key") == [
            ("endpoint", "ok", "URL responds in 0 ms; models: small, large"),
            (
                "completion",
                "failed",
                "large: the API key was rejected: POST chat/completions: status 401: Wrong key: ***",
            ),
        ]
    assert looked_at(server.url, None, "nowhere")[0][2] == (
        "--api-key-file: nowhere cannot be read: No such file or directory."
    )


NO_TEXT = "small answered in 0 ms, but without text"


def refuses_max_tokens(status: int) -> Handler:
    async def handler(body: Any) -> web.Response:
        if "max_tokens" in body:
            return web.json_response({"error": "not known"}, status=status)
        return web.json_response(completion("ready"))

    return handler


@pytest.mark.parametrize(
    ("handler", "found"),
    [
        (refuses_max_tokens(400), ("ok", "small answered 'ready' in 0 ms")),
        (refuses_max_tokens(500), ("failed", "small: POST chat/completions: status 500: not known")),
        (answering(lambda: web.json_response(completion(None))), ("warning", NO_TEXT)),
        (answering(lambda: web.json_response({})), ("warning", NO_TEXT)),
    ],
)  # fmt: skip
def test_a_completion_is_what_the_server_makes_of_it(handler: Handler, found: tuple[str, str]) -> None:
    with serving(handler) as server:
        assert looked_at(server.url)[1] == ("completion", *found)


@pytest.mark.parametrize(
    ("status", "model", "state", "found"),
    [
        (404, "large", ["warning", "ok"], "URL responds, but lists no models"),
        (404, None, ["failed"], "URL: GET models: status 404: no message"),
        (500, "large", ["warning", "ok"], "URL responds, but lists no models: GET models: status 500: no message"),
        (500, None, ["failed"], "URL: GET models: status 500: no message"),
        (200, None, ["failed"], "URL responds, but lists no models"),
        (200, "large", ["ok", "ok"], "URL responds in 0 ms; models: not listed"),
    ],
)
def test_a_server_that_lists_no_models_needs_to_be_told_one(
    status: int, model: str | None, state: list[str], found: str
) -> None:
    def models() -> web.Response:
        return web.json_response({"data": []}) if status == 200 else web.Response(status=status)

    with serving(answering(lambda: web.json_response(completion("ready"))), models) as server:
        told = looked_at(server.url, model)
    assert ([one[1] for one in told], told[0][2]) == (state, found)


# The checkpoint directory


def test_a_store_is_tried_by_conditional_puts_and_left_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store() as store:
        bucket = store.bucket()
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        assert list(checkpoints.check_in_process(bucket.url("runs"))) == [
            Finding("checkpoints", "ok", f"{bucket.url('runs')} is writable"),
            Finding("rename", "ok", "a put is visible at once"),
            Finding("lock", "ok", "1 of 8 writers acquired it, and none while it was held"),
        ]
        assert bucket.objects() == []
        refused = list(checkpoints.check_in_process("s3://no-bucket/runs"))
    assert [(one.name, one.state) for one in refused] == [("checkpoints", "failed")]
    assert "there is no bucket 'no-bucket'" in refused[0].found


def test_a_directory_that_others_use_is_left_as_it_is() -> None:
    Path("runs/answers").mkdir(parents=True)
    found = list(checkpoints.check_in_process("runs"))
    assert [(one.name, one.state) for one in found] == [
        ("checkpoints", "ok"), ("rename", "ok"), ("lock", "ok"), ("space", "ok"),
    ]  # fmt: skip
    assert tree() == {"runs", "runs/answers"}


# Probes


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import time\ntime.sleep(60)", "no answer within 1 s"),
        ("import os\nos.abort()", "ended by SIGABRT: no output"),
        ("raise OSError('no such device')", "ended with status 1: OSError: no such device"),
        ('print(\'{"error": "out of order"}\')', "out of order"),
    ],
)
def test_a_probe_that_hangs_or_crashes_says_so(
    code: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("probe_of_test.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    started = time.monotonic()
    with pytest.raises(ProbeError) as raised:
        probed("probe_of_test", seconds=1 if "sleep" in code else 60)
    assert str(raised.value) == said
    assert time.monotonic() - started < 30


def test_an_engine_that_breaks_on_import_has_failed_with_what_it_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("polars.py").write_text("raise ImportError('a library of its own is missing')")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    assert list(installation.check_backend("polars")) == [
        Finding(
            "backend polars", "failed", "ImportError: a library of its own is missing",
            "pip install --force-reinstall 'domyn-swarm[polars]'",
        )
    ]  # fmt: skip


def test_a_package_that_is_missing_or_too_old_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's metadata asks for more than there is: an environment that was put together by hand."""
    Path("domyn_swarm-9.0.dist-info").mkdir()
    Path("domyn_swarm-9.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.4\nName: domyn-swarm\nVersion: 9.0\nRequires-Dist: msgspec>=99.1\n"
        "Requires-Dist: no-such-package>=1\nRequires-Dist: pandas>=2.3\n"
        'Requires-Dist: not-for-here>=1; sys_platform == "plan9"\n'
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert list(installation.check_packages()) == [
        Finding("domyn-swarm", "ok", "9.0"),
        Finding(
            "packages", "failed",
            f"msgspec {version('msgspec')} is older than 99.1; no-such-package is not installed",
            "pip install --upgrade msgspec no-such-package",
        ),
    ]  # fmt: skip


def test_requirements_are_those_of_the_package() -> None:
    found = {(one.package, one.least, one.extra, one.marked) for one in installation.requirements()}
    assert ("aiohttp", "3.12", "", False) in found
    assert ("openai", "2", "openai", True) in found
    assert {one[0] for one in found if one[3] and not one[2]} == {"graphviz-pure", "uvloop"}
    assert installation.extras().keys() == {"openai", "s3", "structured"}
