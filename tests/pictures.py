"""Make the pictures in docs/pictures anew: of reports, from real runs in a real browser, and of a plan.

python -m tests.pictures
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from domyn_swarm import SwarmJob, plan
from domyn_swarm.report.diagram import dot_of
from domyn_swarm.report.graphviz import draw
from tests.browser import ARGUMENTS, NAMES

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/pictures"
COMMAND = str(Path(sys.executable).with_name("domyn-swarm"))
INPUT = ["--input", "docs/examples/packages.parquet"]
CHAT = ["job", "submit", *INPUT, "--input-column", "question", "--output", "out/answers.parquet"]
PORT = "8123"


def domyn_swarm(folder: Path, *arguments: str) -> None:
    subprocess.run([COMMAND, *arguments], cwd=folder, check=False, capture_output=True)


def done(folder: Path) -> str:
    with_demo(folder, [*CHAT, "--endpoint", f"http://127.0.0.1:{PORT}"], seconds=None)
    return "answers.parquet"


def poisoned(folder: Path) -> str:
    domyn_swarm(
        folder, "job", "submit", "docs/examples/walkthroughs.py:LongestTerm", *INPUT, "--output", "out/terms.parquet"
    )
    return "terms.parquet"


def outage(folder: Path) -> str:
    (folder / "out").mkdir(exist_ok=True)
    flags = ["--endpoint", f"http://127.0.0.1:{PORT}", "--max-concurrency", "8", "--retry-timeout", "5"]
    with_demo(folder, [*CHAT[:-1], "out/outage.parquet", *flags], seconds=6)
    return "outage.parquet"


def crash(folder: Path) -> str:
    domyn_swarm(folder, "job", "submit", "docs/examples/walkthroughs.py:Tagged", *INPUT, "--output", "out/tags.parquet")
    return "tags.parquet"


def with_demo(folder: Path, command: list[str], seconds: float | None) -> None:
    """Run `command` beside a demo endpoint, which goes away after `seconds`."""
    demo = [COMMAND, "endpoint", "demo", "--port", PORT, "--latency", "0.5"]
    with subprocess.Popen(demo, stdout=subprocess.DEVNULL) as endpoint:
        time.sleep(3)
        with subprocess.Popen([COMMAND, *command], cwd=folder, stderr=subprocess.DEVNULL) as run:
            if seconds is not None:
                time.sleep(seconds)
                endpoint.terminate()
            run.wait()
        endpoint.terminate()


def shoot(page: Page, report: Path, picture: str) -> None:
    page.goto(f"file://{report}")
    page.wait_for_timeout(500)
    page.screenshot(path=PICTURES / f"{picture}.png", full_page=True, clip=clip_of(page))


def clip_of(page: Page) -> dict[str, float]:
    """From the top to the end of the section on failures, or of that on time: what a newcomer needs."""
    end = page.evaluate("""() => Math.max(...["time", "failures", "graph"].map(
        id => document.getElementById(id)?.getBoundingClientRect().bottom ?? 0))""")
    return {"x": 0, "y": 0, "width": 1200, "height": end + 16}


class Words(SwarmJob):
    """How many words a summary has."""

    input_columns = ("summary",)
    output_columns = ("words",)

    async def transform_item(self, summary: str) -> int:
        return len(summary.split())


def overridden() -> str:
    """The picture of a plan with two replaced nodes, as in docs/overrides.md."""

    def limited(identified: Any) -> Any:
        """Long summaries only."""
        return identified

    def pending(limited: Any) -> Any:
        """The first sentence is enough."""
        return limited

    made = plan(Words, input="docs/examples/packages.parquet", output="out/words.parquet").with_nodes(limited, pending)
    return draw(dot_of(made.graph), "svg").decode()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / "plan-overridden.svg").write_text(overridden())
    scenes = {"report-done": done, "walkthrough-poisoned": poisoned}
    scenes |= {"walkthrough-outage": outage, "walkthrough-crash": crash}
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name, "project")
        shutil.copytree(ROOT / "docs/examples", folder / "docs/examples")
        launched = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, NAMES))), args=ARGUMENTS
        )
        page = launched.new_page(viewport={"width": 1200, "height": 900})
        for picture, play in scenes.items():
            shoot(page, folder / "out/.domyn-swarm" / play(folder) / "report.html", picture)
        launched.close()


if __name__ == "__main__":
    main()
