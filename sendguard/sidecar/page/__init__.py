"""The page for the people on call: its files, which hold no data, and the stream that fills it."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from sendguard.sidecar.page.feed import MAX_WATCHERS, Feed
from sendguard.sidecar.page.stream import EventStream
from sendguard.sidecar.problems import problem

_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
"""No script, style or connection but the sidecar's own, no text that becomes markup, and no other site around it."""


def _assets() -> Iterator[tuple[str, Response]]:
    """The files of the page by name. They are read once, also out of a zip."""
    for file in files(__name__).iterdir():
        name = file.name
        media_type = _MEDIA_TYPES.get(name[name.rfind(".") :])
        if media_type is not None:
            body = file.read_bytes()
            etag = f'"{sha256(body).hexdigest()[:32]}"'
            yield name, Response(body, media_type=media_type, headers={**_HEADERS, "etag": etag})


_ASSETS = dict(_assets())
router = APIRouter(include_in_schema=False)


@router.get("/")
@router.head("/")
async def page(request: Request) -> Response:
    """The page."""
    return _unless_known(request, _ASSETS["index.html"])


@router.get("/page/{name}")
@router.head("/page/{name}")
async def asset(name: str, request: Request) -> Response:
    """A file of the page."""
    if name not in _ASSETS:
        raise HTTPException(404, "Not Found")
    return _unless_known(request, _ASSETS[name])


def _unless_known(request: Request, response: Response) -> Response:
    etag = response.headers["etag"]
    known = request.headers.get("if-none-match") == etag
    return Response(status_code=304, headers={**_HEADERS, "etag": etag}) if known else response


@router.get("/v1/watch")
async def watch(request: Request) -> Response:
    """The pool as it stands, and then what changes, as server-sent events. Their form is the page's own matter."""
    feed: Feed = request.app.state.feed
    if feed.watchers >= MAX_WATCHERS:
        return problem(503, f"{MAX_WATCHERS} clients watch already", {"retry-after": "30"})
    return EventStream(feed.watch())
