"""The sidecar's HTTP API: one FastAPI app over one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from sendguard.async_guard import AsyncSendGuard
from sendguard.models import Line
from sendguard.request import Request as Question
from sendguard.sidecar import problems
from sendguard.sidecar.gate import OPEN_PATHS, WEBHOOK_PATH, Gate
from sendguard.sidecar.models import (
    ChooseRequest,
    DecisionBody,
    LineBody,
    LinesBody,
    PauseRequest,
    Problem,
    ReportRequest,
)
from sendguard.sidecar.page import router as page_router
from sendguard.sidecar.page.feed import Feed
from sendguard.sidecar.service import Service
from sendguard.sidecar.settings import Settings

_WHEN = {
    400: "The body cannot be read.",
    401: "No good bearer token, or for a webhook no good signature.",
    403: "A browser sends it for another site; or, where no token is asked for, the Host is a name but localhost.",
    404: "The pool has no such line.",
    409: "The send may not go, and waiting does not help.",
    413: "The body is too large.",
    422: "A field is not valid; `errors` names it.",
    429: "The send may not go yet; `Retry-After`, and `retry_after` exactly, say when.",
    503: "The store is out of reach, or for /readyz whatever `detail` says.",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _WHEN[status], "content": {problems.MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


_BODY = (400, 401, 403, 413, 422, 503)
_LINE = (401, 403, 404, 422, 503)
router = APIRouter()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _json(body: DecisionBody | LineBody | LinesBody) -> Response:
    """A body that is a model already, without FastAPI's second validation of it."""
    return Response(body.model_dump_json(), media_type="application/json")


async def _as_it_stands(line: Awaitable[Line]) -> Response:
    with problems.naming_the_field():
        known = await line
    return _json(LineBody.of(known))


async def _left(request: Request) -> None:
    """Return when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.post("/v1/choose-from-number", response_model=DecisionBody, responses=_problems(*_BODY, 409, 429))
async def choose_from_number(body: ChooseRequest, request: Request) -> Response:
    """Decide one send, and take what it costs if it may go."""
    with problems.naming_the_field():
        question = Question.of(body.to, body.kind, body.from_number, body.exclude, body.line_type, body.idempotency_key)
    decision = await _service(request).choose(question, body.max_wait, lambda: _left(request))
    if decision is None:
        return Response(status_code=204)  # nobody is there to read it
    return _json(DecisionBody.model_validate(decision)) if decision.allowed else problems.denied(decision)


@router.post("/v1/report", status_code=204, responses=_problems(*_BODY, 404))
async def report(body: ReportRequest, request: Request) -> Response:
    """Tell what became of a decided send. Reporting it again changes nothing of what it took."""
    with problems.naming_the_field():
        await _service(request).report(body.decision(), body.result())
    return Response(status_code=204)


@router.post(
    WEBHOOK_PATH,
    response_class=PlainTextResponse,
    responses=_problems(400, 401, 413, 503),
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}},
)
async def webhook(request: Request) -> Response:
    """Take one delivery of Linq's webhooks, authenticated by its signature alone."""
    service = _service(request)
    try:
        body = await request.body()
    except HTTPException:  # of the gate's, which reads no more of a body that is too large
        service.guard._flows.webhook_refused("too_large")
        raise
    answer = await service.webhook(body, request.headers.items())
    return PlainTextResponse(answer.text) if answer.status == 200 else problems.problem(*answer)


@router.get("/v1/lines", response_model=LinesBody, responses=_problems(401, 403, 503))
async def lines(request: Request) -> Response:
    """Every line of the pool as it stands, by number."""
    return _json(LinesBody(lines=[LineBody.of(line) for line in await _service(request).guard.lines()]))


@router.get("/v1/lines/{number}", response_model=LineBody, responses=_problems(*_LINE))
async def line(number: str, request: Request) -> Response:
    """One line as it stands."""
    return await _as_it_stands(_service(request).line(number))


@router.post("/v1/lines/{number}/pause", response_model=LineBody, responses=_problems(*_LINE, 400, 413))
async def pause(number: str, request: Request, body: PauseRequest | None = None) -> Response:
    """Stop every send on a line until it is resumed, or until the time that the body says."""
    until = None if body is None else body.until
    return await _as_it_stands(_service(request).guard.pause(number, until=until))


@router.post("/v1/lines/{number}/resume", response_model=LineBody, responses=_problems(*_LINE))
async def resume(number: str, request: Request) -> Response:
    """End a line's pause, and its cooling down. It does not clear FLAGGED."""
    return await _as_it_stands(_service(request).guard.resume(number))


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> Response:
    """Whether the process is up."""
    return PlainTextResponse("ok")


@router.get("/readyz", response_class=PlainTextResponse, responses=_problems(503))
async def readyz(request: Request) -> Response:
    """Whether it can decide: the store in reach, a line known, and the last poll not long ago if it polls."""
    missing = await _service(request).not_ready()
    return PlainTextResponse("ok") if missing is None else problems.problem(503, missing)


@router.get("/metrics", response_class=PlainTextResponse, responses=_problems(401, 403))
async def metrics(request: Request) -> Response:
    """The metrics, as Prometheus reads them."""
    return Response(await _service(request).measured(), headers={"content-type": CONTENT_TYPE_LATEST})


class _App(FastAPI):
    """FastAPI, with the problem's schema and the bearer token in its OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()  # which keeps it
        parts = document.setdefault("components", {})
        shape = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        parts.setdefault("schemas", {}).update({**shape.pop("$defs"), "Problem": shape})
        if self.state.asks_for_token:
            parts["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            for path in document["paths"].keys() - OPEN_PATHS:
                for operation in document["paths"][path].values():
                    operation["security"] = [{"bearer": []}]
        return document


def create_app(settings: Settings, guard: AsyncSendGuard | None = None) -> FastAPI:
    """The sidecar as an ASGI app. guard: one that is the caller's to close; without it one as the settings say.

    It starts polling and alerting, where it does, when it starts, and stops when it shuts down: by then no request is
    in flight.
    Raises ConfigError if the settings do not make a guard.
    """
    service = Service(guard or settings.guard(), settings.poll_interval)
    alerter = settings.alerter(service.guard)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        poller = service.poller()
        if poller is not None:
            poller.start()
        if alerter is not None:
            alerter.start()
        try:
            yield
        finally:
            app.state.feed.close()
            if poller is not None:
                await poller.stop()
            if alerter is not None:
                await alerter.stop()
            if guard is None:
                await service.guard.close()

    app = _App(
        title="sendguard",
        version=version("sendguard"),
        description="Which line may carry a message now.",
        lifespan=running,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    tokens = [token.get_secret_value() for token in settings.tokens]
    app.state.service, app.state.asks_for_token = service, bool(tokens)
    app.state.feed = Feed(service)
    app.include_router(router)
    app.include_router(page_router)
    app.add_middleware(Gate, tokens=tokens)
    problems.install(app)
    return app
