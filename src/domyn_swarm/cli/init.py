"""`domyn-swarm init`: create starter files."""

from __future__ import annotations

import importlib.resources
import io
import keyword
import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from domyn_swarm.cli.files import print_json, write_whole
from domyn_swarm.cli.help import App
from domyn_swarm.cli.names import AsJson  # noqa: TC001 - typer evaluates the annotations
from domyn_swarm.errors import ConfigurationError, opt

app = App(help="Create starter files.")

TEXTS = (
    "What is the capital of Italy?",
    "Name three colours of the rainbow.",
    "How many legs has a spider?",
    "Which planet is the largest?",
    "Why is the sky blue?",
)
"""The rows of the sample input."""
IMPORTED = ("EndpointJob", "SwarmJob")
"""Names that the templates import: a job class cannot have them."""


@app.callback()
def group() -> None:
    """Create starter files."""


@app.command("job")
def job(
    path: Annotated[str, typer.Argument(metavar="FILE", help="The Python file to write")] = "my_job.py",
    kind: Annotated[
        Literal["item", "chat", "steps"],
        typer.Option(
            "--kind",
            metavar="item|chat|steps",
            help="item: a function applied to each row; chat: a request to a model for each row; steps: several "
            "functions, each of which makes a column",
        ),
    ] = "item",
    steps: Annotated[bool, typer.Option("--steps", help="The same as --kind steps.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create a small, commented, working job and a sample input, and print the command that runs it."""
    kind = "steps" if steps else kind
    if not re.fullmatch(r'[^"\\\n]*[\w-]\.py', path) or "://" in path:
        raise ConfigurationError(
            f"{path!r} is not the path of a Python file.",
            "Use a path such as my_job.py.",
            code="option.invalid",
            option="FILE",
            path=path,
        )
    sample = path.removesuffix(".py") + ".parquet"
    for file in (path, sample):
        if Path(file).exists() and not overwrite:
            raise ConfigurationError(
                f"{file} exists.",
                f"Give another path, or {opt('overwrite', True)} to replace it.",
                code="output.exists",
                option="FILE",
                path=str(file),
            )
    reference = path if kind == "steps" else f"{path}:{_class_name(path)}"
    output = f"out/{Path(sample).name}"
    write_whole("FILE", path, _filled(kind, reference, sample, output).encode())
    write_whole("FILE", sample, _rows())
    words = ["domyn-swarm", "job", "submit", reference, "--input", sample, "--output", output]
    command = shlex.join([*words, *(["--endpoint", "demo"] if kind != "item" else [])])
    if as_json:
        print_json({"job": path, "sample": sample, "command": command})
    else:
        typer.echo(f"Created {path} (the job) and {sample} ({len(TEXTS)} sample rows). Run it with:\n\n  {command}")


def _class_name(path: str) -> str:
    """`my_job.py` holds `MyJob`."""
    words = re.findall(r"[^\W_]+", Path(path).stem)
    name = "".join(word[0].upper() + word[1:] for word in words)
    return name if name.isidentifier() and not keyword.iskeyword(name) and name not in IMPORTED else "MyJob"


def _filled(kind: str, reference: str, sample: str, output: str) -> str:
    text = importlib.resources.files("domyn_swarm.cli.templates").joinpath(f"{kind}.py").read_text(encoding="utf-8")
    replacements = {
        ("my_job.py" if kind == "steps" else "my_job.py:MyJob"): shlex.quote(reference),
        "out/my_job.parquet": shlex.quote(output),
        "my_job.parquet": shlex.quote(sample),
        "class MyJob": f"class {reference.rpartition(':')[2]}",
    }
    pattern = "|".join(map(re.escape, replacements))
    return re.sub(pattern, lambda match: replacements[match[0]], text)


def _rows() -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - keeps --help light
    import pyarrow.parquet as pq  # noqa: PLC0415

    file = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS}), file)
    return file.getvalue()
