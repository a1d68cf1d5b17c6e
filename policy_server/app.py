"""openpi's websocket protocol on FastAPI, at any path, with health, readiness and metrics beside it.

A connection: the server sends its metadata, then answers each binary frame with one binary frame. A request that can't
be served is answered with one text frame saying why, and the connection closes with 1011, as openpi does; other
connections do not notice. Text for a stranger never holds a traceback: that goes to the log.

A client that asked for a motion image gets it in a message of its own, after the reply: ``{request_id,
observation_time_ns, motion_image (224, 224, 3) uint8, motion_ms, motion_scale_px, motion_region}``, the
last two in pixels of the exterior camera's picture as it was sent. Nobody gets one unasked.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from policy_server import wire
from policy_server.ask import Picture
from policy_server.errors import RequestError
from policy_server.messages import Request, parse_request
from policy_server.metrics import Metrics, Outcome, Stage
from policy_server.request_log import RequestLog
from policy_server.transport import SharedProbe, SharedReader
from policy_server.worker import InferenceWorker, PictureReady, Served, WorkerState

log = logging.getLogger(__name__)

INTERNAL_ERROR = 1011
CLOSE_REASON = "The request was not served. The reason is in the previous frame."


@dataclass(frozen=True)
class ServerSettings:
    """`send_timeout_s`: a client that takes no reply for so long is dropped. `fixed_seed` is the noise of each request
    that names no other, so that the same observation gives the same actions."""

    api_key: str | None = field(default=None, repr=False)
    max_connections: int = 64
    send_timeout_s: float = 5.0
    fixed_seed: int | None = None


def create_app(
    worker: InferenceWorker,
    settings: ServerSettings,
    *,
    metrics: Metrics,
    on_failure: Callable[[], None],
    request_log: RequestLog | None = None,
) -> FastAPI:
    """The server around a worker, which it starts and stops. `on_failure` is called if the policy can't warm up."""
    service = PolicyService(worker, settings, metrics=metrics, request_log=request_log or RequestLog(None))
    worker.clients = lambda: service.asking
    metrics.waiting.set_function(lambda: worker.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def settled() -> None:
            service.settled.set()
            if worker.state is WorkerState.FAILED:
                on_failure()

        def tell_loop() -> None:
            loop.call_soon_threadsafe(settled)

        worker.start(on_settled=tell_loop)
        try:
            yield
        finally:
            service.close()
            await asyncio.to_thread(worker.stop)

    app = FastAPI(title="Nova π policy server", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> Response:
        return PlainTextResponse("OK\n")

    @app.get("/readyz")
    async def readyz() -> Response:
        ready = worker.state is WorkerState.READY
        return PlainTextResponse(f"{worker.state.name.lower()}\n", status_code=200 if ready else 503)

    @app.get("/metadata")
    async def metadata() -> Response:
        return JSONResponse(service.metadata())

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.websocket("/{path:path}")
    async def policy(websocket: WebSocket, path: str) -> None:
        await service.handle(websocket)

    return app


class PolicyService:
    """What all conversations share."""

    def __init__(
        self, worker: InferenceWorker, settings: ServerSettings, *, metrics: Metrics, request_log: RequestLog
    ) -> None:
        self.settled = asyncio.Event()
        self.worker = worker
        self.settings = settings
        self.metrics = metrics
        self.request_log = request_log
        self.asking = 0
        self._connections = 0
        self._probe = SharedProbe()

    def metadata(self) -> dict[str, Any]:
        """The server's first frame."""
        metadata = dict(self.worker.policy.metadata)
        metadata["contract"] = metadata["contract"] | {"motion_image": self.worker.paints}
        return metadata | {"transport": self._probe.metadata()}

    def close(self) -> None:
        """Leave nothing behind in shared memory."""
        self._probe.close()

    async def handle(self, websocket: WebSocket) -> None:
        """One connection from its handshake to its end."""
        refusal = self._refusal(websocket)
        if refusal is not None:
            await websocket.send_denial_response(refusal)
            return
        self._connections += 1
        self.metrics.connections.inc()
        conversation = Conversation(self, websocket)
        try:
            await websocket.accept()
            await conversation.run()
        except WebSocketDisconnect:
            log.debug("%s is gone", conversation.peer)
        except TimeoutError:
            log.warning("%s takes no replies; dropped", conversation.peer)
        finally:
            conversation.close()
            self._connections -= 1
            self.metrics.connections.dec()

    def _refusal(self, websocket: WebSocket) -> Response | None:
        key = self.settings.api_key
        given = websocket.headers.get("authorization", "")
        if key is not None and not hmac.compare_digest(given.encode(), f"Api-Key {key}".encode()):
            log.warning("%s refused: no valid API key", _peer(websocket))
            return PlainTextResponse("expected the header 'Authorization: Api-Key <key>' with this server's key\n", 401)
        if self._connections >= self.settings.max_connections:
            log.warning("%s refused: %d connections are open", _peer(websocket), self._connections)
            return PlainTextResponse(f"{self._connections} connections are open already\n", 503)
        return None


class Conversation:
    """One client's: a request at a time is in the worker's line, and the next frame is read ahead, by which a client
    that has gone is noticed while it waits."""

    def __init__(self, service: PolicyService, websocket: WebSocket) -> None:
        self.peer = _peer(websocket)
        self._service = service
        self._websocket = websocket
        self._shared = SharedReader()
        self._sending = asyncio.Lock()
        self._next: asyncio.Task[Any] | None = None
        self._sends: set[asyncio.Task[None]] = set()
        self._replied = asyncio.Event()

    def close(self) -> None:
        """Let go of what the conversation holds."""
        for task in (self._next, *self._sends):
            if task is not None:
                task.cancel()
        self._shared.close()

    async def run(self) -> None:
        """Metadata, then a reply to each frame, until the client leaves or a request can't be served."""
        await self._service.settled.wait()
        await self._send(wire.pack(self._service.metadata()))
        metrics = self._service.metrics
        previous_total_ms: float | None = None
        while (frame := await self._frame()) is not None:
            started_ns = time.perf_counter_ns()
            self._service.asking += 1
            try:
                reply, request, served = await self._answer(frame, started_ns, previous_total_ms)
            except RequestError as error:
                await self._refuse(Outcome.REFUSED, str(error))
                return
            except ClientGone:
                self._record(Outcome.ABANDONED)
                return
            except Exception:
                log.exception("%s: request failed", self.peer)
                await self._refuse(Outcome.FAILED, "internal error; the server's log says more")
                return
            finally:
                self._service.asking -= 1
            await self._send(reply)
            self._replied.set()
            total_ns = time.perf_counter_ns() - started_ns
            previous_total_ms = total_ns / 1e6
            metrics.seconds.observe(total_ns / 1e9)
            metrics.batch.observe(served.batch)
            self._record(Outcome.SERVED, **request.echo, total_ms=previous_total_ms, queue_ms=served.queue_ms)

    async def _answer(
        self, data: Any, started_ns: int, previous_total_ms: float | None
    ) -> tuple[bytes, Request, Served]:
        worker, metrics = self._service.worker, self._service.metrics
        if not isinstance(data, bytes):
            raise RequestError("expected a binary frame holding a msgpack map, found a text frame")
        request = parse_request(
            data,
            interface=worker.policy.contract.interface,
            shared=self._shared,
            default_seed=self._service.settings.fixed_seed,
        )
        unpacked_ns = time.perf_counter_ns()
        self._replied = asyncio.Event()
        on_picture = self._picture_sender(request) if request.motion_image and worker.paints else None
        result = worker.submit(request.ask, wait_s=request.deadline_s, client=self, on_picture=on_picture)
        served = await self._await_or_leave(asyncio.wrap_future(result))
        packing_ns = time.perf_counter_ns()
        timing = {"infer_ms": (packing_ns - started_ns) / 1e6}
        if previous_total_ms is not None:
            timing["prev_total_ms"] = previous_total_ms
        reply = wire.pack(served.reply | {"server_timing": timing} | request.echo)
        metrics.took(Stage.UNPACK, (unpacked_ns - started_ns) / 1e9)
        metrics.took(Stage.QUEUE, served.queue_ms / 1e3)
        metrics.took(Stage.INFER, served.infer_ms / 1e3)
        metrics.took(Stage.PACK, (time.perf_counter_ns() - packing_ns) / 1e9)
        return reply, request, served

    async def _frame(self) -> Any:
        """The next frame's content; None once the client has left."""
        task = self._reading()
        self._next = None
        frame = await task
        if frame["type"] == "websocket.disconnect":
            return None
        return frame["text"] if frame.get("bytes") is None else frame["bytes"]

    def _reading(self) -> "asyncio.Task[Any]":
        """One frame is read ahead, and no more: what a client sends beyond that stays in its own buffers."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._websocket.receive())
        return self._next

    async def _await_or_leave(self, result: "asyncio.Future[Served]") -> Served:
        """The result; raises `ClientGone`, and takes the request out of the line, if its client leaves before."""
        reading = self._reading()
        await asyncio.wait({result, reading}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done() and reading.result()["type"] == "websocket.disconnect":
            result.cancel()
            raise ClientGone
        return await result

    def _picture_sender(self, request: Request) -> PictureReady:
        """Sends a picture after the reply to its request, however soon it is painted."""
        loop, replied = asyncio.get_running_loop(), self._replied

        def start(picture: Picture, milliseconds: float) -> None:
            told = {"motion_ms": milliseconds, "motion_scale_px": picture.scale_px, "motion_region": picture.region}
            message = wire.pack({"motion_image": picture.image} | told | request.echo)
            task = loop.create_task(self._send_picture(message, replied))
            self._sends.add(task)
            task.add_done_callback(self._sends.discard)

        def ready(picture: Picture, milliseconds: float) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(start, picture, milliseconds)

        return ready

    async def _send_picture(self, message: bytes, replied: asyncio.Event) -> None:
        await replied.wait()
        with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):  # it has left; its conversation ends by itself
            await self._send(message)
            self._service.metrics.pictures.inc()

    async def _send(self, data: bytes) -> None:
        async with self._sending, asyncio.timeout(self._service.settings.send_timeout_s):
            await self._websocket.send_bytes(data)

    async def _refuse(self, outcome: Outcome, reason: str) -> None:
        self._record(outcome, reason=reason)
        if outcome is Outcome.REFUSED:
            log.warning("%s: request refused: %s", self.peer, reason)
        async with asyncio.timeout(self._service.settings.send_timeout_s):
            with suppress(RuntimeError):  # the peer has closed already
                await self._websocket.send_text(reason)
                await self._websocket.close(INTERNAL_ERROR, CLOSE_REASON)

    def _record(self, outcome: Outcome, **details: Any) -> None:
        self._service.metrics.count(outcome)
        self._service.request_log.write(peer=self.peer, outcome=outcome.value, **details)


class ClientGone(Exception):
    """The client left while its request was waiting."""


def _peer(websocket: WebSocket) -> str:
    return f"{websocket.client.host}:{websocket.client.port}" if websocket.client else "a client"
