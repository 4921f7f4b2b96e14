"""A client of an application that runs in this process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal
from assertions import assert_status, json_bytes
from database import write_lock

import todo

Headers = Mapping[str, str] | Sequence[tuple[str, str]]

# The routes that read a body. For PUT and PATCH to succeed, a test creates a task first.
on_every_route_with_a_body = pytest.mark.parametrize(
    ("method", "target"), [("POST", "/tasks"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")]
)


class Client:
    """An application in this process, and requests to it: `client.put("/tasks/1", json=TASK)`.

    The arguments are those of httpx. It takes the place of Starlette's TestClient, because tests
    need many requests at once on one event loop (`begin`), bodies that stall, and headers that
    arrive byte for byte as they are written here. The body of a response to HEAD is dropped on the
    way here: that there is none is tested in test_http.py.
    """

    def __init__(self, portal: BlockingPortal, **settings: str) -> None:
        self.portal = portal
        self.db = Path(settings["TODO_DB"])
        self.application = todo.Application(settings)
        self.app: Any = self.application  # It gets the requests: a test may wrap the application.
        self.exit_stack = contextlib.ExitStack()

    def start(self) -> Client:
        """Start the application; raise todo.StartRefused."""
        lifespan = self.application.router.lifespan_context(self.application)
        self.exit_stack.enter_context(self.portal.wrap_async_context_manager(lifespan))
        return self

    def stop(self) -> None:
        """Stop the application, if it runs; it can be started again."""
        self.exit_stack.close()

    async def send(
        self,
        method: str,
        target: str,
        *,
        json: object = None,
        content: bytes | AsyncIterator[bytes] = b"",
        headers: Headers = (),
        root_path: str = "",
    ) -> httpx.Response:
        """Send a request on the application's event loop and return the response.

        The body is `json` as JSON, or `content`, which may be an iterator that stalls. POST, PUT
        and PATCH are sent as application/json unless `headers` has a content type; one that is
        empty is not sent at all. A header that is sent on several lines needs a list of pairs.
        """
        assert target.startswith("/"), target
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        names = [name.lower() for name, _ in pairs]
        if method in ("POST", "PUT", "PATCH") and "content-type" not in names:
            pairs.append(("Content-Type", "application/json"))
        request = httpx.Request(
            method,
            f"http://test{target}",
            headers=[
                (name.encode(), value.encode("utf-8", "surrogateescape"))
                for name, value in pairs
                if (name.lower(), value) != ("content-type", "")
            ],
            content=content if json is None else json_bytes(json),
        )
        transport = httpx.ASGITransport(self.app, root_path=root_path)
        response = await transport.handle_async_request(request)
        response.request = request  # A failed assertion shows it.
        await response.aread()
        return response

    def begin(self, *args: Any, **kwargs: Any) -> concurrent.futures.Future[httpx.Response]:
        """Send a request without waiting; `result()` of what is returned waits for the response."""
        return self.portal.start_task_soon(partial(self.send, *args, **kwargs))

    def request(self, *args: Any, **kwargs: Any) -> httpx.Response:
        """Send a request and wait for the response."""
        return self.begin(*args, **kwargs).result(30)

    get = partialmethod(request, "GET")
    head = partialmethod(request, "HEAD")
    post = partialmethod(request, "POST")
    put = partialmethod(request, "PUT")
    patch = partialmethod(request, "PATCH")
    delete = partialmethod(request, "DELETE")
    options = partialmethod(request, "OPTIONS")

    @contextlib.contextmanager
    def hold_writes(self) -> Iterator[None]:
        """Let all writes to the file wait until the end of the block.

        The writes that were begun in it are carried out afterwards, those of one application in
        their order and mostly in one transaction.
        """
        with write_lock(self.db):
            yield
            self.get("/info")  # When this is answered, the requests before it wait for the lock.

    def create_task(
        self, name: str = "milk", done: bool = False, headers: Headers = ()
    ) -> httpx.Response:
        """Create a task and return the response, which has its JSON, ETag and Location."""
        task = {"name": name, "done": done}
        response: httpx.Response = self.post("/tasks", json=task, headers=headers)
        assert_status(response, 200)
        return response

    def list_tasks(self) -> list[dict[str, Any]]:
        """Return all tasks."""
        response = self.get("/tasks")
        assert_status(response, 200)
        tasks: list[dict[str, Any]] = response.json()
        return tasks


async def stalling(beginning: bytes = b"") -> AsyncIterator[bytes]:
    """Yield the beginning of a body, if it has one, and then nothing for 5 s.

    It ends then, so that a server that waits for it fails a test and no more.
    """
    if beginning:
        yield beginning
    await asyncio.sleep(5)
