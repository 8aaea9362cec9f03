"""Plans in notebooks: what a cell shows, classes that change, and what is left behind; in a real kernel."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import psutil
import pytest

from tests.conftest import rows
from tests.kernel import (
    CELL_SECONDS,
    DEFINITIONS,
    METHODS,
    QUICK_ROWS,
    ROWS,
    Cell,
    Kernel,
    assert_short,
    calls,
)

pytestmark = pytest.mark.stress

ON_EVERY_BACKEND = pytest.mark.parametrize("engine", ["pandas", "polars", "ray"])


# What a cell shows


def test_a_run_in_the_kernels_event_loop_returns_a_frame_and_shows_one_bar_that_moves(kernel: Kernel) -> None:
    Path("quick").touch()
    kernel.run(DEFINITIONS + METHODS["async def"] + "plan = domyn_swarm.plan(Twice, input=texts)")
    assert kernel.run("asyncio.get_running_loop().is_running()").text == "True"
    cell = kernel.run("plan.run()")
    assert cell.text.splitlines()[0].split() == ["text", "twice"]
    assert "<table" in cell.result["text/html"]
    assert [*cell.displays[0]] == ["text/plain", "text/html"]
    assert len(cell.displays) == 1
    assert cell.displays[0]["text/plain"] == f"{ROWS} rows, 0 done before"
    assert cell.updates[-1]["text/plain"].startswith(f"{ROWS} of {ROWS} rows, ")
    assert f'<progress value="{ROWS}" max="{ROWS}"' in cell.updates[-1]["text/html"]
    assert cell.stdout == cell.stderr == ""
    assert kernel.run("'ipywidgets' in __import__('sys').modules").text == "False"


def test_what_a_run_has_done_before_is_part_of_its_bar_and_a_run_with_nothing_to_do_has_none(kernel: Kernel) -> None:
    Path("quick").touch()
    kernel.run(DEFINITIONS + METHODS["async def"])
    kernel.run("domyn_swarm.plan(Twice, input=texts, output='out.parquet', limit=5).run()")
    cell = kernel.run("plan = domyn_swarm.plan(Twice, input=texts, output='out.parquet')\nplan.run()")
    assert cell.displays[0]["text/plain"] == f"{ROWS} rows, 5 done before"
    assert cell.text.startswith("RunResult(output='out.parquet', ")
    again = kernel.run("plan.run()")
    assert again.displays == again.updates == []
    assert "done_before=12, done_now=0" in again.text


def test_a_plan_shows_itself_as_its_graph(kernel: Kernel) -> None:
    kernel.run(DEFINITIONS + METHODS["async def"] + "plan = domyn_swarm.plan(Twice, input=texts)")
    shown = kernel.run("plan")
    assert shown.text.startswith("<Plan: Twice on pandas, ")
    assert ">transformed<" in shown.result["image/svg+xml"]
    changed = kernel.run("plan.with_values(limited={'text': ['a']})")
    assert "limited overridden" in changed.text
    assert changed.result["image/svg+xml"] != shown.result["image/svg+xml"]


def test_a_look_at_a_node_is_a_frame_and_shows_no_bar(kernel: Kernel) -> None:
    Path("quick").touch()
    kernel.run(DEFINITIONS + METHODS["async def"] + "plan = domyn_swarm.plan(Twice, input=texts)")
    cell = kernel.run("plan.peek('transformed', n=2)")
    assert [line.split() for line in cell.text.splitlines()] == [
        ["_row_id", "twice"],
        ["0", "0", "00"],
        ["1", "1", "11"],
    ]
    assert "<table" in cell.result["text/html"]
    assert cell.displays == []


def test_a_refusal_is_its_message_with_options_as_they_are_written_in_python(kernel: Kernel) -> None:
    kernel.run(DEFINITIONS + METHODS["async def"])
    cell = kernel.run("domyn_swarm.plan(Twice, input=texts, id_column='nope').run()")
    assert_short(cell, "DataError")
    assert cell.traceback.startswith("DataError: id_column: the input has no column 'nope'.\n")
    kernel.run("domyn_swarm.plan(Twice, input=texts, output='out.parquet', limit=1).run()")
    kernel.run(METHODS["def"])
    changed = kernel.run("domyn_swarm.plan(Twice, input=texts, output='out.parquet', limit=1).run()")
    assert "Run with resume=False to compute every row again, or with another checkpoint_tag" in changed.traceback


def test_what_breaks_in_a_cells_own_function_is_traced_to_that_and_not_through_the_package(kernel: Kernel) -> None:
    kernel.run(DEFINITIONS + METHODS["async def"])
    node = kernel.run("""
def limited(identified):
    return texts["nope"]

domyn_swarm.plan(Twice, input=texts).with_nodes(limited).run()
""")
    assert node.error == "KeyError"
    assert 'texts["nope"]' in uncoloured(node.traceback)
    opened = kernel.run("""
class Broken(Twice):
    async def open(self, spec):
        self.places = texts["nowhere"]

domyn_swarm.plan(Broken, input=texts).run()
""")
    assert opened.error == "JobError"
    assert 'texts["nowhere"]' in uncoloured(opened.traceback)
    for cell in (node, opened):
        assert "hamilton" not in cell.traceback
        assert "src/domyn_swarm" not in cell.traceback


def uncoloured(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def test_rows_that_fail_are_told_of_with_the_file_that_has_their_reasons(kernel: Kernel) -> None:
    cell = kernel.run("""
class Fails(SwarmJob):
    def transform_item(self, text):
        return 1 / (text != "b")

plan = domyn_swarm.plan(Fails, input={"text": ["a", "b"]}, retries=0)
plan.run()
""")
    path = re.fullmatch(r"1 of 2 rows failed; ids and errors are in (\S+)\n", cell.stderr)
    assert path
    assert [row["type"] for row in rows(path[1])] == ["ZeroDivisionError"]
    assert kernel.run("plan.result.errors_path").text == repr(path[1])


# What the package says


LOUD = """
import logging

class Loud(SwarmJob):
    def transform_item(self, text):
        logging.getLogger("domyn_swarm").info("told by %s", text)
        logging.getLogger("domyn_swarm").warning("warned by %s", text)
        return text
"""


def test_warnings_stand_below_the_cell_and_what_goes_on_beside_the_bar(kernel: Kernel) -> None:
    kernel.run(LOUD)
    cell = kernel.run("domyn_swarm.plan(Loud, input={'text': ['a']}).run()")
    assert cell.stderr == "warned by a\n"
    assert [shown["text/plain"].splitlines()[1:] for shown in cell.updates].count(["told by a"]) == 1
    assert (
        kernel.run("logging.getLogger('domyn_swarm').handlers, logging.getLogger('domyn_swarm').level").text
        == "([], 0)"
    )


def test_who_has_set_up_logging_gets_everything_once_and_there(kernel: Kernel) -> None:
    kernel.run(LOUD)
    kernel.run("logging.basicConfig(format='%(name)s %(levelname)s %(message)s', level=logging.INFO)")
    cell = kernel.run("domyn_swarm.plan(Loud, input={'text': ['a']}).run()")
    ours = [line for line in cell.stderr.splitlines() if line.startswith("domyn_swarm ")]
    assert ours == ["domyn_swarm INFO told by a", "domyn_swarm WARNING warned by a"]
    assert not any("told" in shown["text/plain"] for shown in cell.updates)


def test_a_damaged_part_is_told_of(kernel: Kernel) -> None:
    Path("quick").touch()
    kernel.run(DEFINITIONS + METHODS["def"] + "plan = domyn_swarm.plan(Twice, input=texts, output='out.parquet')")
    kernel.run("plan.with_options(limit=5).run()")
    part = next(Path(".domyn-swarm/out.parquet/parts").iterdir())
    part.write_bytes(part.read_bytes()[:-100])
    assert "1 damaged part(s) set aside" in kernel.run("plan.run()").stderr
    assert [row["twice"] for row in rows("out.parquet")] == [2 * str(row) for row in range(ROWS)]


# Classes that change


SHOUT = """
class Shout(SwarmJob):
    input_columns, output_columns = ("text",), ("loud",)
    mark: str = "!"

    def transform_item(self, text):
        return PROMPT.format(text) + self.mark
"""
LOUDER = SHOUT.replace("self.mark", "2 * self.mark")


def start(kernel: Kernel, engine: str) -> None:
    """Give the notebook a Ray of its own, so that not every run has to start one."""
    if engine == "ray":
        kernel.run('import ray\nray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)')


@ON_EVERY_BACKEND
def test_a_class_that_is_defined_again_and_a_constant_of_another_cell_just_work(kernel: Kernel, engine: str) -> None:
    plan = f"domyn_swarm.plan(Shout(mark='?'), input={{'text': ['a', 'b']}}, data_backend={engine!r})"
    look = f"[str(loud) for loud in {plan}.run()['loud']]"
    start(kernel, engine)
    kernel.run("PROMPT = 'say {}'" + SHOUT)
    assert kernel.run(look).text == "['say a?', 'say b?']"
    kernel.run(LOUDER)
    assert kernel.run(look).text == "['say a??', 'say b??']"
    kernel.run("PROMPT = 'sing {}'")
    assert kernel.run(look).text == "['sing a??', 'sing b??']"


@ON_EVERY_BACKEND
def test_a_class_that_a_function_makes_just_works(kernel: Kernel, engine: str) -> None:
    start(kernel, engine)
    kernel.run("""
def repeats(times):
    class Repeats(SwarmJob):
        input_columns, output_columns = ("text",), ("many",)

        async def transform_item(self, text):
            return times * text

    return Repeats
""")
    for times, made in (("2", "aa"), ("3", "aaa")):
        kernel.run(f"made = domyn_swarm.plan(repeats({times}), input={{'text': ['a']}}, data_backend={engine!r}).run()")
        assert kernel.run("str(made['many'][0])").text == repr(made)


def test_other_options_of_a_plan_that_makes_frames_make_other_rows_and_leave_its_own(kernel: Kernel) -> None:
    kernel.run("PROMPT = '{}'" + SHOUT + "plan = domyn_swarm.plan(Shout, input={'text': ['a', 'b']})")
    asks = "other = plan.with_options(job_kwargs={'mark': '?'})"
    assert kernel.run("[*plan.run()['loud']]").text == "['a!', 'b!']"
    assert kernel.run(f"{asks}\n[*other.run()['loud']]").text == "['a?', 'b?']"
    assert kernel.run("[*plan.run()['loud']], plan.result.done_now").text == "(['a!', 'b!'], 0)"
    assert (
        kernel.run(f"{asks}.with_options(limit=1)\n[*other.run()['loud']], other.result.done_now").text == "(['a?'], 0)"
    )
    kernel.run("plan.close()")
    assert kernel.left() == []


@pytest.mark.parametrize(
    ("change", "loud"), [(LOUDER, "say a!!"), ("PROMPT = 'sing {}'", "sing a!")], ids=["class", "constant"]
)
def test_rows_of_the_class_as_it_was_are_never_taken_for_those_of_the_new_one(
    kernel: Kernel, change: str, loud: str
) -> None:
    kernel.run(
        "PROMPT = 'say {}'" + SHOUT + "plan = domyn_swarm.plan(Shout, input={'text': ['a']}, output='out.parquet')"
    )
    kernel.run("plan.run()")
    assert rows("out.parquet") == [{"text": "a", "loud": "say a!"}]
    kernel.run(change)
    assert_refused_as_changed(kernel.run("plan.run()"))
    assert rows("out.parquet") == [{"text": "a", "loud": "say a!"}]
    assert "done_before=0, done_now=1" in kernel.run("plan.with_options(resume=False).run()").text
    assert rows("out.parquet") == [{"text": "a", "loud": loud}]
    assert "done_before=1, done_now=0" in kernel.run("plan.run()").text


def assert_refused_as_changed(cell: Cell) -> None:
    assert cell.error == "CheckpointError"
    assert "resume=False" in cell.traceback
    assert "checkpoint_tag" in cell.traceback


def test_the_same_class_defined_again_goes_on_with_its_rows(kernel: Kernel) -> None:
    Path("quick").touch()
    plan = "domyn_swarm.plan(Twice, input=texts, output='out.parquet', limit={}).run()"
    kernel.run(DEFINITIONS + METHODS["def"] + plan.format(5))
    assert "done_before=5, done_now=7" in kernel.run(DEFINITIONS + METHODS["def"] + plan.format(ROWS)).text
    assert set(calls().values()) == {1}


# Nothing is left behind


def test_what_a_plan_needed_is_gone_with_its_block(kernel: Kernel) -> None:
    kernel.run("before = set(__import__('threading').enumerate())")
    kernel.run("""
from domyn_swarm.jobs import ChatCompletionJob

with domyn_swarm.plan(ChatCompletionJob, input={"text": ["a", "b"]}, input_columns="text", endpoints="demo") as plan:
    answers = plan.run()
""")
    assert "You wrote 1 words: a" in kernel.run("answers").text
    assert_nothing_is_left(kernel)
    assert kernel.run("set(__import__('threading').enumerate()) - before").text == "set()"


def test_an_interrupted_run_leaves_nothing_behind_either(kernel: Kernel) -> None:
    sockets = listening(kernel)
    kernel.run("""
from domyn_swarm.jobs import ChatCompletionJob

class Slow(ChatCompletionJob):
    async def transform_item(self, item):
        answer = await super().transform_item(item)
        open("asked", "w").close()
        await __import__("asyncio").sleep(600)
        return answer
""")
    cell = kernel.run(
        """
with domyn_swarm.plan(Slow, input={"text": ["a", "b"]}, input_columns="text", endpoints="demo") as plan:
    plan.run()
""",
        interrupt_when=[lambda _: Path("asked").exists()],
    )
    assert_short(cell)
    assert listening(kernel) == sockets
    assert_nothing_is_left(kernel)


def test_a_kernel_that_ends_leaves_nothing_behind(kernel: Kernel) -> None:
    Path("quick").touch()
    kernel.run(DEFINITIONS + METHODS["async def"])
    kernel.run("one = domyn_swarm.plan(Twice, input=texts)\none.run()\ntwo = domyn_swarm.plan(Twice, input=texts)")
    kernel.run("three = domyn_swarm.plan(Twice, input=texts, data_backend='ray')\nthree.run()")
    assert kernel.left() != []
    kernel.end()
    assert kernel.left() == []


def test_a_kernel_that_ends_in_the_middle_of_a_run_leaves_no_process_behind(kernel: Kernel) -> None:
    kernel.run(DEFINITIONS + METHODS["async def"] + "plan = domyn_swarm.plan(Twice, input=texts, data_backend='ray')")
    kernel.begin("plan.run()")
    wait_until(lambda: len(calls()) > QUICK_ROWS)
    processes = kernel.process.children(recursive=True)
    assert processes
    kernel.end()
    assert psutil.wait_procs(processes, timeout=60)[1] == []


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + CELL_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def listening(kernel: Kernel) -> set[int]:
    """The ports that the kernel's process listens at."""
    connections = kernel.process.net_connections("inet")
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}


def assert_nothing_is_left(kernel: Kernel) -> None:
    assert kernel.processes() == []
    assert kernel.left() == []
    threads = kernel.run("[thread.name for thread in __import__('threading').enumerate()]").text
    assert "domyn" not in threads


# Front ends that show text alone


SCRIPT = """
import domyn_swarm

class Shout(domyn_swarm.SwarmJob):
    input_columns, output_columns = ("text",), ("loud",)

    def transform_item(self, text):
        return text.upper()

print(domyn_swarm.plan(Shout, input={"text": ["a", "b"]}).run()["loud"].tolist())
"""


def on_a_terminal(*arguments: str) -> str:
    """What a program shows to somebody at a terminal."""
    shown, status = pexpect.run(shlex.join(arguments), timeout=CELL_SECONDS, withexitstatus=True, encoding="utf-8")
    assert status == 0, shown
    return uncoloured(shown)


def test_a_script_shows_a_bar_on_a_terminal(folder: Path) -> None:
    Path("script.py").write_text(SCRIPT)
    shown = on_a_terminal(sys.executable, "script.py")
    assert "2 of 2 rows" in shown
    assert "━━━" in shown
    assert shown.splitlines()[-1].endswith("['A', 'B']")


def test_a_script_without_a_terminal_tells_in_lines(folder: Path) -> None:
    Path("script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], check=True, capture_output=True, text=True, timeout=CELL_SECONDS
    )
    assert done.stdout == "['A', 'B']\n"
    assert re.fullmatch(r"2 rows, 0 done before\n2 of 2 rows, [\d.,]+ rows/s, 0 failed, 0 s left\n", done.stderr)


def test_ipython_in_a_terminal_shows_a_bar_and_short_errors(folder: Path) -> None:
    Path("script.ipy").write_text(SCRIPT + "domyn_swarm.plan(Shout, input='nowhere.parquet').run()\n")
    shown, _ = pexpect.run(
        shlex.join([sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", "script.ipy"]),
        timeout=CELL_SECONDS, withexitstatus=True, encoding="utf-8", env={**os.environ, "IPYTHONDIR": str(folder)},
    )  # fmt: skip
    assert "2 of 2 rows" in shown
    assert "['A', 'B']" in shown
    assert "DataError: input: 'nowhere.parquet' does not exist.\r\nCheck the path.\r\n" in shown
    assert "Traceback" not in shown


def test_the_console_of_jupyter_shows_as_text_what_notebooks_show(folder: Path) -> None:
    typed = SCRIPT.replace("\n\n", "\n").replace("print(", "\nprint(").strip()
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_console", "--simple-prompt"], input=f"exec({typed!r})\nexit\n",
        check=True, capture_output=True, text=True, timeout=CELL_SECONDS, env={**os.environ, "IPYTHONDIR": str(folder)},
    )  # fmt: skip
    assert "2 rows, 0 done before" in done.stdout
    assert "['A', 'B']" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
