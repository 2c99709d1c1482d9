"""Lets in only requests that `Access` allows. Plain ASGI, before anything of a request is looked at."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from localhyper.serve.access import Access, host_name, is_address
from localhyper.serve.api_error import ApiError

HEALTH = "/health"  # tells nothing that is worth a token


class PlaceGuard:
    """Refuses foreign names (DNS rebinding), foreign web pages, and two lengths for one body (request smuggling).

    A page can send simple requests to 127.0.0.1 without reading the answers; its browser then names it in Origin.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        error = self._refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        await (error.response() if error else self._app)(scope, receive, send)

    def _refusal(self, headers: Headers) -> ApiError | None:
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy may have believed the other one (RFC 9112, 6.3): what follows could be somebody else's.
            message = "send `Content-Length` or `Transfer-Encoding`, not both"
            return ApiError(400, message, code="invalid_request", headers={"Connection": "close"})
        hosts = headers.getlist("host")
        name = host_name(hosts[0]) if len(hosts) == 1 else ""
        if name not in self._access.hosts and not (self._access.any_address and is_address(name)):
            return ApiError(
                403, "this server does not answer to the name in `Host`; `--allow-host NAME` lets it",
                code="host_not_allowed",
            )  # fmt: skip
        origins = [origin.lower() for origin in headers.getlist("origin")]
        if any(origin not in self._access.origins for origin in origins):
            return ApiError(
                403, "web pages of this origin may not call this server; `--allow-origin URL` lets them",
                code="origin_not_allowed",
            )  # fmt: skip
        return None


class TokenGuard:
    """Wants the token for everything but `/health`."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._token = access.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        open_to_all = scope["type"] != "http" or not self._token or scope["path"] == HEALTH
        if open_to_all or self._right(Headers(scope=scope).get("authorization", "")):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401, "the token is missing or wrong; send it as `Authorization: Bearer TOKEN` (clients call it API key)",
            code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip
        await error.response()(scope, receive, send)

    def _right(self, header: str) -> bool:
        scheme, _, given = header.partition(" ")
        # Both are looked at whole, and for as long whatever they hold.
        return hmac.compare_digest(given.strip().encode("latin-1"), self._token) and scheme.lower() == "bearer"
