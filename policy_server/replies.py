"""What a policy server sends back, checked. Needs no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policy_server.client_errors import PolicyProtocolError
from policy_server.contract import Interface


@dataclass(frozen=True)
class Reply:
    """One action chunk. Times are ``time.monotonic_ns()`` of this machine.

    `actions` is (horizon, action dimension) float64, read-only. `policy_ms` is the model's time, `server_ms` the
    server's whole time for the request (NaN where a server reports none). `motion_image` is (H, W, 3) uint8 or None.
    """

    actions: np.ndarray
    request_id: int
    observation_time_ns: int
    sent_ns: int
    received_ns: int
    policy_ms: float
    server_ms: float
    motion_image: np.ndarray | None

    @property
    def round_trip_ms(self) -> float:
        """From before packing the request until after unpacking the reply."""
        return (self.received_ns - self.sent_ns) / 1e6


@dataclass(frozen=True)
class MotionPicture:
    """What the policy expected to move when it answered a request: (224, 224, 3) uint8 RGB. It comes after the reply.

    `motion_ms` is how long after its actions it was ready, in the server. In pixels of the exterior camera's picture
    as it was sent: `scale_px` is the motion that has full saturation (NaN where the server does not say), and `region`
    (top, left, height, width) what the image shows (None: all).
    """

    image: np.ndarray
    request_id: int
    observation_time_ns: int
    motion_ms: float
    scale_px: float
    region: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Question:
    """What a reply must be an answer to; `interface` None: a stock server, of which nothing is known."""

    uri: str
    request_id: int
    observation_time_ns: int
    sent_ns: int
    interface: Interface | None


def is_motion_picture(answer: Any) -> bool:
    """Whether this is a picture that came by itself, and no reply."""
    return isinstance(answer, dict) and "motion_image" in answer and "actions" not in answer


def parse_motion_picture(answer: Mapping[str, Any], *, uri: str) -> MotionPicture:
    """A motion image's message. Raises `PolicyProtocolError`."""
    numbers = {key: answer.get(key) for key in ("request_id", "observation_time_ns")}
    if not all(isinstance(value, int) for value in numbers.values()):
        raise PolicyProtocolError(f"{uri}: motion image: expected the ids of its request, found {numbers}")
    return MotionPicture(
        image=_picture(answer["motion_image"], uri),
        request_id=int(answer["request_id"]),
        observation_time_ns=int(answer["observation_time_ns"]),
        motion_ms=_number(answer.get("motion_ms")),
        scale_px=_number(answer.get("motion_scale_px")),
        region=_region(answer.get("motion_region"), uri),
    )


def parse_reply(answer: Any, question: Question, *, received_ns: int) -> Reply:
    """The answer to a question. Raises `PolicyProtocolError`."""
    uri = question.uri
    if not isinstance(answer, dict):
        raise PolicyProtocolError(f"{uri}: expected a map as reply, found {type(answer).__name__}")
    asked_with = {"request_id": question.request_id, "observation_time_ns": question.observation_time_ns}
    for key, asked in asked_with.items():
        if answer.get(key, asked) != asked:  # absent from a stock server
            raise PolicyProtocolError(f"{uri}: asked with {key} {asked}, the reply is for {answer[key]!r}")
    image = answer.get("motion_image")
    return Reply(
        actions=_checked_actions(answer.get("actions"), question),
        request_id=question.request_id,
        observation_time_ns=question.observation_time_ns,
        sent_ns=question.sent_ns,
        received_ns=received_ns,
        policy_ms=_milliseconds(answer, "policy_timing"),
        server_ms=_milliseconds(answer, "server_timing"),
        motion_image=None if image is None else _picture(image, uri),
    )


def _picture(image: Any, uri: str) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise PolicyProtocolError(f"{uri}: motion_image: expected (H, W, 3) uint8, found {_described(image)}")
    return image


def _checked_actions(actions: Any, question: Question) -> np.ndarray:
    uri, interface = question.uri, question.interface
    if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind != "f":
        raise PolicyProtocolError(f"{uri}: actions: expected a chunk of floats, found {_described(actions)}")
    if interface is not None and actions.shape != (interface.horizon, len(interface.action_names)):
        expected = (interface.horizon, len(interface.action_names))
        raise PolicyProtocolError(f"{uri}: actions: expected shape {expected}, found {actions.shape}")
    if not np.isfinite(actions).all():
        raise PolicyProtocolError(f"{uri}: actions: expected finite numbers, found NaN or infinity")
    chunk = actions.astype(np.float64)
    chunk.flags.writeable = False
    return chunk


def _milliseconds(answer: Mapping[str, Any], key: str) -> float:
    timing = answer.get(key)
    return _number(timing.get("infer_ms") if isinstance(timing, Mapping) else None)


def _region(value: Any, uri: str) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    numbers = [_number(part) for part in value] if isinstance(value, list) else []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)) or not 0 < min(numbers[2:]) <= max(numbers) <= 1e5:
        raise PolicyProtocolError(f"{uri}: motion image: expected a region of four numbers, found {value!r:.80}")
    top, left, height, width = numbers
    return top, left, height, width


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float | np.floating) else float("nan")


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, dtype {value.dtype}"
    return "nothing" if value is None else type(value).__name__
