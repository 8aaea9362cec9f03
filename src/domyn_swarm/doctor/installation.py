"""Checks of the installation: Python, packages, backends, extras, Graphviz."""

from __future__ import annotations

import contextlib
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, NamedTuple

from domyn_swarm.data.backends.registry import backend_names
from domyn_swarm.doctor.finding import PROBES, Finding, ProbeError, probed
from domyn_swarm.errors import MissingDependencyError
from domyn_swarm.report import graphviz

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "domyn-swarm"
NOT_FOR_RUNS = ("all", "dev", "docs", "test")
"""Extras that combine other extras, or that only developers of this package need."""


class Requirement(NamedTuple):
    """A required package: its name, its minimum version, and the extra that requires it."""

    package: str
    least: str
    extra: str
    marked: bool


def requirements() -> list[Requirement]:
    """The requirements in the package's metadata."""
    return [_requirement(line) for line in requires(PACKAGE) or ()]


def _requirement(line: str) -> Requirement:
    wanted, _, marker = line.partition(";")
    extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
    package, least = re.split(r"(?:\[.*?\])?>=|$", wanted.strip(), maxsplit=1)[:2]
    return Requirement(package, least, extra[1] if extra else "", bool(marker.strip()))


def check_python() -> Iterator[Finding]:
    """Report the interpreter. A version that is too old would have failed earlier."""
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}, {platform.platform(terse=True)}")


def check_packages() -> Iterator[Finding]:
    """Check this package and its required dependencies."""
    yield Finding(PACKAGE, "ok", version(PACKAGE))
    needed = [one for one in requirements() if not one.extra]
    versions = {one.package: _installed(one.package) for one in needed}
    wrong = {}
    for package, least, _, marked in needed:
        found = versions[package]
        if found is None and not marked:
            wrong[package] = f"{package} is not installed"
        elif found is not None and _numbers(found) < _numbers(least):
            wrong[package] = f"{package} {found} is older than {least}"
    if wrong:
        yield Finding("packages", "failed", "; ".join(wrong.values()), f"pip install --upgrade {' '.join(wrong)}")
    else:
        yield Finding("packages", "ok", ", ".join(f"{name} {found}" for name, found in versions.items() if found))


def check_backend(name: str) -> Iterator[Finding]:
    """Check a data backend by processing three rows."""
    title = f"backend {name}"
    try:
        rows = probed(PROBES, "backend", name)["rows"]
    except ProbeError as error:
        if error.code == MissingDependencyError.default_code:
            yield Finding(title, "warning", str(error), error.fix)
        else:
            yield Finding(title, "failed", str(error), f"pip install --force-reinstall '{PACKAGE}[{name}]'")
        return
    yield Finding(title, "ok", ", ".join(filter(None, [_installed(name), f"{rows} rows processed"])))


def extras() -> dict[str, list[str]]:
    """The packages of each extra, except backends."""
    found: dict[str, list[str]] = {}
    for one in requirements():
        if one.extra and one.extra not in (*NOT_FOR_RUNS, *backend_names()):
            found.setdefault(one.extra, []).append(one.package)
    return found


def check_extra(extra: str, packages: list[str]) -> Iterator[Finding]:
    """Check that an extra's packages are installed and can be imported."""
    title, install = f"extra {extra}", f"pip install '{PACKAGE}[{extra}]'"
    if missing := [package for package in packages if _installed(package) is None]:
        yield Finding(title, "warning", f"{', '.join(missing)} is not installed", install)
        return
    try:
        probed(PROBES, "packages", *(package.replace("-", "_") for package in packages))
    except ProbeError as error:
        yield Finding(title, "failed", str(error), install.replace("install", "install --force-reinstall"))
        return
    yield Finding(title, "ok", ", ".join(f"{package} {_installed(package)}" for package in packages))


def check_graphviz() -> Iterator[Finding]:
    """Check Graphviz by drawing a graph."""
    try:
        graphviz.draw("digraph { a -> b }", "svg")
    except MissingDependencyError as error:
        found = error.text.rstrip(".") + "; report pages draw graphs themselves"
        yield Finding("graphviz", "warning", found, error.command)
        return
    yield Finding("graphviz", "ok", f"{next(graphviz.programs())} works")


def _installed(package: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return None


def _numbers(text: str) -> tuple[int, ...]:
    """`3.12.1rc1` as (3, 12, 1), to compare by."""
    return tuple(int(part) for part in re.findall(r"\d+", re.match(r"[\d.]*", text)[0]))  # type: ignore[index]
