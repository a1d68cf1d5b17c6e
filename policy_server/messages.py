"""The keys of a request that are not part of the observation: a stock openpi client sends none of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from policy_server import wire
from policy_server.contract import Interface
from policy_server.errors import RequestError

MAX_ID_CHARACTERS = 128
_EXTRA_KEYS = ("request_id", "observation_time_ns", "action_prefix", "motion_image")


@dataclass(frozen=True)
class Request:
    """One request: the observation under openpi's keys, and ours. `echo` goes back with the reply unchanged.

    `action_prefix` is (n, action dimension) float64 in physical units, n at most the horizon.
    """

    observation: dict[str, Any]
    echo: dict[str, int | str]
    action_prefix: np.ndarray | None
    motion_image: bool


def parse_request(data: bytes, *, interface: Interface) -> Request:
    """A binary frame as a request. Raises `RequestError` saying what is wrong with it."""
    try:
        message = wire.unpack(data)
    except wire.WireError as error:
        raise RequestError(str(error)) from None
    if not isinstance(message, dict):
        raise RequestError(f"expected a map of observation keys, found {type(message).__name__}")
    echo: dict[str, int | str] = {}
    if "request_id" in message:
        echo["request_id"] = _request_id(message["request_id"])
    if "observation_time_ns" in message:
        echo["observation_time_ns"] = _integer(message["observation_time_ns"], "observation_time_ns")
    return Request(
        observation={key: value for key, value in message.items() if key not in _EXTRA_KEYS},
        echo=echo,
        action_prefix=_action_prefix(message.get("action_prefix"), interface),
        motion_image=_flag(message.get("motion_image", False), "motion_image"),
    )


def _request_id(value: Any) -> int | str:
    if isinstance(value, str):
        if len(value) > MAX_ID_CHARACTERS:
            raise RequestError(f"request_id: expected at most {MAX_ID_CHARACTERS} characters, found {len(value)}")
        return value
    return _integer(value, "request_id")


def _integer(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise RequestError(f"{key}: expected an integer, found {type(value).__name__}")
    return int(value)


def _flag(value: Any, key: str) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise RequestError(f"{key}: expected true or false, found {type(value).__name__}")
    return bool(value)


def _action_prefix(value: Any, interface: Interface) -> np.ndarray | None:
    if value is None:
        return None
    width = len(interface.action_names)
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim != 2 or value.shape[1] != width:
        found = f"shape {value.shape}, {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise RequestError(f"action_prefix: expected floats of shape (n, {width}), found {found}")
    if len(value) > interface.horizon:
        raise RequestError(f"action_prefix: expected at most {interface.horizon} actions, found {len(value)}")
    if not np.isfinite(value).all():
        raise RequestError("action_prefix: expected finite numbers, found NaN or infinity")
    return value.astype(np.float64)
