"""Differences between two runs, as plain data."""

from __future__ import annotations

from typing import Literal

import msgspec


class Difference(msgspec.Struct):
    """A named value that differs: as text in A and in B, None where it does not exist."""

    name: str
    a: str | None
    b: str | None


class NodeDifference(msgspec.Struct):
    """A node that differs; with `what` = node it exists in only one run.

    For a node with different overrides no other difference is listed.
    """

    node: str
    what: Literal["node", "replaced", "variant", "type", "inputs"]
    a: str | None
    b: str | None

    @property
    def label(self) -> str:
        """The node, and which property differs."""
        return self.node if self.what == "node" else f"{self.node}, {self.what}"


class InputDifference(msgspec.Struct):
    """The inputs: their paths or patterns, and the files that differ, with their rows as text."""

    a: str
    b: str
    files: list[Difference] = []
