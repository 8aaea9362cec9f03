"""A llama.cpp server with a model of random weights, for tests: `python tiny_llama.py MODEL PORT`.

The model is written to MODEL (a GGUF file, 0.5 MB) if it is not there: two layers, and one token for each byte. What
it says has no sense, but everything around that is the real engine: its parser of requests, chat template, sampler,
grammar, limits and errors. The key is sk-test, each of two slots has 2,048 tokens of context, embeddings have 64
floats. It is ready when GET /health answers 200, and ends with SIGTERM.

Needs the packages xllamacpp and gguf, and nothing of this project.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

NAME = "tiny-random"
KEY = "sk-test"
CONTEXT, SLOTS = 4096, 2  # the slots share the context
SIZE, LAYERS, HEADS, HIDDEN = 64, 2, 4, 128
BEGIN, END, TOKENS = 257, 258, 259


def byte_names() -> list[str]:
    """The 256 bytes as GPT-2 writes them down: what can be seen as itself, the others as characters from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]


def write_model(path: Path) -> None:
    """Write the model to `path`, which holds all of it or does not exist."""
    begun = path.with_suffix(".part")
    writer = gguf.GGUFWriter(begun, "llama")
    writer.add_name(NAME)
    writer.add_file_type(0)  # 32-bit floats
    writer.add_context_length(CONTEXT // SLOTS)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(SIZE // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_tokenizer(writer)
    for name, weights in tensors().items():
        writer.add_tensor(f"{name}.weight", weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    begun.replace(path)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    space = byte_names()[ord(" ")]
    normal, control = 1, 3
    writer.add_vocab_size(TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_names(), f"{space}t", "<|bos|>", "<|eos|>"])
    writer.add_token_types([normal] * BEGIN + [control] * 2)
    writer.add_token_merges([f"{space} t"])  # the engine wants one
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_chat_template(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )


def tensors() -> dict[str, np.ndarray]:
    """The weights by name, the same ones each time."""
    random = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return random.standard_normal(shape) * 0.3

    embedding, output = noise(TOKENS, SIZE), noise(TOKENS, SIZE)
    # A bias to ASCII. With weights of mere noise any byte is as likely as another, so the model would say what is no
    # UTF-8, or end at once. Dimension 0 is therefore the same large number in all that comes in, which makes the first
    # column of `output` a bias for each token: none for what is printable in ASCII, a low one for other bytes and for
    # the end, a lower one still for the begin.
    embedding[:, 0] = 30.0
    output[:, 0] = -4.0
    output[ord(" ") : ord("~") + 1, 0] = 0.0
    output[BEGIN, 0] = -8.0

    found = {"token_embd": embedding, "output": output, "output_norm": np.ones(SIZE)}
    for layer in range(LAYERS):
        parts = {name: noise(SIZE, SIZE) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        parts |= {"attn_norm": np.ones(SIZE), "ffn_norm": np.ones(SIZE)}
        parts |= {"ffn_gate": noise(HIDDEN, SIZE), "ffn_up": noise(HIDDEN, SIZE), "ffn_down": noise(SIZE, HIDDEN)}
        found |= {f"blk.{layer}.{name}": weights for name, weights in parts.items()}
    return found


def serve(path: Path, port: int) -> None:
    """Serve the model on loopback until SIGTERM."""
    asked_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_end.set())
    given = xllamacpp.CommonParams()
    given.model.path = str(path)
    given.model_alias = {NAME}
    given.hostnames = ["127.0.0.1"]
    given.port = port
    given.api_keys = [KEY]
    given.n_ctx = CONTEXT
    given.n_parallel = SLOTS
    given.embedding = True
    given.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    # A kept connection holds a thread of the engine's HTTP server. With few of them, a new one may wait for 5 seconds,
    # until another has been idle for that long.
    given.n_threads_http = 64
    # Several threads would wait for each other after each tiny step, for long where the machine has much else to do.
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
    given.offline = True
    given.warmup = False
    server = xllamacpp.Server(given)
    print(server.listening_address, flush=True)
    asked_to_end.wait()


if __name__ == "__main__":
    model = Path(sys.argv[1])
    if not model.exists():
        write_model(model)
    serve(model, int(sys.argv[2]))
