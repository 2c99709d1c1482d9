"""Errors as OpenAI's API words them: a status and `{"error": {"message", "type", "param", "code"}}`.

What clients may branch on is `code`; https://platform.openai.com/docs/guides/error-codes lists theirs, and ours are the
same where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

INVALID = "invalid_request_error"
SERVER = "server_error"


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        message: For people; holds no path of this machine.
        code: For programs; empty = null.
        param: The field of the request that is wrong; empty = null.
        kind: OpenAI's `type`.
        headers: More headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        param: str = "",
        kind: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind or (INVALID if status < 500 else SERVER)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """The JSON of the answer, or of an event in a stream."""
        error = {"message": self.message, "type": self.kind, "param": self.param or None, "code": self.code or None}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), self.status, self.headers)
