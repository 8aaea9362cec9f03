"""Which backends there are: registered by entry points, imported when selected, and honest about what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from domyn_swarm import make_spec
from domyn_swarm.data.backends.registry import backend_names, load_backend
from domyn_swarm.errors import ConfigurationError, MissingDependencyError


def test_all_backends_are_known_by_their_entry_points() -> None:
    assert backend_names() == ["pandas", "polars", "ray", "toy-arrow"]


def test_an_unknown_backend_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_backend("spark")
    error = refused.value
    assert (error.code, error.option, error.choices) == (
        "backend.unknown", "data_backend", ("pandas", "polars", "ray", "toy-arrow"),
    )  # fmt: skip


def _registered(name: str, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend from a distribution of its own, with an entry point as pip would leave it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[domyn_swarm.backends]\n{name} = {name}_backend\n")
    (folder / f"{name}_backend.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))


def test_a_missing_engine_is_answered_with_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _registered("absent", "import absent", folder, monkeypatch)
    with pytest.raises(MissingDependencyError) as refused:
        load_backend("absent")
    error = refused.value
    assert (error.code, error.option) == ("dependency", "data_backend")
    assert error.command == "pip install 'domyn-swarm[absent]'"


def test_a_broken_install_is_not_taken_for_a_missing_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _registered("broken", "import something_that_the_engine_needs", folder, monkeypatch)
    with pytest.raises(ModuleNotFoundError, match="something_that_the_engine_needs"):
        load_backend("broken")


@pytest.mark.parametrize(("alias", "name"), [("pd", "pandas"), ("pl", "polars"), ("pandas", "pandas")])
def test_aliases(alias: str, name: str) -> None:
    assert load_backend(alias).name == name
    assert make_spec({"input": "in.parquet", "output": "out.parquet", "data_backend": alias}).data_backend == name
