"""Several robots on one server: together where that helps, each with its own answer, none in another's way."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from policy_server.app import ServerSettings
from policy_server.ask import Ask, Picture
from policy_server.client import MotionPicture, PolicyClient, PolicyServerError
from policy_server.metrics import Outcome
from policy_server.pi0.checkpoint import random_policy
from policy_server.pi0.policy import Policy, Sampling
from policy_server.worker import WARM_UP_RUNS, Batching, InferenceWorker

PATIENCE_S = 30.0


class Gated:
    """The policy behind a gate that opens on command; it notes the sizes of the batches."""

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.contract, self.metadata, self.example = inner.contract, inner.metadata, inner.example
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.sizes: list[int] = []

    def infer_batch(self, asks: Any, *, generator: Any) -> Any:
        self.sizes.append(len(asks))
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        return self.inner.infer_batch(asks, generator=generator)


@pytest.fixture
def gated(nano: Policy) -> Gated:
    return Gated(nano)


def started(worker: InferenceWorker) -> InferenceWorker:
    settled = threading.Event()
    worker.start(on_settled=settled.set)
    assert settled.wait(PATIENCE_S)
    return worker


def close_gate(gated: Gated) -> None:
    gated.gate.clear()
    gated.entered.clear()
    gated.sizes.clear()


def test_requests_that_wait_together_are_computed_together(gated: Gated) -> None:
    worker = started(InferenceWorker(gated, batching=Batching(most=3)))
    close_gate(gated)
    first = worker.submit(Ask(gated.example()))
    assert gated.entered.wait(PATIENCE_S)
    others = [worker.submit(Ask(gated.example() | {"prompt": f"go to {n}"}, seed=n)) for n in range(4)]
    gated.gate.set()
    replies = [future.result(PATIENCE_S) for future in (first, *others)]
    worker.stop()
    assert gated.sizes == [1, 3, 1]
    assert [reply.batch for reply in replies] == [1, 3, 3, 3, 1]
    for n, reply in enumerate(replies[1:]):
        alone = gated.inner.infer_batch(
            [Ask(gated.example() | {"prompt": f"go to {n}"}, seed=n)], generator=torch.Generator()
        )[0]
        assert not isinstance(alone, Exception)
        assert np.abs(reply.reply["actions"] - alone.actions).max() <= 1e-5


def test_a_wrong_request_in_a_batch_is_refused_alone(gated: Gated) -> None:
    worker = started(InferenceWorker(gated, batching=Batching(most=4)))
    close_gate(gated)
    first = worker.submit(Ask(gated.example()))
    assert gated.entered.wait(PATIENCE_S)
    good, wrong, last = (worker.submit(Ask(gated.example() | change)) for change in ({}, {"prompt": 5}, {}))
    gated.gate.set()
    assert "actions" in first.result(PATIENCE_S).reply
    assert good.result(PATIENCE_S).batch == last.result(PATIENCE_S).batch == 3
    with pytest.raises(ValueError, match="prompt: expected text"):
        wrong.result(PATIENCE_S)
    worker.stop()


def test_a_lone_client_never_waits_for_company(gated: Gated) -> None:
    worker = started(InferenceWorker(gated, batching=Batching(most=4, wait_s=PATIENCE_S)))
    assert worker.submit(Ask(gated.example())).result(PATIENCE_S / 2).batch == 1
    worker.stop()


def test_a_request_waits_for_the_others_that_are_on_their_way(gated: Gated) -> None:
    worker = started(InferenceWorker(gated, batching=Batching(most=2, wait_s=PATIENCE_S)))
    worker.clients = lambda: 2
    first = worker.submit(Ask(gated.example()))
    second = worker.submit(Ask(gated.example()))
    assert first.result(PATIENCE_S / 2).batch == second.result(PATIENCE_S / 2).batch == 2
    worker.stop()


def test_the_clients_own_deadline_drops_its_request(gated: Gated, run_server: Any) -> None:
    with run_server(gated) as server, PolicyClient(server.uri) as patient, PolicyClient(server.uri) as hasty:
        close_gate(gated)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(patient.infer, gated.example(), observation_time_ns=1, timeout_s=PATIENCE_S)
            assert gated.entered.wait(PATIENCE_S)
            hasty._connection.send = _hurried(hasty._connection.send)  # type: ignore[union-attr,method-assign]
            second = pool.submit(hasty.infer, gated.example(), observation_time_ns=1, timeout_s=PATIENCE_S)
            threading.Event().wait(0.3)
            gated.gate.set()
            assert first.result().actions.shape == (15, 7)
            with pytest.raises(PolicyServerError, match=r"over 0\.1 s, and was dropped"):
                second.result()
        assert gated.sizes == [1]


def _hurried(send: Any) -> Any:
    """The request says 0.1 s, while the client itself waits for the server's last words."""
    from policy_server import wire

    return lambda packed, *, timeout_s: send(
        wire.pack(wire.unpack(packed) | {"deadline_ms": 100.0}), timeout_s=timeout_s
    )


def test_a_client_that_leaves_takes_its_request_out_of_the_line(gated: Gated, run_server: Any, wait_for: Any) -> None:
    with run_server(gated) as server, PolicyClient(server.uri) as patient:
        close_gate(gated)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(patient.infer, gated.example(), observation_time_ns=1, timeout_s=PATIENCE_S)
            assert gated.entered.wait(PATIENCE_S)
            leaving = PolicyClient(server.uri)
            leaving.connect()
            gone = pool.submit(leaving.infer, gated.example(), observation_time_ns=1, timeout_s=PATIENCE_S)
            wait_for(lambda: server.worker.waiting == 1)
            leaving._throw_away()
            wait_for(lambda: server.metrics.requests_with(Outcome.ABANDONED) == 1)
            gated.gate.set()
            first.result()
            assert gone.exception() is not None
        assert gated.sizes == [1]
        assert patient.infer(gated.example(), observation_time_ns=2).actions.shape == (15, 7)


def test_deterministic_serving_repeats_itself_and_heeds_a_seed(nano: Policy, run_server: Any) -> None:
    with run_server(nano, settings=ServerSettings(fixed_seed=3)) as server, PolicyClient(server.uri) as client:
        first, again, other = (
            client.infer(nano.example(), observation_time_ns=1, seed=seed).actions for seed in (None, None, 9)
        )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


class Painter:
    """Paints in two steps, noting where the requests were meanwhile."""

    def __init__(self) -> None:
        self.prefixes: list[Any] = []
        self.between = threading.Event()

    def paint(self, prefix: Any) -> Iterator[Picture | None]:
        self.prefixes.append(prefix)
        yield None
        self.between.set()
        yield None
        yield Picture(
            np.full((224, 224, 3), len(self.prefixes), dtype=np.uint8), scale_px=7.5, region=(1.0, 2.0, 3.0, 4.0)
        )


@pytest.fixture(scope="module")
def lean_nano() -> Policy:
    return random_policy("nano", seed=0, sampling=Sampling(steps=1, lean=True))


def test_a_motion_image_comes_after_its_reply_to_who_asked(lean_nano: Policy, run_server: Any, wait_for: Any) -> None:
    pictures: list[MotionPicture] = []
    with run_server(lean_nano, painter=Painter()) as server:
        with (
            PolicyClient(server.uri, on_motion_picture=pictures.append) as asking,
            PolicyClient(server.uri, on_motion_picture=pictures.append) as silent,
        ):
            assert asking.contract is not None
            assert asking.contract.motion_image
            asked = asking.infer(lean_nano.example(), observation_time_ns=41, motion_image=True)
            silent.infer(lean_nano.example(), observation_time_ns=42)
            assert asked.motion_image is None
            wait_for(lambda: asking.receive_pictures(wait_s=0.1) == 1)
            assert silent.receive_pictures(wait_s=0.1) == 0
            asking.infer(lean_nano.example(), observation_time_ns=43)
    assert [(p.request_id, p.observation_time_ns, p.scale_px) for p in pictures] == [(asked.request_id, 41, 7.5)]
    assert pictures[0].image.shape == (224, 224, 3)


class HastyPainter:
    """Has its picture ready when the reply is not even packed."""

    def paint(self, prefix: Any) -> Iterator[Picture | None]:
        yield Picture(np.zeros((224, 224, 3), dtype=np.uint8), scale_px=7.5, region=(1.0, 2.0, 3.0, 4.0))


def test_a_motion_image_never_overtakes_the_reply(lean_nano: Policy, run_server: Any) -> None:
    pictures: list[MotionPicture] = []
    with run_server(lean_nano, painter=HastyPainter()) as server:
        with PolicyClient(server.uri, on_motion_picture=pictures.append) as client:
            for number in range(1, 11):
                client.infer(lean_nano.example(), observation_time_ns=number, motion_image=True)
                assert len(pictures) == number - 1, "the picture came first"
                assert client.receive_pictures(wait_s=10.0) == 1


def test_a_motion_image_that_comes_during_the_next_request_is_handed_over(
    lean_nano: Policy, run_server: Any, wait_for: Any
) -> None:
    pictures: list[MotionPicture] = []
    with run_server(lean_nano, painter=Painter()) as server:
        with PolicyClient(server.uri, on_motion_picture=pictures.append) as client:
            client.infer(lean_nano.example(), observation_time_ns=1, motion_image=True)
            wait_for(lambda: server.metrics.registry.get_sample_value("policy_motion_images_total") == 1)
            client.infer(lean_nano.example(), observation_time_ns=2)
    assert [picture.observation_time_ns for picture in pictures] == [1]


def test_painting_makes_way_for_requests_and_only_the_newest_picture_is_made(lean_nano: Policy) -> None:
    painter, worker_done = Painter(), threading.Event()
    worker = started(InferenceWorker(lean_nano, painter=painter))
    painter.prefixes.clear()
    painted: list[int] = []

    def done(picture: Picture, milliseconds: float) -> None:
        painted.append(int(picture.image[0, 0, 0]))
        worker_done.set()

    robot = object()
    futures = [
        worker.submit(Ask(lean_nano.example(), keep_prefix=True), client=robot, on_picture=done) for _ in range(3)
    ]
    for future in futures:
        future.result(PATIENCE_S)
    assert worker_done.wait(PATIENCE_S)
    worker.stop()
    assert painted[-1] == max(painted)
    assert len(painted) <= len(futures)


def test_actions_are_the_same_with_and_without_a_motion_image(lean_nano: Policy, run_server: Any) -> None:
    chunks = []
    for asked in (False, True):
        with run_server(lean_nano, painter=Painter()) as server, PolicyClient(server.uri) as client:
            chunks += [
                client.infer(lean_nano.example(), observation_time_ns=n, motion_image=asked).actions for n in range(3)
            ]
    for plain, beside in zip(chunks[:3], chunks[3:], strict=True):
        assert np.array_equal(plain, beside)


def test_a_painter_that_breaks_spoils_no_actions(lean_nano: Policy, run_server: Any) -> None:
    class Broken(Painter):
        def paint(self, prefix: Any) -> Iterator[Picture | None]:
            self.prefixes.append(prefix)
            if len(self.prefixes) > WARM_UP_RUNS:
                raise RuntimeError("no paint")
            yield Picture(np.zeros((4, 4, 3), dtype=np.uint8), scale_px=1.0, region=(0.0, 0.0, 4.0, 4.0))

    with run_server(lean_nano, painter=Broken()) as server, PolicyClient(server.uri) as client:
        for n in range(3):
            assert client.infer(lean_nano.example(), observation_time_ns=n, motion_image=True).actions.shape == (15, 7)
        assert client.receive_pictures(wait_s=0.1) == 0
