"""What is counted of answers: how many, their tokens, how long they took, and which models gave them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domyn_swarm.endpoint.replica import Replica
    from domyn_swarm.telemetry.counts import Counts

MOST_MODELS, MODEL_CHARS = 100, 200
"""What is kept of the models that answers name."""

logger = logging.getLogger("domyn_swarm")


def count_answer(
    counts: Counts, replica: Replica, answer: dict[str, Any], seconds: float, *, own_model: bool
) -> int | None:
    """Add an answer of `replica` to `counts`; the tokens that it says it used, None when it does not say.

    `own_model`: the request named a model that others do not.
    """
    counts.answers += 1
    _count_model(counts, replica, answer, own_model=own_model)
    counts.latencies.record(seconds)
    tokens_in, tokens_out = usage_of(answer, "prompt_tokens"), usage_of(answer, "completion_tokens")
    if tokens_in is None and tokens_out is None:
        return None
    tokens_in, tokens_out = tokens_in or 0, tokens_out or 0
    counts.tokens_in += tokens_in
    counts.tokens_out += tokens_out
    return tokens_in + tokens_out


def _count_model(counts: Counts, replica: Replica, answer: dict[str, Any], *, own_model: bool) -> None:
    """Count which model says that it has answered: a server may change it during a run."""
    named = answer.get("model"), answer.get("system_fingerprint")
    if named == replica.named:  # as nearly always
        counts.answered_by[replica.model or ""] += 1
        return
    name = model_in(answer)
    if name not in counts.answered_by and len(counts.answered_by) >= MOST_MODELS:
        name = "others"
    counts.answered_by[name] += 1
    if own_model:
        return
    replica.named = named
    if replica.model not in (None, name):
        counts.model_changes += 1
        if counts.model_changes == 1:
            logger.warning(
                "%s: answers come from %s, and came from %s before", replica.client.base_url, name, replica.model
            )
    replica.model = name


def model_in(answer: dict[str, Any]) -> str:
    """The model that an answer names, and the fingerprint of what runs it: `gpt-4o-2024-08-06 fp_a1b2`."""
    model, fingerprint = answer.get("model"), answer.get("system_fingerprint")
    return " ".join([one for one in (model, fingerprint) if isinstance(one, str)])[:MODEL_CHARS]


def usage_of(answer: dict[str, Any], name: str) -> int | None:
    """A number of tokens (`prompt_tokens`) in the answer's `usage`; None when it does not say."""
    usage = answer.get("usage")
    used = usage.get(name) if isinstance(usage, dict) else None
    return used if isinstance(used, int) else None
