"""Assertions on whole responses: the status, then the body to the byte, then every header.

A header that a response must have is given by its name, with underscores for the hyphens. Headers
that every such response has, as an ETag with a task, need not be given. Any other header fails the
assertion, unless it is one of those that uvicorn adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

Task = dict[str, Any]


def json_bytes(value: object) -> bytes:
    """Return compact JSON in UTF-8, as the server sends it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def strict_json(content: bytes) -> Any:
    """Return the value of JSON that must be compact, in UTF-8 and without NaN or Infinity."""
    value = json.loads(content.decode())
    assert content == json_bytes(value)
    return value


def headers_of(response: httpx.Response) -> dict[str, str]:
    """Return the headers of a response, without those that uvicorn adds."""
    headers = dict(response.headers.items())
    headers.pop("date", None)
    headers.pop("server", None)
    return headers


def etag_of(response: httpx.Response) -> str:
    """Return the ETag of a response, which must have a strong one."""
    etag = response.headers.get("etag")
    assert etag is not None, f"There is no ETag.\n{describe(response)}"
    assert etag[0] == etag[-1] == '"', f"{etag} is not a strong ETag"
    assert etag[1:-1].isalnum(), f"{etag} should have only letters and digits between its quotes"
    return str(etag)


def assert_json(response: httpx.Response, value: object, **headers: str) -> None:
    """Assert that the response is 200 with this value as JSON and these headers."""
    assert_status(response, 200)
    assert_json_body(response, value)
    assert_headers(response, content_headers(response) | with_hyphens(headers))


# The members that a task may be created without, with their defaults, in the order of its JSON.
# There are none as yet: see "Example: add a field to a task" in .github/CONTRIBUTING.md.
TASK_DEFAULTS: Task = {}


def whole_task(task: Task) -> Task:
    """Return a task (with its `id`) with the defaults of the members that it does not mention."""
    fields = {"name": task["name"], "done": task["done"], **TASK_DEFAULTS, "id": task["id"]}
    return fields | task


def assert_tasks(tasks: list[Task], expected: list[Task]) -> None:
    """Assert that tasks, from `list_tasks` or `read_tasks`, are these."""
    assert tasks == [whole_task(task) for task in expected]


def assert_task(response: httpx.Response, task: Task, **headers: str) -> None:
    """Assert that the response is 200 with this task (with its `id`) and an ETag."""
    assert_status(response, 200)
    headers = {"etag": etag_of(response), "cache_control": "no-cache"} | headers
    assert_json(response, whole_task(task), **headers)


def assert_page(response: httpx.Response, tasks: list[Task], **headers: str) -> None:
    """Assert that the response is 200 with a short list or a page of these tasks, and an ETag."""
    assert_status(response, 200)
    headers = {"etag": etag_of(response), "cache_control": "no-cache"} | headers
    assert_json(response, [whole_task(task) for task in tasks], **headers)


def assert_head(head: httpx.Response, response: httpx.Response) -> None:
    """Assert that the response to HEAD has the status and the headers of the one to GET."""
    assert_status(head, response.status_code)
    assert_headers(head, headers_of(response))


def assert_not_modified(response: httpx.Response, etag: str, **headers: str) -> None:
    """Assert that the response is 304 with this ETag."""
    assert_empty(response, 304, etag=etag, cache_control="no-cache", **headers)


def assert_empty(response: httpx.Response, status: int, **headers: str) -> None:
    """Assert that the response has this status, no body, and no header that describes one."""
    assert_status(response, status)
    assert body_text(response) == ""
    assert_headers(response, with_hyphens(headers))


def assert_error(
    response: httpx.Response, status: int, detail: object, **headers: str | None
) -> None:
    """Assert that the response is an error with exactly this detail.

    The headers in ERROR_HEADERS need not be given; None stands for one that is missing. The detail
    of a 422 is a list of entries: `[entry("string_type", ["body", "name"], 5)]`.
    """
    assert_status(response, status)
    assert_json_body(response, {"detail": detail})
    usual = content_headers(response) | ERROR_HEADERS.get(status, {})
    expected = usual | with_hyphens(headers)
    assert_headers(response, {name: value for name, value in expected.items() if value is not None})


ERROR_HEADERS = {  # by the status of an error, the headers that nearly all such errors have
    401: {"www-authenticate": "Bearer"},
    408: {"connection": "close"},
    412: {"cache-control": "no-cache"},
    413: {"connection": "close"},
    503: {"retry-after": "1", "cache-control": "no-store"},
    507: {"retry-after": "1", "cache-control": "no-store"},
}


def entry(type: str, loc: list[str | int], value: object, **ctx: object) -> dict[str, Any]:
    """Return the entry of a 422 for one fault, as pydantic has it."""
    found = {"type": type, "loc": loc, "msg": MESSAGES[type].format(**ctx), "input": value}
    if ctx:
        found["ctx"] = ctx
    return found


MESSAGES = {
    "bool_parsing": "Input should be a valid boolean, unable to interpret input",
    "bool_type": "Input should be a valid boolean",
    "extra_forbidden": "Extra inputs are not permitted",
    "greater_than_equal": "Input should be greater than or equal to {ge}",
    "idempotency_key_reused": "Idempotency-Key was used with another body",
    "int_parsing": "Input should be a valid integer, unable to parse string as an integer",
    "json_invalid": "JSON decode error",
    "less_than_equal": "Input should be less than or equal to {le}",
    "literal_error": "Input should be {expected}",
    "missing": "Field required",
    "model_attributes_type": "Input should be a valid dictionary or object to extract fields from",
    "string_pattern_mismatch": "String should match pattern '{pattern}'",
    "string_too_long": "String should have at most {max_length} characters",
    "string_type": "Input should be a valid string",
    "string_unicode": "Input should be a valid string, "
    "unable to parse raw data as a unicode string",
}


# The parts of the assertions above


def assert_status(response: httpx.Response, status: int) -> None:
    """Assert that the response has this status; a failure shows the whole response."""
    assert response.status_code == status, describe(response)


def assert_json_body(response: httpx.Response, value: object) -> None:
    """Assert that the body is this value as JSON, to the byte.

    They are compared as text, because pytest shows where two texts differ.
    """
    assert body_text(response) == json_bytes(value).decode()


def assert_headers(response: httpx.Response, expected: dict[str, str]) -> None:
    """Assert that the response has these headers and no others, but for those of uvicorn."""
    assert headers_of(response) == expected, describe(response)


def content_headers(response: httpx.Response) -> dict[str, str]:
    """Return the headers that describe the body of this response."""
    size = str(len(response.content))
    return {"content-type": "application/json", "content-length": size}


def with_hyphens(headers: Mapping[str, str | None]) -> dict[str, Any]:
    """Return headers with their names as they are sent."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


def body_text(response: httpx.Response) -> str:
    """Return the body as text, with an escape (`\\xff`) for a byte that is not UTF-8."""
    return response.content.decode(errors="backslashreplace")


def describe(response: httpx.Response) -> str:
    """Return a response, and the request if it is known, for the message of a failure."""
    received = f"received: {response.status_code} {headers_of(response)} {body_text(response)}"
    try:
        request = response.request
    except RuntimeError:  # httpx raises it for a response without a request.
        return shorten(received)
    sent = f"sent: {request.method} {request.url.raw_path.decode()} {dict(request.headers)}"
    return f"{shorten(sent)}\n{shorten(received)}"


def shorten(text: str) -> str:
    """Return a text, or the beginning of a long one."""
    return text if len(text) <= 1000 else f"{text[:1000]}..."
