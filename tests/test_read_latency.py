"""Reads never wait for writes, and a long list never delays a short request for long."""

from __future__ import annotations

import asyncio
import contextlib
import select
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from assertions import assert_json, assert_page, assert_status, assert_task
from database import insert_tasks
from starting import wait_until
from tracing import injected
from wire import Connection

# Reads and writes


def test_reads_are_answered_while_another_program_holds_the_write_lock(make_client):
    client = make_client()
    client.create_task("milk")
    with client.hold_writes():
        update = client.begin("PATCH", "/tasks/1", json={"name": "bread"})
        assert_task(client.get("/tasks/1"), {"name": "milk", "done": False, "id": 1})
        assert_page(client.get("/tasks"), [{"name": "milk", "done": False, "id": 1}])
        assert_json(client.get("/healthz"), {"status": "ok"}, cache_control="no-store")
        assert not update.done()
    assert_task(update.result(10), {"name": "bread", "done": False, "id": 1})


@pytest.mark.slow
def test_reads_are_answered_while_a_write_is_synced(make_server):
    server = make_server()
    server.request("POST", "/tasks", json={"name": "milk", "done": False})
    log = Path(f"{server.db}-wal")
    with ThreadPoolExecutor() as pool, injected(server, "fdatasync:delay_enter=3000000"):
        update = pool.submit(server.request, "PATCH", "/tasks/1", json={"name": "bread"})
        wait_until("the update is in the log", lambda: b"bread" in log.read_bytes())
        for _ in range(5):
            read = server.request("GET", "/tasks/1")
            assert_task(read, {"name": "milk", "done": False, "id": 1})
        assert not update.done()
        assert_task(update.result(10), {"name": "bread", "done": False, "id": 1})


# Long lists


async def reads_during(client, targets):
    """Send these requests at once; return how many reads of a task are answered meanwhile."""
    lists = [asyncio.create_task(client.send("GET", target)) for target in targets]
    reads = 0
    while not all(task.done() for task in lists):
        read = await client.send("GET", "/tasks/1")
        assert_task(read, {"name": "milk", "done": False, "id": 1})
        await asyncio.sleep(0)
        reads += 1
    for task in lists:
        assert_status(task.result(), 200)
    return reads


@pytest.mark.parametrize(
    "target",
    [
        "/tasks",
        "/tasks?done=false",
        "/tasks?sort=-id",
        "/tasks?done=false&sort=-id",
        "/tasks?q=nothing",
        "/tasks?q=nothing&limit=1",
    ],
)
def test_other_requests_run_between_the_pieces_of_a_list(make_client, target):
    client = make_client()
    insert_tasks(client.db, [("milk", False)] * 6000)  # 20 pieces
    assert client.portal.call(reads_during, client, [target]) >= 19


def test_other_requests_run_between_the_pieces_of_ten_searches(make_client):
    client = make_client()
    insert_tasks(client.db, [("milk", False)] * 6000)  # 20 pieces
    targets = ["/tasks?q=nothing"] * 10
    assert client.portal.call(reads_during, client, targets) >= 19 * 10


@pytest.mark.slow
def test_ten_reads_are_answered_before_thirty_searches_are(make_server):
    server = make_server()
    insert_tasks(server.db, [("milk", False)] * 60_000)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(Connection(server)) for _ in range(30)]
        for connection in connections:
            connection.send_request("GET", "/tasks?q=nothing")
        client = stack.enter_context(server.client())
        for _ in range(10):
            assert_task(client.get("/tasks/1"), {"name": "milk", "done": False, "id": 1})
        answered, _, _ = select.select([each.socket for each in connections], [], [], 0)
        assert answered == []
        for connection in connections:
            assert_page(connection.read_response(), [])
