"""openpi's websocket protocol on FastAPI, at any path, with health, readiness and metrics beside it.

A connection: the server sends its metadata, then answers each binary frame with one binary frame. A request that can't
be served is answered with one text frame saying why, and the connection closes with 1011, as openpi does; other
connections do not notice. Text for a stranger never holds a traceback: that goes to the log.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from fastapi import FastAPI, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from policy_server import wire
from policy_server.errors import RequestError
from policy_server.messages import parse_request
from policy_server.metrics import Metrics, Outcome
from policy_server.worker import InferenceWorker, WorkerState

log = logging.getLogger(__name__)

INTERNAL_ERROR = 1011
CLOSE_REASON = "The request was not served. The reason is in the previous frame."


@dataclass(frozen=True)
class ServerSettings:
    """`send_timeout_s`: a client that takes no reply for so long is dropped."""

    api_key: str | None = field(default=None, repr=False)
    max_connections: int = 64
    send_timeout_s: float = 5.0


def create_app(
    worker: InferenceWorker, settings: ServerSettings, *, metrics: Metrics, on_failure: Callable[[], None]
) -> FastAPI:
    """The server around a worker, which it starts and stops. `on_failure` is called if the policy can't warm up."""
    service = PolicyService(worker, settings, metrics=metrics)

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
        return JSONResponse(worker.policy.metadata)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.websocket("/{path:path}")
    async def policy(websocket: WebSocket, path: str) -> None:
        await service.handle(websocket)

    return app


class PolicyService:
    """The conversation with each client."""

    def __init__(self, worker: InferenceWorker, settings: ServerSettings, *, metrics: Metrics) -> None:
        self.settled = asyncio.Event()
        self._worker = worker
        self._settings = settings
        self._metrics = metrics
        self._connections = 0

    async def handle(self, websocket: WebSocket) -> None:
        """One connection from its handshake to its end."""
        refusal = self._refusal(websocket)
        if refusal is not None:
            await websocket.send_denial_response(refusal)
            return
        self._connections += 1
        self._metrics.connections.inc()
        try:
            await websocket.accept()
            await self._converse(websocket)
        except WebSocketDisconnect:
            log.debug("%s is gone", _peer(websocket))
        except TimeoutError:
            log.warning("%s takes no replies; dropped", _peer(websocket))
        finally:
            self._connections -= 1
            self._metrics.connections.dec()

    def _refusal(self, websocket: WebSocket) -> Response | None:
        key = self._settings.api_key
        given = websocket.headers.get("authorization", "")
        if key is not None and not hmac.compare_digest(given.encode(), f"Api-Key {key}".encode()):
            log.warning("%s refused: no valid API key", _peer(websocket))
            return PlainTextResponse("expected the header 'Authorization: Api-Key <key>' with this server's key\n", 401)
        if self._connections >= self._settings.max_connections:
            log.warning("%s refused: %d connections are open", _peer(websocket), self._connections)
            return PlainTextResponse(f"{self._connections} connections are open already\n", 503)
        return None

    async def _converse(self, websocket: WebSocket) -> None:
        await self.settled.wait()
        await self._send(websocket, wire.pack(self._worker.policy.metadata))
        previous_total_ms: float | None = None
        while True:
            frame = await websocket.receive()
            if frame["type"] == "websocket.disconnect":
                return
            started_ns = time.perf_counter_ns()
            try:
                reply = await self._answer(frame.get("bytes"), started_ns, previous_total_ms)
            except RequestError as error:
                self._metrics.count(Outcome.REFUSED)
                log.warning("%s: request refused: %s", _peer(websocket), error)
                await self._refuse(websocket, str(error))
                return
            except Exception:
                self._metrics.count(Outcome.FAILED)
                log.exception("%s: request failed", _peer(websocket))
                await self._refuse(websocket, "internal error; the server's log says more")
                return
            await self._send(websocket, reply)
            total_ns = time.perf_counter_ns() - started_ns
            previous_total_ms = total_ns / 1e6
            self._metrics.count(Outcome.SERVED)
            self._metrics.seconds.observe(total_ns / 1e9)

    async def _answer(self, data: bytes | None, started_ns: int, previous_total_ms: float | None) -> bytes:
        if data is None:
            raise RequestError("expected a binary frame holding a msgpack map, found a text frame")
        request = parse_request(data, interface=self._worker.policy.contract.interface)
        reply = await asyncio.wrap_future(self._worker.submit(request.observation))
        timing = {"infer_ms": (time.perf_counter_ns() - started_ns) / 1e6}
        if previous_total_ms is not None:
            timing["prev_total_ms"] = previous_total_ms
        return wire.pack(reply | {"server_timing": timing} | request.echo)

    async def _send(self, websocket: WebSocket, data: bytes) -> None:
        await asyncio.wait_for(websocket.send_bytes(data), self._settings.send_timeout_s)

    async def _refuse(self, websocket: WebSocket, reason: str) -> None:
        async with asyncio.timeout(self._settings.send_timeout_s):
            with suppress(RuntimeError):  # the peer has closed already
                await websocket.send_text(reason)
                await websocket.close(INTERNAL_ERROR, CLOSE_REASON)


def _peer(websocket: WebSocket) -> str:
    return f"{websocket.client.host}:{websocket.client.port}" if websocket.client else "a client"
