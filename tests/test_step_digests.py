"""What counts as a change of a step: all of its module that it uses, however it stands there; and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from domyn_swarm.jobs.loading import build_job, load_job_class
from domyn_swarm.options.resolve import spec_for
from tests.test_steps import steps

OUT = "\ndef out(text: str) -> str:\n    return str(_USED)\n"
OPTIONS = {"input": "in.parquet", "output": "out.parquet", "output_columns": ["out"]}
DIGEST = """
import json
from tests.test_step_digests import digest_in
print(json.dumps(digest_in("steps.py")))
"""

EDITS = {
    "a helper behind a cache": (
        """
import functools
@functools.cache
def _USED(text: str = 'a') -> str:
    return text
""",
        "'a'",
        "'b'",
    ),
    "a helper behind a cache of a size": (
        """
from functools import lru_cache
@lru_cache(maxsize=9)
def _USED():
    return 1
""",
        "return 1",
        "return 2",
    ),
    "a partial function's helper": (
        """
import functools
def _helper(a, b):
    return a + b
_USED = functools.partial(_helper, 1)
""",
        "a + b",
        "a - b",
    ),
    "a partial function's argument": (
        """
import functools
def _helper(a, b):
    return a + b
_USED = functools.partial(_helper, 1)
""",
        "_helper, 1",
        "_helper, 2",
    ),
    "an object of a class of others": (
        """
from string import Template
_USED = Template('a $x')
""",
        "'a $x'",
        "'b $x'",
    ),
    "an object in a list": (
        """
from decimal import Decimal
_USED = [Decimal('1.5')]
""",
        "1.5",
        "2.5",
    ),
    "an object's constant": (
        """
from datetime import date
YEAR = 2024
_USED = date(YEAR, 1, 1)
""",
        "2024",
        "2025",
    ),
    "an object of its own class": (
        """
class _Cleaner:
    def clean(self):
        return 'a'
_USED = _Cleaner()
""",
        "'a'",
        "'b'",
    ),
    "a bound method's class": (
        """
class _Cleaner:
    def clean(self):
        return 'a'
_USED = _Cleaner().clean
""",
        "'a'",
        "'b'",
    ),
    "an argument of its own class": (
        """
import dataclasses
@dataclasses.dataclass
class _Tone:
    name: str
_USED = _Tone('a')
""",
        "'a'",
        "'b'",
    ),
    "what an object was given afterwards": (
        """
import types
_USED = types.SimpleNamespace()
_USED.name = 'a'
""",
        "'a'",
        "'b'",
    ),
    "what an object was called with": (
        """
import collections
_USED = collections.deque()
_USED.append('a')
""",
        "'a'",
        "'b'",
    ),
    "an object made in a block": (
        """
from pathlib import PurePath
if True:
    _USED, OTHER = PurePath('a'), 1
""",
        "'a'",
        "'b'",
    ),
    "an alias of a type": (
        """
from typing import Literal
_USED = Literal['a', 'c']
""",
        "'a'",
        "'b'",
    ),
    "a member of an enumeration": (
        """
import enum
class _USED(enum.Enum):
    ONE = 'a'
""",
        "'a'",
        "'b'",
    ),
    "a method's name in a lambda of a dict": (
        """
_USED = {
    'x': lambda text: text.upper(),
    'y': lambda text: text,
}
""",
        "upper",
        "lower",
    ),
    "a helper of a lambda of a dict": (
        """
def _helper(text):
    return 'a'
_USED = {
    'x': lambda text: _helper(text),
}
""",
        "'a'",
        "'b'",
    ),
    "a variable that encloses a helper": (
        """
def _maker(tone):
    def made(text):
        return text + tone
    return made
_USED = _maker('a')
""",
        "'a'",
        "'b'",
    ),
    "a default that a maker gives": (
        """
def _maker(tone):
    def made(text, tone=tone):
        return text + tone
    return made
_USED = _maker('a')
""",
        "'a'",
        "'b'",
    ),
    "a function behind a decorator that hides it": (
        """
def _loud(function):
    def call(*args):
        return function(*args)
    return call
@_loud
def _USED():
    return 'a'
""",
        "'a'",
        "'b'",
    ),
    "a decorator of a helper": (
        """
import functools
def _loud(function):
    @functools.wraps(function)
    def call(*args):
        return 'a' + function(*args)
    return call
@_loud
def _USED():
    return ''
""",
        "'a'",
        "'b'",
    ),
    "a pattern": (
        """
import re
_USED = re.compile('a')
""",
        "'a'",
        "'b'",
    ),
    "a set's item": (
        "_USED = {'a', 'c', ('d', frozenset({'e', 'f'}))}",
        "'f'",
        "'g'",
    ),
}

KEPT = {
    "formatting of a constant": (
        """
from decimal import Decimal
_USED = Decimal('1')
""",
        "('1')",
        "( '1' )  # one",
    ),
    "another import beside it": (
        """
from string import Template, capwords
_USED = Template('a')
""",
        ", capwords",
        "",
    ),
    "another constant": (
        """
from string import Template
OTHER = Template('b')
_USED = Template('a')
""",
        "'b'",
        "'c'",
    ),
    "how a plain list is written": (
        "_USED = ['a', 'b']",
        "['a', 'b']",
        "['a'] + ['b']",
    ),
    "a comment in a dict of lambdas": (
        """
_USED = {
    'x': lambda text: [one for one in text],
}
""",
        "'x'",
        "# x\n    'x'",
    ),
}


def digest_in(path: str) -> dict[str, str]:
    spec = spec_for(path, OPTIONS)
    facts = build_job(load_job_class(spec.job), {}).facts(spec)
    return {name: text for name, text in facts.items() if isinstance(text, str)}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_anything_that_a_step_uses_is_a_change(edit: str) -> None:
    code, old, new = EDITS[edit]
    before = digest_in(steps(code + OUT))
    assert digest_in(steps(code.replace(old, new) + OUT)) != before
    assert digest_in(steps(code + OUT)) == before


@pytest.mark.parametrize("edit", KEPT)
def test_an_edit_of_nothing_that_a_step_uses_is_none(edit: str) -> None:
    code, old, new = KEPT[edit]
    assert digest_in(steps(code + OUT)) == digest_in(steps(code.replace(old, new) + OUT))


def test_a_step_that_another_function_makes_has_what_it_was_made_with() -> None:
    code = """
    def _maker(tone):
        def made(text: str) -> str:
            return text + tone
        made.__name__ = made.__qualname__ = "out"
        return made

    out = _maker("a")
    """
    assert digest_in(steps(code)) != digest_in(steps(code.replace('"a"', '"b"')))


def test_what_contains_itself_has_a_digest() -> None:
    assert digest_in(steps("_USED = ['a']\n_USED.append(_USED)" + OUT)) != digest_in(steps("_USED = ['a']" + OUT))


def test_all_these_are_the_same_in_each_process() -> None:
    codes = [code.replace("_USED", f"_USED{number}") for number, (code, _, _) in enumerate({**EDITS, **KEPT}.values())]
    uses = ", ".join(f"_USED{number}" for number in range(len(codes)))
    steps("\n".join(codes) + OUT.replace("_USED", uses))
    made = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True,
                env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            ).stdout
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    assert made[0] == made[1] == digest_in("steps.py")
