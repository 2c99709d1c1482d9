"""The ASGI application: four routes over a catalogue and an engine's thread, every error in OpenAI's shape."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from localhyper import __version__
from localhyper.engine import Sampling
from localhyper.errors import LocalHyperError
from localhyper.serve.access import Access
from localhyper.serve.api_error import ApiError
from localhyper.serve.catalogue import Catalogue
from localhyper.serve.chat_reply import ReplyHead
from localhyper.serve.chat_request import parse_chat
from localhyper.serve.engine_thread import EngineThread
from localhyper.serve.exchange import GONE_STATUS, Exchange, caller
from localhyper.serve.guard import HEALTH, PlaceGuard, TokenGuard
from localhyper.serve.model_names import ALIASES, ModelChoice, default_choice, listing, resolve
from localhyper.serve.request_body import read_json

_log = logging.getLogger(__name__)


class Api:
    """The routes.

    Args:
        catalogue: What can be served.
        engine: Where replies are made.
        defaults: How they are made where a request says nothing.
    """

    def __init__(self, catalogue: Catalogue, engine: EngineThread, defaults: Sampling) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._defaults = defaults

    async def health(self, request: Request) -> Response:
        """What is going on; with `?request=ID`, the place of one request in the queue."""
        status = self._engine.status()
        body: dict[str, object] = {
            "status": "ok",
            "version": __version__,
            "base": status.base or None,
            "running": int(status.running),
            "waiting": status.waiting,
            "clients_waiting": status.clients,
        }
        wanted = request.query_params.get("request")
        if wanted is not None:
            body["position"] = self._engine.position(wanted)
        return JSONResponse(body)

    async def models(self, _request: Request) -> Response:
        """Every `model` that a request can name with one adapter at most, and what `localhyper` stands for now."""
        there = await asyncio.to_thread(self._catalogue.snapshot)
        found = listing(there)
        if there.default is not None and ALIASES[0] not in there.bases:
            default = default_choice(there)
            found.insert(0, ModelChoice(ALIASES[0], default.base, default.adapters, default.created))
        return JSONResponse({"object": "list", "data": [_model(choice) for choice in found]})

    async def model(self, request: Request) -> Response:
        """One of them, by any of its names."""
        return JSONResponse(_model(await self._resolve(request.path_params["model"])))

    async def chat(self, request: Request) -> Response:
        """A reply, whole or streamed."""
        asked = parse_chat(await read_json(request), self._defaults)
        if asked.ignored:
            shown = ", ".join(repr(name[:40]) for name in asked.ignored[:20])
            _log.info("fields passed over: %s", shown)
        choice = await self._resolve(asked.model)
        head = ReplyHead(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), choice.id, asked.include_usage)
        address = request.client.host if request.client else ""
        who = caller(request.headers, address, asked.user)
        exchange = Exchange(self._engine, head, asked, choice, who, request.receive)
        return await (exchange.stream() if asked.stream else exchange.whole())

    async def _resolve(self, model: str) -> ModelChoice:
        there = await asyncio.to_thread(self._catalogue.snapshot)
        return resolve(model, there)


def build_app(api: Api, access: Access) -> Starlette:
    """The application, to be run by any ASGI server."""
    routes = [
        Route(HEALTH, api.health, methods=["GET"]),
        Route("/v1/models", api.models, methods=["GET"]),
        Route("/v1/models/{model:path}", api.model, methods=["GET"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
    ]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=access.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "X-Client-Request-Id"],
    )
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(PlaceGuard, access=access),
            *([cors] if access.origins else []),
            Middleware(TokenGuard, access=access),
        ],
        exception_handlers={
            ApiError: _api_error,
            LocalHyperError: _local_error,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _unexpected,
        },
    )
    app.router.redirect_slashes = False  # an API's clients follow no redirects
    return app


def _model(choice: ModelChoice) -> dict[str, object]:
    return {"id": choice.id, "object": "model", "created": choice.created, "owned_by": "localhyper"}


async def _api_error(request: Request, error: Exception) -> Response:
    """The path in the log is written so that no line can be forged with it."""
    assert isinstance(error, ApiError)
    _log.info("%s %r refused: %d %s", request.method, request.url.path[:100], error.status, error.code)
    return error.response()


async def _local_error(_request: Request, error: Exception) -> Response:
    """What the library or a models.toml has; the message names files, so it goes to the log only."""
    assert isinstance(error, LocalHyperError)
    _log.error("%s", error.message)
    return ApiError(500, "the models cannot be listed; the server's log says why", code="internal_error").response()


async def _http_error(request: Request, error: Exception) -> Response:
    """No such route, or not with this method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "")
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=GONE_STATUS)


async def _unexpected(_request: Request, _error: Exception) -> Response:
    """A bug; Starlette raises it again for uvicorn, which writes it to the log."""
    return ApiError(500, "the server failed; its log says why", code="internal_error").response()
