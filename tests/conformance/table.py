"""What the suite found, as the page that the documentation shows: `--write-compatibility docs/compatibility.md`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HEAD = """# What each backend does

Written by the conformance suite, from what it found:
`python -m pytest tests/conformance --write-compatibility docs/compatibility.md`. Each line is one of its cases, run in
compatibility mode and, where that may make a difference, in native mode. *refused* means one clear message before
anything is written.
"""


@dataclass
class Table:
    """Outcomes by module, case and backend; a pytest plugin."""

    path: Path
    titles: dict[str, str] = field(default_factory=dict)
    cells: dict[str, dict[str, dict[str, set[str]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Function, call: pytest.CallInfo[None]):
        report: pytest.TestReport = yield
        if call.when == "call" and hasattr(item, "callspec") and "backend" in item.callspec.params:
            module, backend = item.module.__name__, item.callspec.params["backend"]
            self.titles[module] = item.module.__doc__.partition("\n")[0]
            mark = item.get_closest_marker("refused_by")
            refused = mark is not None and backend in mark.args
            outcome = "**failed**" if report.failed else "refused" if refused else "yes"
            self.cells[module][sentence(item.function.__name__)][backend].add(outcome)
        return report

    def pytest_sessionfinish(self) -> None:
        backends = sorted({backend for cases in self.cells.values() for case in cases.values() for backend in case})
        backends = [backend for backend in backends if not backend.startswith("toy")]
        lines = [HEAD]
        for module, cases in self.cells.items():
            lines += [f"## {self.titles[module].rstrip('.')}", "", f"| case | {' | '.join(backends)} |"]
            lines += ["| --- " * (len(backends) + 1) + "|"]
            for case, found in cases.items():
                lines.append(f"| {case} | {' | '.join(', '.join(sorted(found[backend])) for backend in backends)} |")
            lines.append("")
        self.path.write_text("\n".join(lines))


def sentence(function: str) -> str:
    """`test_a_given_id_identifies` as `a given id identifies`."""
    return function.removeprefix("test_").replace("_", " ")
