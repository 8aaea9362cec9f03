"""The options of a run in groups. `JobSpec` has them all: each class adds its own to those of the one before.

Each field carries its type, its bounds, its default, its flags and its help text. (Structs of msgspec have one base.)
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from domyn_swarm.declared import CHECKPOINTS, ENGINE, IO, LIMITS, MODEL, PLACEMENT, REQUESTS, SERVERS

DEFAULT_JOB = "domyn_swarm.jobs:ChatCompletionJob"

Positive = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e9, title="SECONDS")]  # what clocks and locks take
Grace = Annotated[float, msgspec.Meta(ge=0, le=1e9, title="SECONDS")]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e300)]
Named = Annotated[str, msgspec.Meta(pattern=r"^[^\W\d]\w*=.")]
ErrorBudget = Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+)?%$|^\d+$")]


class DataOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is computed for which rows, where the outputs go, and which engine reads and writes."""

    job: Annotated[
        str, IO.option(help="module:Class or path/to/file.py:Class; a module or file alone is a job of steps")
    ] = DEFAULT_JOB
    job_kwargs: Annotated[
        dict[str, Any],
        MODEL.option("--job-kwargs", help="JSON object: the job's fields, or options that flags override"),
    ] = {}
    input: Annotated[
        str,
        IO.option(
            "--input",
            "-i",
            metavar="PATH",
            help="Parquet file, directory, glob, brace range (in_{000..127}.parquet) or URL",
        ),
    ]
    output: Annotated[
        str,
        IO.option("--output", "-o", metavar="PATH", help="Parquet file, or a directory (no suffix, or a trailing /)"),
    ]
    input_columns: Annotated[
        list[str],
        IO.option("--input-column", metavar="COLUMN", help="Input column passed to the job; repeat for several"),
    ] = []
    output_columns: Annotated[
        list[str], IO.option("--output-column", metavar="COLUMN", help="Name of an output column; repeat for several")
    ] = []
    keep: Annotated[
        list[str],
        IO.option(
            "--keep", metavar="STEP", help="Step that is kept in the output beside the others; repeat for several"
        ),
    ] = []
    id_column: Annotated[
        str | None,
        IO.option(
            "--id-column", metavar="COLUMN", help="Column that identifies a row: not null, unique (default: a counter)"
        ),
    ] = None
    limit: Annotated[Positive | None, IO.option("--limit", help="Process only the first N rows of the input")] = None
    output_mode: Annotated[
        Literal["append", "replace", "io_only"],
        IO.option(
            "--output-mode",
            help="append: all input columns + outputs; replace: id + outputs; io_only: id + inputs + outputs",
        ),
    ] = "append"
    overwrite: Annotated[
        bool, IO.option("--overwrite/--no-overwrite", help="Replace an existing output that this run did not write")
    ] = False

    data_backend: Annotated[
        str, ENGINE.option("--data-backend", metavar="NAME", help="Engine that reads the input and writes the output")
    ] = "pandas"
    native_backend: Annotated[
        bool,
        ENGINE.option(
            "--native-backend/--no-native-backend", help="Pass the engine's own frames to transform_items_native"
        ),
    ] = False
    native_batch_size: Annotated[
        Positive, ENGINE.option("--native-batch-size", help="Maximum rows per native batch")
    ] = 8192
    batch_size: Annotated[Positive, ENGINE.option("--batch-size", help="Maximum rows per call of transform_items")] = 64
    backend_read_kwargs: Annotated[
        dict[str, Any], ENGINE.option("--backend-read-kwargs", help="JSON object for the engine's reader")
    ] = {}
    backend_write_kwargs: Annotated[
        dict[str, Any], ENGINE.option("--backend-write-kwargs", help="JSON object for the engine's parquet writer")
    ] = {}

    ray_address: Annotated[
        str | None,
        PLACEMENT.option(
            "--ray-address",
            metavar="ADDRESS",
            help="Ray cluster: auto, host:6379 or ray://host:10001, or $RAY_ADDRESS; with --run-on ray the URL of its "
            "dashboard, http://host:8265 (default: local)",
        ),
    ] = None


class ModelOptions(DataOptions, frozen=True, kw_only=True):
    """Which models answer, on which servers."""

    endpoints: Annotated[
        list[str],
        MODEL.option(
            "--endpoint",
            metavar="URL",
            help="URL of an OpenAI-compatible server, or $ENDPOINT; repeat for several servers with the same model; "
            "`demo` starts the bundled one; NAME=URL serves the model NAME of a job of steps",
        ),
    ] = []
    serve: Annotated[
        str | None,
        SERVERS.option(
            "--serve",
            help="Command of a model server that lives as long as the run, with {port} where its port belongs; or "
            "vllm:MODEL, sglang:MODEL, llama.cpp:PATH, followed by options of the engine",
            takes="COMMAND",
        ),
    ] = None
    serve_replicas: Annotated[
        Positive | None,
        SERVERS.option("--serve-replicas", help="Number of servers (default: the GPUs by --serve-gpus, else 1)"),
    ] = None
    serve_gpus: Annotated[
        Count | None,
        SERVERS.option("--serve-gpus", help="GPUs of a server (default: 1, or with --serve-replicas an equal share)"),
    ] = None
    serve_timeout: Annotated[Seconds, SERVERS.option("--serve-timeout", help="Seconds for it to become ready")] = 1800.0
    serve_restarts: Annotated[
        Count, SERVERS.option("--serve-restarts", help="Restarts of each server within an hour, before it stays down")
    ] = 5
    api_key_file: Annotated[
        str | None,
        MODEL.option(
            "--api-key-file",
            metavar="FILE",
            help="File that contains the API key, or NAME=PATH for the model NAME of a job of steps (default: "
            "$DOMYN_SWARM_API_KEY or $OPENAI_API_KEY)",
            named="api_key_files",
        ),
    ] = None
    api_key_files: Annotated[
        list[Named],
        MODEL.option("--api-key-file", help="The key files of models of a job of steps", takes="a list of NAME=PATH"),
    ] = []
    api_key_header: Annotated[
        str | None,
        MODEL.option("--api-key-header", metavar="NAME", help="Header that contains the key (default: Authorization)"),
    ] = None
    headers: Annotated[
        list[str],
        MODEL.option("--header", metavar="'NAME: VALUE'", help="Header of each request; VALUE may be env:VARIABLE"),
    ] = []
    model: Annotated[
        str | None,
        MODEL.option(
            "--model",
            metavar="NAME",
            help="Model name, or NAME=MODEL for the model NAME of a job of steps (default: the first that the endpoint "
            "lists)",
            named="models",
        ),
    ] = None
    models: Annotated[
        list[Named], MODEL.option("--model", help="The models of a job of steps by name", takes="a list of NAME=MODEL")
    ] = []
    allow_model_change: Annotated[
        bool,
        CHECKPOINTS.option(
            "--allow-model-change/--no-allow-model-change",
            help="Resume even if finished rows were made by another model or another revision of it",
        ),
    ] = False
    preflight: Annotated[
        bool,
        REQUESTS.option("--preflight/--no-preflight", help="Query the endpoints' model lists before the run"),
    ] = True
    preflight_timeout: Annotated[
        Seconds,
        REQUESTS.option("--preflight-timeout", help="Seconds to wait for an endpoint's model list before the run"),
    ] = 5.0


class LimitOptions(ModelOptions, frozen=True, kw_only=True):
    """How many requests at once, how often they are retried, and what ends the run."""

    max_concurrency: Annotated[
        Positive | Literal["auto"] | None,
        LIMITS.option(
            "--max-concurrency",
            help="Maximum concurrent calls, or `auto` to find the limit that the server sustains "
            "(default: 32 for async methods, else one per core)",
            takes="N|auto",
        ),
    ] = None
    max_rpm: Annotated[Rate | None, LIMITS.option("--max-rpm", help="Maximum requests per minute")] = None
    max_tpm: Annotated[
        Rate | None, LIMITS.option("--max-tpm", help="Maximum tokens per minute, prompt and completion together")
    ] = None
    retries: Annotated[
        Count,
        LIMITS.option("--retries", help="Retries per failed call; jobs that call an endpoint have 5 for each request"),
    ] = 2
    retry_timeout: Annotated[
        Seconds, LIMITS.option("--retry-timeout", help="Seconds for which a failed request is retried, waits included")
    ] = 600.0
    timeout: Annotated[
        Seconds | None,
        REQUESTS.option("--timeout", help="Seconds for one call or one request (default: none; 600 for requests)"),
    ] = None
    connect_timeout: Annotated[
        Seconds, REQUESTS.option("--connect-timeout", help="Seconds to connect to an endpoint")
    ] = 10.0
    grace: Annotated[
        Grace,
        LIMITS.option(
            "--grace",
            help="Seconds for calls in flight to finish when the run has to stop (Ctrl-C, SIGTERM, an error); 30 for "
            "jobs that call an endpoint",
        ),
    ] = 5.0
    dedupe: Annotated[bool, REQUESTS.option("--dedupe/--no-dedupe", help="Deduplicate identical requests")] = False
    on_error: Annotated[
        Literal["record", "fail"],
        LIMITS.option("--on-error", help="record: store failed rows and continue; fail: stop at the first one"),
    ] = "record"
    max_errors: Annotated[
        ErrorBudget | None,
        LIMITS.option(
            "--max-errors",
            help="Stop when more than N rows, or more than N% of the finished rows, have failed",
            takes="N|N%",
        ),
    ] = None


class CheckpointOptions(LimitOptions, frozen=True, kw_only=True):
    """Where checkpoints are, how often they are written, what a run resumes from, and what it records."""

    checkpoint_dir: Annotated[
        str | None,
        CHECKPOINTS.option(
            "--checkpoint-dir", metavar="DIR", help="Folder for runs (default: .domyn-swarm next to the output)"
        ),
    ] = None
    checkpoint_tag: Annotated[
        str | None,
        CHECKPOINTS.option(
            "--checkpoint-tag", metavar="NAME", help="Name of the run's folder (default: the output's name)"
        ),
    ] = None
    checkpoint_interval: Annotated[
        Seconds | None,
        CHECKPOINTS.option(
            "--checkpoint-interval",
            help="Maximum seconds of finished work that a crash may lose (default: 1; 10 on object stores)",
        ),
    ] = None
    resume: Annotated[
        bool, CHECKPOINTS.option("--resume/--no-resume", help="Resume from the checkpoint in the run's folder")
    ] = True
    recompute: Annotated[
        list[str],
        CHECKPOINTS.option("--recompute", metavar="STEP", help="Step to compute anew for all rows; repeat for several"),
    ] = []
    keep_changed: Annotated[
        bool,
        CHECKPOINTS.option(
            "--keep-changed/--no-keep-changed",
            help="Keep the output of a row whose inputs changed under the same id; by default it is computed again",
        ),
    ] = False
    checkpointing: Annotated[
        bool,
        CHECKPOINTS.option("--checkpointing/--no-checkpointing", help="Write checkpoints so that the run can resume"),
    ] = True

    trace: Annotated[
        bool,
        REQUESTS.option("--trace/--no-trace", help="Store each row's requests, attempts and responses for `job row`"),
    ] = True

    adapters: Annotated[
        list[str],
        ENGINE.option(
            "--adapter",
            metavar="MODULE:FACTORY",
            help="Hamilton lifecycle adapter, as module:factory; repeat for several",
        ),
    ] = []
