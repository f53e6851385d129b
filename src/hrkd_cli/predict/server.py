"""``hrkd serve``: an HTTP server around a predictor.

``POST /predict`` answers texts, ``GET /health`` describes the model, ``GET /metrics`` is for Prometheus. The predictor
runs in one thread. Requests that wait for it are answered in one call, up to the batch size.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from hrkd_cli.errors import HrkdError, MissingPackageError, UsageError, one_line
from hrkd_cli.predict.model_spec import AUTO_DOMAIN
from hrkd_cli.predict.predictor import Prediction, Predictor

try:
    import uvicorn
    from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, ProcessCollector, generate_latest
    from prometheus_client.registry import CollectorRegistry
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ModuleNotFoundError:
    raise MissingPackageError("serve", "starlette", "uvicorn", "prometheus-client") from None

_BODY_SECONDS = 10  # a client that sends nothing must not occupy a slot, nor delay the end
_SECONDS = (0.001, 0.0025, *Histogram.DEFAULT_BUCKETS)
_BATCHES = tuple(2**n for n in range(11))


@dataclass(frozen=True, slots=True)
class _Job:
    """The texts of one request, and the future of their predictions."""

    texts: list[str]
    pairs: list[str] | None
    domains: list[str]
    result: asyncio.Future[list[Prediction]]


class Batcher:
    """Runs a predictor in a thread, with the texts of several waiting requests at a time."""

    def __init__(self, predictor: Predictor, batch_size: int, observe: Callable[[int], None]) -> None:
        """``observe`` receives the number of texts of each call."""
        self._predictor, self._batch_size, self._observe = predictor, batch_size, observe
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()

    async def predict(self, texts: list[str], pairs: list[str] | None, domains: list[str]) -> list[Prediction]:
        """Label the texts of a request; raises the errors of ``Predictor.predict``."""
        if not texts:
            return []
        job = _Job(texts, pairs, domains, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        return await job.result

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Answer requests while the application runs."""
        task = asyncio.create_task(self.run())
        yield
        task.cancel()

    async def run(self) -> None:
        """Answer requests until cancelled."""
        while True:
            await self._arrived.wait()
            jobs = [self._waiting.popleft()]
            count = len(jobs[0].texts)
            while self._waiting and count + len(self._waiting[0].texts) <= self._batch_size:
                jobs.append(self._waiting.popleft())
                count += len(jobs[-1].texts)
            if not self._waiting:
                self._arrived.clear()
            self._observe(count)
            await self._answer(jobs)

    async def _answer(self, jobs: Sequence[_Job]) -> None:
        texts, domains = [t for job in jobs for t in job.texts], [d for job in jobs for d in job.domains]
        pairs = [pair for job in jobs for pair in job.pairs or ()] or None
        try:
            predictions = await asyncio.to_thread(
                self._predictor.predict, texts, pairs, domain=domains, batch_size=self._batch_size
            )
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:  # one of them is at fault
                    await self._answer([job])
            elif not jobs[0].result.done():
                jobs[0].result.set_exception(error)
            return
        rest = iter(predictions)
        for job in jobs:
            answer = [next(rest) for _ in job.texts]
            if not job.result.done():  # cancelled while it waited
                job.result.set_result(answer)


def create_app(
    predictor: Predictor, *, model: str, batch_size: int | None, concurrency: int, max_body: int
) -> Starlette:
    """Return the application.

    Args:
        predictor: labels the texts.
        model: its name, for ``/health``.
        batch_size: texts per forward pass and per call; None for the predictor's default.
        concurrency: requests at a time; others get the status 503.
        max_body: bytes of the largest request; larger ones get the status 413.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)  # processor time, memory and open files
    requests = Counter("hrkd_requests", "Requests to /predict by status.", ["status"], registry=registry)
    labeled = Counter("hrkd_texts", "Texts in answered requests.", registry=registry)
    seconds = Histogram("hrkd_request_seconds", "Time to answer a request.", buckets=_SECONDS, registry=registry)
    batches = Histogram("hrkd_batch_texts", "Texts per call of the model.", buckets=_BATCHES, registry=registry)
    in_flight = Gauge("hrkd_requests_in_flight", "Requests that are read, wait or are answered.", registry=registry)
    batcher = Batcher(predictor, batch_size or predictor.batch_size, batches.observe)
    slots = asyncio.Semaphore(concurrency)

    async def answer(request: Request) -> Response:
        if slots.locked():
            problem = f"{concurrency} requests are in progress, the most at a time; try again"
            raise HTTPException(503, problem, {"Retry-After": "1"})
        async with slots:
            with in_flight.track_inprogress(), seconds.time():
                predictions = await batcher.predict(*_parse(await _read_body(request, max_body)))
        labeled.inc(len(predictions))
        return JSONResponse({"predictions": [prediction.to_json() for prediction in predictions]})

    async def predict(request: Request) -> Response:
        status = 500  # of an unexpected error
        try:
            response = await answer(request)
            status = response.status_code
            return response
        except HTTPException as error:
            status = error.status_code
            raise
        except HrkdError as error:
            status = 422 if isinstance(error, UsageError) else 500
            return JSONResponse({"error": one_line(error)}, status)
        finally:
            requests.labels(str(status)).inc()

    def health(_request: Request) -> Response:
        domains = {domain: list(labels) for domain, labels in predictor.spec.all_heads.labels.items()}
        return JSONResponse({"status": "ok", "model": model, "file": predictor.file, "domains": domains})

    def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/predict", predict, methods=["POST"]), Route("/health", health), Route("/metrics", metrics)]
    application = Starlette(routes=routes, lifespan=batcher.lifespan, exception_handlers={HTTPException: _explain})
    application.router.redirect_slashes = False  # a redirect has no JSON
    return application


def _explain(_request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _read_body(request: Request, most: int) -> bytes:
    """Return the body of a request; stop reading one that is too large."""
    if request.url.query:
        raise HTTPException(422, f"the address has ?{request.url.query}; the keys belong in the body")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise HTTPException(413, f"the request is larger than {most} bytes; send fewer texts at a time")
    except TimeoutError:
        raise HTTPException(408, f"the request took longer than {_BODY_SECONDS} seconds to arrive") from None
    except ClientDisconnect:
        raise HTTPException(400, "the request ended too early") from None
    return bytes(body)


def _parse(body: bytes) -> tuple[list[str], list[str] | None, list[str]]:
    """Return the texts, second texts and domains of a request."""
    try:
        content = json.loads(body.decode("utf-8-sig"))  # of bytes, json also reads UTF-16 and UTF-32
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair is valid JSON, but no text
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the request is not JSON in UTF-8: {one_line(error)}") from None
    if not isinstance(content, dict) or content.get("text") is None:
        raise HTTPException(422, 'the request is not an object with the key "text", such as {"text": "it works"}')
    values: dict[str, list[str] | None] = {"text": None, "text_pair": None, "domain": None}
    for key, value in content.items():
        if key not in values:
            raise HTTPException(422, f"unknown key {key!r}; the keys are {', '.join(values)}")
        items = [value] if isinstance(value, str) else value
        if items is not None and not (isinstance(items, list) and all(isinstance(item, str) for item in items)):
            raise HTTPException(422, f"{key}: neither a text nor a list of texts")
        values[key] = items
    texts, pairs, domains = values["text"] or [], values["text_pair"], values["domain"]
    domains = [AUTO_DOMAIN] if domains is None else domains
    domains = domains * len(texts) if len(domains) == 1 else domains
    for key, other in (("text_pair", pairs), ("domain", domains)):
        if other is not None and len(other) != len(texts):
            raise HTTPException(422, f"{key}: not as many ({len(other)}) as texts ({len(texts)}); give one for each")
    return texts, pairs, domains


def serve(
    predictor: Predictor, *, model: str, host: str, port: int, announce: Callable[[str], None], **options: Any
) -> None:
    """Serve until SIGTERM or Ctrl-C, and then answer the requests in progress.

    ``port`` 0 is any free port; ``announce`` receives the address; ``options`` are those of ``create_app``.

    Raises:
        HrkdError: the address is in use or not this machine's, or the predictor cannot answer.
    """
    # Finds a target accuracy that no threshold promises, and makes the first answer as fast as the others.
    text = ["a text"]
    for domain in predictor.domains or (AUTO_DOMAIN,):
        predictor.predict(text, text if predictor.spec.pair else None, domain=domain)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason, _, _ = str(getattr(error, "strerror", None) or error).partition(" (")  # Python repeats the address
        raise HrkdError(f"--port {port}: cannot listen on {host} ({reason}); choose another port or --host") from None
    app = create_app(predictor, model=model, **options)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
    # uvicorn raises SIGTERM again when all is done.
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    with listener:
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{listener.getsockname()[1]}")
        server.run(sockets=[listener])
