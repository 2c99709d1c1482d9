"""A request's body, read with limits on size and time, and parsed from JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import Request

from localhyper.serve.api_error import ApiError

MAX_BYTES = 2 << 20  # a window of 128K tokens is about half a megabyte of English
BODY_SECONDS = 30.0


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object in the body.

    Raises:
        ApiError: 415, not declared as JSON (a web page could send anything else without asking); 413, too long;
            408, too slow; 400, not a JSON object.
        ClientDisconnect: The client has gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send the header `Content-Type: application/json`", code="unsupported_media_type")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = await _read(request)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {BODY_SECONDS:g} seconds", code="request_timeout") from None
    return parse_object(data)


async def _read(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MAX_BYTES:
        raise _too_long()
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BYTES:
            raise _too_long()
    return bytes(data)


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object out of UTF-8 bytes.

    Raises:
        ApiError: 400.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise _invalid(f"it is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise _invalid(f"{error.msg[:100]} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except ValueError as error:
        raise _invalid(str(error)[:100]) from None
    if not isinstance(value, dict):
        raise _invalid("it is not an object")
    return value


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"`{word}` is not a number in JSON")


def _invalid(why: str) -> ApiError:
    return ApiError(400, f"the body is not a valid JSON request: {why}", code="invalid_json")


def _too_long() -> ApiError:
    return ApiError(
        413, f"the body is longer than {MAX_BYTES:,} bytes; attach long texts as adapters", code="request_too_large"
    )
