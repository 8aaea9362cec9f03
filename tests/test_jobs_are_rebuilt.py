"""A job is rebuilt anywhere from a name and JSON: its class is found, its fields are checked, nothing is pickled."""

from __future__ import annotations

import importlib
import os
import pickle
import pkgutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import domyn_swarm
from domyn_swarm import JobSpec, SwarmError, SwarmJob, make_spec
from domyn_swarm.anchoring import anchored
from domyn_swarm.errors import ConfigurationError, EndpointError
from domyn_swarm.jobs.loading import build_job, job_fields, load_job_class
from domyn_swarm.option_groups import DEFAULT_JOB
from domyn_swarm.options.resolve import resolve
from tests.conftest import job


@pytest.fixture(autouse=True)
def unloaded() -> Iterator[None]:
    """What a test loads is forgotten after it."""
    modules, path = dict(sys.modules), [*sys.path]
    yield
    sys.path[:] = path
    for name in sys.modules.keys() - modules.keys():
        if name.split(".")[0] not in ("domyn_swarm", "domyn_dags"):
            del sys.modules[name]


def saved(name: str, text: str) -> str:
    """Save a Python file; returns its path."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(textwrap.dedent(text))
    return name


def built(reference: str, **kwargs: Any) -> Any:
    return build_job(load_job_class(reference), kwargs)


# Finding the class


def test_a_class_is_found_by_its_module() -> None:
    assert load_job_class("tests.jobs:Length").__name__ == "Length"
    assert load_job_class(DEFAULT_JOB).__name__ == "ChatCompletionJob"


def test_a_class_is_found_by_its_file() -> None:
    found = load_job_class(job("Length"))
    assert (found.__name__, found.input_columns, found.output_columns) == ("Length", ("text",), ("length",))


def test_a_file_is_executed_once_however_often_its_jobs_are_asked_for() -> None:
    path = saved("once.py", "from domyn_swarm import SwarmJob\nclass A(SwarmJob): ...\nclass B(SwarmJob): ...\n")
    assert load_job_class(f"{path}:A") is load_job_class(f"./{path}:A")
    assert load_job_class(f"{path}:A").__module__ == load_job_class(f"{path}:B").__module__ == "once"


def test_a_file_that_was_edited_is_executed_again() -> None:
    text = "from domyn_swarm import SwarmJob\nclass Edited(SwarmJob):\n    level: int = {}\n"
    path = saved("edited.py", text.format(1))
    assert built(f"{path}:Edited").level == 1
    before = Path(path).stat()
    saved("edited.py", text.format(2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # within the same second
    assert built(f"{path}:Edited").level == 2


def test_files_of_one_name_in_several_folders_are_several_modules() -> None:
    text = "from domyn_swarm import SwarmJob\nclass Here(SwarmJob):\n    where: str = {!r}\n"
    paths = [saved(f"{folder}/same.py", text.format(folder)) for folder in ("one", "two", "three")]
    assert [built(f"{path}:Here").where for path in [*paths, *paths]] == ["one", "two", "three"] * 2


@pytest.mark.parametrize("name", ["json", "colorsys", "domyn_swarm"])
def test_a_file_takes_the_place_of_no_other_module(name: str) -> None:
    path = saved(f"jobs/{name}.py", "from domyn_swarm import SwarmJob\nclass Named(SwarmJob): ...\n")
    assert load_job_class(f"{path}:Named").__module__ == f"domyn_swarm_job_{name}"
    assert "Named" not in vars(importlib.import_module(name))


def test_a_file_name_that_no_module_could_have_is_fine() -> None:
    path = saved("my-first.job.py", "from domyn_swarm import SwarmJob\nclass First(SwarmJob):\n    level: int = 1\n")
    assert built(f"{path}:First", level=2).level == 2


def test_loading_leaves_no_bytecode_beside_the_file() -> None:
    path = saved("clean.py", "from domyn_swarm import SwarmJob\nclass Clean(SwarmJob): ...\n")
    load_job_class(f"{path}:Clean")
    assert [str(path) for path in Path().rglob("*")] == ["clean.py"]


def test_a_file_that_failed_can_be_mended_and_loaded() -> None:
    path = saved("failing.py", "raise RuntimeError('not yet')\n")
    with pytest.raises(ConfigurationError, match="RuntimeError: not yet"):
        load_job_class(f"{path}:Late")
    saved("failing.py", "from domyn_swarm import SwarmJob\nclass Late(SwarmJob): ...\n")
    assert load_job_class(f"{path}:Late").__name__ == "Late"


# Fields from JSON

TYPED = """
    from __future__ import annotations
    from dataclasses import dataclass, field
    from enum import Enum
    from typing import Any, ClassVar, Literal
    from domyn_swarm import SwarmJob

    class Tone(Enum):
        FRIENDLY = "friendly"

    @dataclass
    class Example:
        text: str
        score: float = 1.0

    class Typed(SwarmJob):
        seen: ClassVar[int] = 0
        level: int
        name: str = "nobody"
        ratio: float = 0.5
        words: list[str] = field(default_factory=list)
        examples: list[Example] = field(default_factory=list)
        best: Example | None = None
        weights: dict[str, float] = field(default_factory=dict)
        mode: Literal["fast", "good"] = "fast"
        tone: Tone | None = None
        anything: Any = None
"""


def test_fields_get_their_types_from_json() -> None:
    path = saved("typed.py", TYPED)
    kwargs = msgspec.json.decode("""{
        "level": 3, "ratio": 2, "words": ["a", "b"], "examples": [{"text": "x", "score": 0.5}, {"text": "y"}],
        "best": {"text": "z"}, "weights": {"a": 1}, "mode": "good", "tone": "friendly", "anything": [1, {"b": null}]
    }""")
    made = built(f"{path}:Typed", **kwargs)
    module = sys.modules["typed"]
    assert (made.level, made.name, made.ratio, made.words) == (3, "nobody", 2.0, ["a", "b"])
    assert made.examples == [module.Example("x", 0.5), module.Example("y", 1.0)]
    assert made.best == module.Example("z", 1.0)
    assert (made.weights, made.mode, made.tone) == ({"a": 1.0}, "good", module.Tone.FRIENDLY)
    assert made.anything == [1, {"b": None}]


def test_the_parameters_of_a_job_are_its_fields() -> None:
    assert job_fields(load_job_class(f"{saved('typed.py', TYPED)}:Typed")) == {
        "level", "name", "ratio", "words", "examples", "best", "weights", "mode", "tone", "anything"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"level": "3"}, "Expected `int`, got `str` - at `$.level`"),
        ({"level": 3.5}, "Expected `int`, got `float` - at `$.level`"),
        ({"level": True}, "Expected `int`, got `bool` - at `$.level`"),
        ({"level": None}, "Expected `int`, got `null` - at `$.level`"),
        ({"level": 3, "words": "a b"}, "Expected `array`, got `str` - at `$.words`"),
        ({"level": 3, "words": ["a", 1]}, "Expected `str`, got `int` - at `$.words[1]`"),
        ({"level": 3, "examples": [{"text": "x"}, {"text": 5}]}, "Expected `str`, got `int` - at `$.examples[1].text`"),
        ({"level": 3, "best": {"score": 1}}, "Object missing required field `text` - at `$.best`"),
        ({"level": 3, "mode": "slow"}, "Invalid enum value 'slow' - at `$.mode`"),
        ({"level": 3, "tone": "rude"}, "Invalid enum value 'rude' - at `$.tone`"),
        ({"name": "x"}, "Object missing required field `level`"),
        (
            {"level": 3, "nmae": "x"},
            "Typed has no field 'nmae'.\nDid you mean 'name'? Fields: anything, best, examples",
        ),
        ({"level": 3, "seen": 1}, "Typed has no field 'seen'"),
    ],
    ids=str,
)
def test_what_does_not_fit_a_field_is_refused_with_its_place(wrong: dict[str, Any], says: str) -> None:
    job_class = load_job_class(f"{saved('typed.py', TYPED)}:Typed")
    with pytest.raises(ConfigurationError) as refused:
        build_job(job_class, wrong)
    code = "job.unknown_field" if "has no field" in says else "job.fields"
    assert (refused.value.code, refused.value.option) == (code, "job_kwargs")
    assert says in str(refused.value)


def test_each_job_gets_containers_of_its_own() -> None:
    job_class = load_job_class(f"{saved('typed.py', TYPED)}:Typed")
    one, two = build_job(job_class, {"level": 1}), build_job(job_class, {"level": 1})
    one.words.append("only here")  # type: ignore[attr-defined]
    assert two.words == []  # type: ignore[attr-defined]


def test_a_job_may_check_its_own_fields() -> None:
    path = saved("checked.py", """
        from domyn_swarm import SwarmJob
        class Checked(SwarmJob):
            low: int = 0
            high: int = 9
            def __post_init__(self):
                if self.low > self.high:
                    raise ValueError(f"low {self.low} is above high {self.high}")
    """)  # fmt: skip
    assert built(f"{path}:Checked", high=3).high == 3
    with pytest.raises(ConfigurationError, match="Checked cannot be made: low 5 is above high 3"):
        built(f"{path}:Checked", low=5, high=3)


def test_a_type_that_only_the_type_checker_knows_is_refused() -> None:
    path = saved("hinted.py", """
        from __future__ import annotations
        from typing import TYPE_CHECKING
        from domyn_swarm import SwarmJob
        if TYPE_CHECKING:
            from decimal import Decimal
        class Hinted(SwarmJob):
            price: Decimal | None = None
    """)  # fmt: skip
    with pytest.raises(ConfigurationError, match="Hinted cannot be made: NameError: name 'Decimal' is not defined"):
        built(f"{path}:Hinted")


# Constructors of their own, and inheritance

OWN = """
    from domyn_swarm import SwarmJob

    class Own(SwarmJob):
        def __init__(self, level, *, marks=("!",)):
            self.level, self.marks = level, marks

    class Child(Own):
        pass

    class Any_(SwarmJob):
        def __init__(self, level=1, **rest):
            self.level, self.rest = level, rest
"""


def test_a_constructor_of_its_own_gets_the_values_as_json_gives_them() -> None:
    path = saved("own.py", OWN)
    made = built(f"{path}:Own", level="high", marks=["?", "!"])
    assert (made.level, made.marks) == ("high", ["?", "!"])
    made = built(f"{path}:Child", level=2)
    assert (made.level, made.marks) == (2, ("!",))


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"level": 1, "mark": "?"}, "Own has no field 'mark'.\nDid you mean 'marks'? Fields: level, marks."),
        ({}, "Own cannot be made: TypeError: Own.__init__() missing 1 required positional argument: 'level'"),
    ],
    ids=["unknown", "missing"],
)
def test_a_constructor_of_its_own_refuses_what_it_does_not_take(kwargs: dict[str, Any], says: str) -> None:
    path = saved("own.py", OWN)
    with pytest.raises(ConfigurationError) as refused:
        built(f"{path}:Own", **kwargs)
    assert says in str(refused.value)


def test_a_constructor_that_takes_anything_gets_anything() -> None:
    path = saved("own.py", OWN)
    made = built(f"{path}:Any_", level=2, colour="red")
    assert (made.level, made.rest) == (2, {"colour": "red"})
    assert job_fields(load_job_class(f"{path}:Any_")) == {"level"}


def test_a_job_inherits_fields_columns_and_methods() -> None:
    path = saved("family.py", """
        import abc
        from domyn_swarm import SwarmJob
        class Parent(SwarmJob, abc.ABC):
            input_columns = ("text",)
            defaults = {"max_concurrency": 3}
            mark: str = "!"
            level: int = 1
            @abc.abstractmethod
            def shouted(self, text): ...
            async def transform_item(self, text):
                return self.shouted(text) + self.mark * self.level
        class Child(Parent):
            level: int = 2
            suffix: str = ""
            def shouted(self, text):
                return text.upper() + self.suffix
        class Grandchild(Child):
            output_columns = ("loud",)
    """)  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"Parent is abstract.\nWrite its shouted"):
        load_job_class(f"{path}:Parent")
    found = load_job_class(f"{path}:Grandchild")
    assert (found.input_columns, found.output_columns) == (("text",), ("loud",))
    assert (found.defaults, job_fields(found)) == ({"max_concurrency": 3}, {"mark", "level", "suffix"})
    made: Any = build_job(found, {"suffix": "s", "mark": "?"})
    assert made.shouted("a") + made.mark * made.level == "As??"


def test_jobs_that_come_with_the_package_can_be_extended() -> None:
    path = saved("asking.py", """
        from domyn_swarm.jobs import ChatCompletionJob
        class Asking(ChatCompletionJob):
            language: str = "English"
    """)  # fmt: skip
    made = built(f"{path}:Asking", language="French", system_prompt="Be brief.", request={"temperature": 0})
    assert (made.language, made.system_prompt, made.request) == ("French", "Be brief.", {"temperature": 0})


# Options: flags over job kwargs over the class's defaults


@pytest.mark.parametrize(
    ("flags", "defaults", "fields", "expected"),
    [
        ({}, {}, frozenset(), (2, {})),
        ({}, {"retries": 5}, frozenset(), (5, {})),
        ({"job_kwargs": {"retries": 7}}, {"retries": 5}, frozenset(), (7, {})),
        ({"job_kwargs": {"retries": 7}, "retries": 9}, {"retries": 5}, frozenset(), (9, {})),
        ({"job_kwargs": {"retries": 7}, "retries": None}, {}, frozenset(), (7, {})),
        ({"job_kwargs": {"retries": 7}}, {"retries": 5}, frozenset({"retries"}), (5, {"retries": 7})),
        ({"job_kwargs": {"level": 1, "retries": 7}}, {}, frozenset({"level"}), (7, {"level": 1})),
    ],
    ids=["neither", "class", "kwargs", "flag", "no flag", "field of the job", "both"],
)
def test_options_come_from_flags_then_job_kwargs_then_the_class(
    flags: dict[str, Any], defaults: dict[str, Any], fields: frozenset[str], expected: tuple[int, dict[str, Any]]
) -> None:
    spec = resolve("m:J", {"input": "i.parquet", "output": "o.parquet", **flags}, defaults, fields)
    assert (spec.retries, spec.job_kwargs) == expected


@pytest.mark.parametrize("name", ["retires", "input", "output", "job", "job_kwargs"])
def test_a_class_has_defaults_for_options_alone(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Job 'm:J': its defaults hold '{name}', which is not an option"):
        resolve("m:J", {"input": "i.parquet", "output": "o.parquet"}, {name: "x"}, frozenset())


# JobSpec

EVERYTHING = {
    "job": "jobs.py:Job",
    "job_kwargs": {"level": 3, "words": ["ä", None], "nested": {"a": [1.5, True]}},
    "input": "s3://bucket/in_{000..127}.parquet",
    "output": "out/",
    "input_columns": ["a", "b"],
    "output_columns": ["c"],
    "keep": ["d"],
    "recompute": ["e"],
    "id_column": "key",
    "limit": 10,
    "output_mode": "io_only",
    "overwrite": True,
    "data_backend": "polars",
    "native_backend": True,
    "native_batch_size": 100,
    "batch_size": 7,
    "backend_read_kwargs": {"filters": [["a", ">", 1]]},
    "backend_write_kwargs": {"compression": "snappy"},
    "ray_address": "auto",
    "endpoints": ["http://localhost:8000/v1", "http://localhost:8001/v1"],
    "serve": "vllm serve large --port {port}",
    "serve_replicas": 2,
    "serve_gpus": 4,
    "serve_timeout": 60.0,
    "serve_restarts": 1,
    "model": "large",
    "models": ["judge=small"],
    "api_key_file": "key",
    "api_key_files": ["judge=other"],
    "api_key_header": "api-key",
    "headers": ["User-Agent: me", "X-Team: env:TEAM"],
    "max_concurrency": "auto",
    "max_rpm": 100.0,
    "max_tpm": 1000.0,
    "retries": 0,
    "retry_timeout": 60.0,
    "timeout": 1.5,
    "connect_timeout": 2.0,
    "grace": 10.0,
    "allow_model_change": True,
    "preflight": False,
    "preflight_timeout": 1.0,
    "keep_changed": True,
    "dedupe": True,
    "max_errors": "5%",
    "on_error": "fail",
    "checkpoint_dir": "runs",
    "checkpoint_tag": "mine",
    "checkpoint_interval": 0.5,
    "resume": False,
    "checkpointing": True,
    "trace": False,
    "adapters": ["looks:On"],
}


def test_a_spec_survives_json() -> None:
    assert set(EVERYTHING) == set(JobSpec.__struct_fields__)
    spec = make_spec(EVERYTHING)
    text = msgspec.json.encode(spec)
    assert msgspec.json.decode(text) == EVERYTHING
    assert msgspec.json.decode(text, type=JobSpec) == spec
    assert make_spec(msgspec.json.decode(text)) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_the_shortest_spec_survives_json() -> None:
    spec = make_spec({"input": "in.parquet", "output": "out.parquet"})
    assert make_spec(msgspec.json.decode(msgspec.json.encode(spec))) == spec
    assert spec.job == DEFAULT_JOB


@pytest.mark.parametrize(
    ("output", "options", "run_dir", "errors"),
    [
        ("out.parquet", {}, ".domyn-swarm/out.parquet", "out.errors.parquet"),
        ("a/out.parquet", {}, "a/.domyn-swarm/out.parquet", "a/out.errors.parquet"),
        ("a/out", {}, "a/.domyn-swarm/out", "a/out.errors.parquet"),
        ("a/out/", {}, "a/.domyn-swarm/out", "a/out.errors.parquet"),
        ("/out", {}, "/.domyn-swarm/out", "/out.errors.parquet"),
        ("s3://b/out", {}, "s3://b/.domyn-swarm/out", "s3://b/out.errors.parquet"),
        ("out", {"checkpoint_tag": "x"}, ".domyn-swarm/x", "out.errors.parquet"),
        ("a/out", {"checkpoint_dir": "runs/"}, "runs/out", "a/out.errors.parquet"),
        ("out", {"checkpoint_dir": "s3://b/runs"}, "s3://b/runs/out", "out.errors.parquet"),
    ],
)
def test_a_spec_knows_where_its_run_lives(output: str, options: dict[str, Any], run_dir: str, errors: str) -> None:
    spec = make_spec({"input": "in.parquet", "output": output, **options})
    assert (spec.run_dir, spec.errors_path) == (run_dir, errors)


# Errors


def error_classes(of: type[SwarmError] = SwarmError) -> list[type[SwarmError]]:
    """SwarmError and all below it, wherever in the package they are defined."""
    for module in pkgutil.walk_packages(domyn_swarm.__path__, "domyn_swarm."):
        importlib.import_module(module.name)
    found = [of]
    for kind in found:
        found.extend(kind.__subclasses__())
    return list(dict.fromkeys(found))


def test_every_error_survives_pickling() -> None:
    for kind in error_classes():
        error = kind("It broke.", "Fix it.")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (again.message, again.hint, str(again)) == ("It broke.", "Fix it.", "It broke.\nFix it.")
        assert again.exit_status == kind.exit_status
        assert vars(again) == vars(error)


def test_an_endpoint_error_keeps_what_the_endpoint_said() -> None:
    again = pickle.loads(pickle.dumps(EndpointError("No.", "Wait.", status=429, retryable=True, retry_after=1.5)))
    assert (again.status, again.retryable, again.retry_after) == (429, True, 1.5)
    again = pickle.loads(pickle.dumps(EndpointError("No.", status=400, retryable=False)))
    assert (str(again), again.status, again.retryable, again.retry_after) == ("No.", 400, False, None)


def test_a_job_is_no_dataclass_twice() -> None:
    path = saved("decorated.py", """
        from dataclasses import dataclass
        from domyn_swarm import SwarmJob
        @dataclass
        class Decorated(SwarmJob):
            level: int = 1
    """)  # fmt: skip
    assert built(f"{path}:Decorated", level=2).level == 2
    assert issubclass(load_job_class(f"{path}:Decorated"), SwarmJob)


def test_an_anchored_spec_means_the_same_in_another_folder(folder: Path) -> None:
    options = {"job": "jobs/a.py:Job", "input": "in_*.parquet", "output": "out/", "checkpoint_dir": "/runs"}
    spec = anchored(make_spec(options))
    assert spec.job == f"{folder}/jobs/a.py:Job"
    assert spec.input == f"{folder}/in_*.parquet"
    assert spec.output == f"{folder}/out/"
    assert spec.checkpoint_dir == "/runs"
    assert anchored(spec) == spec


def test_anchoring_leaves_urls_and_modules_alone() -> None:
    spec = make_spec({"job": "package.jobs:Job", "input": "s3://bucket/in", "output": "s3://bucket/out.parquet"})
    assert anchored(spec) == spec
