"""The command: plays scenarios, prints a line for each, and exits with status 1 if any failed."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.chaos.laws import Broken
from tests.chaos.scenarios import SCENARIOS, Figures, Stage, engines, leave_no_process

BACKENDS = ("pandas", "polars", "ray")
ENGINES = "engines"
NEEDS_MOUNT = "full"
PASS = "PASS"
HEADS = ("signals", "requests", "repeated", "parts", "seconds")

Scene = Callable[[Stage], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what was asked for; 1 if anything failed."""
    options = _parser().parse_args(arguments)
    backends = tuple(dict.fromkeys(options.backend or BACKENDS))
    root = options.keep or Path(tempfile.mkdtemp(prefix="domyn-swarm-chaos-"))
    print(f"{'scenario':<10}{'backend':<19}{''.join(f'{head:>10}' for head in HEADS)}  verdict", flush=True)
    passed = failed = left_out = 0
    for scenario, backend, scene in _plays(options.scenario or [*SCENARIOS, ENGINES], backends):
        if scenario == NEEDS_MOUNT and options.no_mount:
            print(_line(scenario, backend, Figures(), 0, "left out: --no-mount"), flush=True)
            left_out += 1
            continue
        stage = Stage(root / f"{scenario}-{backend}", backend, options.kills, options.terms)
        stage.rows, stage.seed = options.rows, options.seed
        since = time.monotonic()
        verdict = play(scene, stage)
        print(_line(scenario, backend, stage.figures, time.monotonic() - since, verdict), flush=True)
        passed, failed = passed + (verdict == PASS), failed + (verdict != PASS)
        if verdict == PASS and not options.keep:
            shutil.rmtree(stage.folder)
    kept = f"; what was left is in {root}" if failed or options.keep else ""
    print(f"{passed} passed, {failed} failed, {left_out} left out{kept}")
    if not kept:
        root.rmdir()
    return 1 if failed else 0


def play(scene: Scene, stage: Stage) -> str:
    """Play one scenario: PASS, or what did not hold."""
    try:
        shutil.rmtree(stage.folder, ignore_errors=True)
        stage.folder.mkdir(parents=True)
        scene(stage)
    except Broken as error:
        return f"FAIL: {error}"
    except Exception as error:  # noqa: BLE001 - a scenario that breaks in any way has failed, and the others go on
        return f"FAIL: {type(error).__name__}: {error}"
    return PASS


def _plays(scenarios: Sequence[str], backends: Sequence[str]) -> Iterator[tuple[str, str, Scene]]:
    """What is to be played, and on what. One engine is not enough to change it."""
    for scenario in dict.fromkeys(scenarios):
        if scenario != ENGINES:
            yield from ((scenario, backend, SCENARIOS[scenario]) for backend in backends)
        elif len(backends) > 1:
            yield scenario, ">".join(backends), partial(engines, backends=backends)


def _line(scenario: str, backend: str, figures: Figures, seconds: float, verdict: str) -> str:
    counts = (figures.signals, figures.requests, figures.repeated, figures.parts)
    numbers = "".join(f"{count:>10,}" for count in counts)
    shown = verdict.replace("\n", "\n    ")
    return f"{scenario:<10}{backend:<19}{numbers}{seconds:>10.1f}  {shown}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill real runs, and see what is left.")
    names = ", ".join([*SCENARIOS, ENGINES])
    parser.add_argument("scenario", nargs="*", type=_scenario, metavar="SCENARIO", help=f"{names} (all of them)")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="repeat for several (all)")
    parser.add_argument("--kills", type=_count, default=30, help="kill -9 of one job (%(default)s)")
    parser.add_argument("--terms", type=_count, default=10, help="SIGTERM of one job (%(default)s)")
    parser.add_argument("--rows", type=_count, help="rows of a job (as many as its scenario needs)")
    parser.add_argument("--seed", type=int, default=0, help="for moments and texts (%(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave everything there")
    parser.add_argument("--no-mount", action="store_true", help="leave out what needs a disk of its own")
    return parser


def _scenario(text: str) -> str:
    if text not in (*SCENARIOS, ENGINES):
        raise argparse.ArgumentTypeError(f"there is no scenario {text!r}")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count")
    return int(text)


if __name__ == "__main__":
    leave_no_process()
    sys.exit(main())
