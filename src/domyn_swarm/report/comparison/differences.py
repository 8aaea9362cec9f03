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


class StepDifference(msgspec.Struct):
    """A step that makes its column differently in B.

    `what` differs: the step exists in only one run (`of` says which), its code, the model or the step `of` that it
    takes, a field that it takes, or it was computed anew by hand.
    """

    step: str
    what: Literal["step", "code", "model", "upstream", "field", "by hand"]
    of: str = ""

    @property
    def why(self) -> str:
        """What differs, in words."""
        return {
            "step": f"only in {self.of}",
            "code": "its code differs",
            "model": f"the model {self.of} has another name",
            "upstream": f"{self.of} differs",
            "field": "a field differs",
            "by hand": "it was computed anew by hand",
        }[self.what]


class InputDifference(msgspec.Struct):
    """The inputs: their paths or patterns, and the files that differ, with their rows as text."""

    a: str
    b: str
    files: list[Difference] = []
