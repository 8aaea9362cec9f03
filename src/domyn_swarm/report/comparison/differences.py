"""What of two runs is not the same, as plain data."""

from __future__ import annotations

from typing import Literal

import msgspec


class Difference(msgspec.Struct):
    """Something that has a name and is not the same in both: what it is, as text, and None where it is not there."""

    name: str
    a: str | None
    b: str | None


class NodeDifference(msgspec.Struct):
    """A node of the graph that is not the same in both; with `what` = node it is in only one of them.

    A node that somebody replaced, and not in both by the same, differs in no other way that counts.
    """

    node: str
    what: Literal["node", "replaced", "variant", "type", "inputs"]
    a: str | None
    b: str | None

    @property
    def label(self) -> str:
        """The node, and what of it is not the same."""
        return self.node if self.what == "node" else f"{self.node}, {self.what}"


class InputDifference(msgspec.Struct):
    """The inputs, by the paths or patterns that name them, and the files that are not the same: their rows as text."""

    a: str
    b: str
    files: list[Difference] = []
