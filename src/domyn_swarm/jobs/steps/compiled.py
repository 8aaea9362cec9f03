"""Steps compiled into one coroutine function for a row.

Values stand in a list: the input columns, then fields and models, then the steps in their order. Each step is a call
that takes its arguments from that list; no name is looked up while rows run, and nothing of Hamilton is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any

from domyn_swarm.jobs.steps.parallel import Strands, resumed
from domyn_swarm.jobs.steps.row import MISSING, StepRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from domyn_swarm.jobs.steps.step import Step
    from domyn_swarm.telemetry.counts import StepCounts

_SCALARS = frozenset({str, int, float, bool, NoneType, list})
"""Values that are the one output column's as they are; any other would be unpacked."""


@dataclass(frozen=True, eq=False)
class CompiledStep:
    """A step by places: `at` is its own, `needs` are those of the steps that it uses.

    With `alone` no other coroutine function could run at the same time.
    """

    name: str
    at: int
    call: Callable[[list[Any]], Any]
    is_async: bool
    needs: tuple[int, ...]
    alone: bool


class Compiled:
    """The steps for a row, ready to run.

    `steps` are in an order in which each comes after those that it uses; `inputs` are the columns that make an item;
    `constants` are fields and models by the names of parameters, or by (step, parameter); `outputs` are names of steps.
    Rows in which a step failed are counted in `counts`.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        inputs: Sequence[str],
        constants: Mapping[Any, Any],
        outputs: Sequence[str],
        counts: Mapping[str, StepCounts],
    ) -> None:
        self.counts = counts
        names = [*inputs, *constants, *(step.name for step in steps)]
        places = {name: at for at, name in enumerate(names)}
        self._places = {step.name: places[step.name] for step in steps}
        self._idle: dict[frozenset[str], list[int]] = {}
        self._inputs = tuple(inputs)
        self._template = [*(MISSING for _ in inputs), *constants.values(), *(MISSING for _ in steps)]
        self._first = len(inputs) + len(constants)
        self.steps = [_compiled(step, places, steps) for step in steps]
        self._plan = [(step, step.at, step.call, step.is_async, step.alone) for step in self.steps]  # looked up once
        self._outputs = [places[name] for name in outputs]
        self._output = _one(self._outputs[0]) if len(outputs) == 1 else itemgetter(*self._outputs)

    def row(self, item: Any, known: Mapping[str, Any]) -> StepRow:
        """The row of `item`, of which the values of steps in `known` are not computed, nor what only they need."""
        values = self._template.copy()
        if len(self._inputs) == 1:
            values[0] = item
        else:
            values[: len(self._inputs)] = [item[name] for name in self._inputs]
        if known:
            for at, value in self._settled(known):
                values[at] = value
        return StepRow(self, values)

    def _settled(self, known: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
        """The places of steps that need not run, with their values; None for those that nobody asks for."""
        names = frozenset(known)
        if names not in self._idle:
            self._idle[names] = self._without_use(names)
        yield from ((self._places[name], value) for name, value in known.items())
        yield from ((at, None) for at in self._idle[names])

    def _without_use(self, known: frozenset[str]) -> list[int]:
        """Steps that are no output, and that only steps use which need not run, where those in `known` are given."""
        used, idle = set(self._outputs), []
        for step in reversed(self.steps):
            if step.name in known:
                continue
            if step.at in used:
                used.update(step.needs)
            else:
                idle.append(step.at)
        return idle

    def step_at(self, at: int) -> CompiledStep:
        """The step whose value has that place."""
        return self.steps[at - self._first]

    def kept(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The values of the output columns as far as they are known."""
        return tuple(None if (value := values[at]) is MISSING else value for at in self._outputs)

    async def run(self, row: StepRow) -> Any:
        """The row's output: a tuple of the output columns, or the one column's value.

        Raises:
            Exception: the error of a step. Those that do not depend on it have been run before.
        """
        values = row.values
        if row.errors:
            row.tried_again()
        for step, at, call, is_async, alone in self._plan:
            if values[at] is not MISSING or (row.errors and not row.can_run(step)):
                continue
            try:
                if not is_async:
                    values[at] = call(values)
                elif alone:
                    values[at] = await call(values)
                else:
                    running = call(values)
                    try:
                        waits_for = running.send(None)
                    except StopIteration as done:  # it did not wait for anything
                        values[at] = done.value
                    else:  # now others may run, too
                        await Strands(self.steps, row).run(step, resumed(running, waits_for))
                        break
            except Exception as error:  # noqa: BLE001 - a step's error is its own, whatever it is
                row.failed(step, error)
        if row.errors:
            row.raise_failure()
        return self._output(values)


def _compiled(step: Step, places: Mapping[Any, int], steps: Sequence[Step]) -> CompiledStep:
    made = {one.name for one in steps}
    arguments = [
        (name, at) for name in step.takes if (at := places.get((step.name, name), places.get(name))) is not None
    ]
    needs = tuple(places[name] for name in step.takes if name in made)
    alone = not any(one.is_async and _are_independent(step, one, steps) for one in steps if one is not step)
    return CompiledStep(step.name, places[step.name], _call(step, arguments), step.is_async, needs, alone)


def _call(step: Step, arguments: Sequence[tuple[str, int]]) -> Callable[[list[Any]], Any]:
    """The step's function over the list of values. A modified one takes its arguments by name."""
    function, places = step.call, [at for _, at in arguments]
    if not arguments:
        return lambda _: function()
    if _takes_by_position(step, [name for name, _ in arguments]):
        if len(places) == 1:
            only = places[0]
            return lambda values: function(values[only])
        chosen = itemgetter(*places)
        return lambda values: function(*chosen(values))
    return lambda values: function(**{name: values[at] for name, at in arguments})


def _takes_by_position(step: Step, names: Sequence[str]) -> bool:
    code = getattr(step.call, "__code__", None)
    if code is None or code.co_flags & 0x0C or code.co_posonlyargcount:  # *args, **kwargs
        return False
    return list(code.co_varnames[: code.co_argcount])[: len(names)] == list(names) and not code.co_kwonlyargcount


def _are_independent(one: Step, other: Step, steps: Sequence[Step]) -> bool:
    by_name = {step.name: step for step in steps}
    return other.name not in _upstream(one, by_name) and one.name not in _upstream(other, by_name)


def _upstream(step: Step, steps: Mapping[str, Step]) -> set[str]:
    found: set[str] = set()
    ahead = [name for name in step.takes if name in steps]
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += [one for one in steps[name].takes if one in steps]
    return found


def _one(at: int) -> Callable[[list[Any]], Any]:
    def output(values: list[Any]) -> Any:
        value = values[at]
        return value if type(value) in _SCALARS else (value,)

    return output
