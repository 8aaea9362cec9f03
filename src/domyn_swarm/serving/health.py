"""Whether a model server is ready, and later whether it is well: asked over HTTP, past any proxy."""

from __future__ import annotations

import http.client
from dataclasses import dataclass

from domyn_swarm.serving.command import HOST

CHECK_SECONDS = 5.0
"""Between two checks of a server that is ready, and most for its answer."""
HUNG_SECONDS = 60.0
"""Without a good answer, after which a server with a route `/health` is taken for hung."""
BUSY_SECONDS = 300.0
"""The same for one without: its list of models may have to wait for requests in progress."""
HEALTH, MODELS = "/health", "/v1/models"
_KEY_NEEDED = (401, 403)


@dataclass(frozen=True)
class Health:
    """What a server said. `error` is empty if it is well; `has_health` tells whether it has a route `/health`."""

    error: str
    has_health: bool = False


def readiness(port: int, seconds: float = CHECK_SECONDS) -> Health:
    """Whether the server on `port` is ready: neither `/health` nor the list of models is refused for now.

    Some engines list their models while they load them, others have no `/health`.
    """
    health = _status(port, HEALTH, seconds)
    if isinstance(health, str) or health >= 500:
        return Health(_described(HEALTH, health))
    models = _status(port, MODELS, seconds)
    if isinstance(models, str) or models >= 500:
        return Health(_described(MODELS, models))
    if not (_is_good(health) or _is_good(models)):
        return Health(f"{_described(HEALTH, health)}, {_described(MODELS, models)}")
    return Health("", has_health=_is_good(health))


def health(port: int, *, has_health: bool, seconds: float = CHECK_SECONDS) -> str:
    """What is wrong with a server that was ready; nothing if it is well."""
    path = HEALTH if has_health else MODELS
    status = _status(port, path, seconds)
    return _described(path, status) if isinstance(status, str) or status >= 500 else ""


def _is_good(status: int) -> bool:
    return status < 400 or status in _KEY_NEEDED


def _described(path: str, status: int | str) -> str:
    return f"GET {path}: {status if isinstance(status, str) else f'status {status}'}"


def _status(port: int, path: str, seconds: float) -> int | str:
    """The status of the answer, or why there is none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
