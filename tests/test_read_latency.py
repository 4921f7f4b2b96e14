"""Reads never wait for writes, and a long list never delays a short request for long."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
import time

import pytest
from assertions import assert_json, assert_page, assert_task
from database import insert_tasks
from load import Load
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


def time_reads(client, count):
    """Return how many seconds each of so many reads of a task took."""
    times = []
    for _ in range(count):
        started = time.monotonic()
        assert client.get("/tasks/1").status_code == 200
        times.append(time.monotonic() - started)
    return times


def best_median(times):
    """Return the least median of ten times in a row: of when no other program had the processor."""
    windows = [times[start : start + 10] for start in range(0, len(times), 10)]
    return min(statistics.median(window) for window in windows)


@pytest.mark.slow
def test_reads_stay_quick_and_writes_share_commits_while_a_sync_takes_50_ms(make_server):
    server = make_server()
    insert_tasks(server.db, [("milk", False)])
    load = Load(creates=1)
    with injected(server, "fdatasync:delay_enter=50000"), server.client() as client:
        started = time.monotonic()
        load.start(server, 32)
        load.wait_for_responses(1)
        times = time_reads(client, 50)
        load.wait_for_responses(4)
        load.stop()
        possible_syncs = (time.monotonic() - started) / 0.05
    assert set(load.statuses) == {200}
    assert best_median(times) < 0.02
    assert load.statuses[200] > 4 * possible_syncs


# Long lists


async def reads_during(client, targets):
    """Send these requests at once; return how many reads of a task are answered meanwhile."""
    lists = [asyncio.create_task(client.send("GET", target)) for target in targets]
    reads = 0
    while not all(task.done() for task in lists):
        await client.send("GET", "/tasks/1")
        await asyncio.sleep(0)
        reads += 1
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


def test_many_searches_at_once_let_as_many_other_requests_run_as_one_after_another(make_client):
    client = make_client()
    insert_tasks(client.db, [("milk", False)] * 6000)  # 20 pieces
    targets = ["/tasks?q=nothing"] * 10
    assert client.portal.call(reads_during, client, targets) >= 19 * 10


def read_again_and_again(connection, target, is_over):
    """Send a request and read its whole response, again and again until the event is set."""
    while not is_over.is_set():
        connection.send_request("GET", target)
        connection.read_response()


@pytest.mark.slow
def test_short_reads_stay_quick_beside_long_lists_and_searches_that_nobody_reads(make_server):
    server = make_server()
    insert_tasks(server.db, [("x" * 50, False)] * 60_000)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(server.client())
        searches = [client.get("/tasks?q=nothing").elapsed.total_seconds() for _ in range(3)]
        is_over = threading.Event()
        connection = stack.enter_context(Connection(server))
        reader = threading.Thread(target=read_again_and_again, args=(connection, "/tasks", is_over))
        reader.start()
        stack.callback(reader.join)
        stack.callback(is_over.set)
        for _ in range(30):
            connection = stack.enter_context(Connection(server))
            connection.send_request("GET", "/tasks?q=nothing")
        times = time_reads(client, 120)
    # A server that does not pause between the pieces makes the first read wait for 30 searches.
    assert max(times) < 5 * min(searches)
    assert best_median(times) < min(searches) / 4
