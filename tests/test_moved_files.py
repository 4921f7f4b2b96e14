"""The file, its WAL, its index or its lock is moved, removed or replaced under a running server."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from assertions import assert_error, assert_json, assert_page, assert_task, assert_tasks
from database import insert_tasks, read_tasks

UNAVAILABLE = "The server cannot do this now: try again"
MILK = {"name": "milk", "done": False, "id": 1}


def move(file: Path) -> Path:
    """Move a file, and return where it is then."""
    return file.rename(file.with_name("moved"))


def replace_by_copy(file: Path) -> Path:
    """Move a file, and put a copy in its place."""
    moved = move(file)
    shutil.copy(moved, file)
    return moved


def replace_by_link(file: Path) -> Path:
    """Move a file, and put a symbolic link to it in its place."""
    moved = move(file)
    file.symlink_to(moved)
    return moved


for_each_file = pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-lock"])
for_each_event = pytest.mark.parametrize("event", [move, replace_by_copy, replace_by_link])


@for_each_file
@for_each_event
def test_every_write_and_healthz_are_503_with_a_sentence_in_the_log(
    make_client, suffix, event, caplog
):
    client = make_client()
    insert_tasks(client.db, [("milk", False)])
    event(Path(f"{client.db}{suffix}"))
    for response in [
        client.post("/tasks", json={"name": "bread", "done": True}),
        client.put("/tasks/1", json={"name": "bread", "done": True}),
        client.patch("/tasks/1", json={"done": True}),
        client.delete("/tasks/1"),
        client.delete("/tasks?done=false"),
        client.get("/healthz"),
    ]:
        assert_error(response, 503, UNAVAILABLE)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 6
    sentence = f"{client.db}, its -wal, its -shm or its -lock was moved, removed or replaced"
    assert [sentence in message for message in caplog.messages] == [True] * 6


def test_a_link_that_leads_to_another_file_is_noticed(make_client, empty_db, tmp_path):
    link = tmp_path / "link.db"
    link.symlink_to(shutil.copy(empty_db, tmp_path / "first.db"))
    client = make_client(TODO_DB=str(link))
    link.unlink()
    link.symlink_to(shutil.copy(empty_db, tmp_path / "second.db"))
    create = client.post("/tasks", json={"name": "milk", "done": False})
    assert_error(create, 503, UNAVAILABLE)
    assert_error(client.get("/healthz"), 503, UNAVAILABLE)


@for_each_file
def test_a_write_that_waits_for_the_lock_meanwhile_is_a_503_too(make_client, suffix):
    client = make_client()
    is_waiting = threading.Event()
    connection = client.application.database.file.writer
    connection.set_trace_callback(lambda statement: is_waiting.set())  # the statement is BEGIN
    with client.hold_writes():
        create = client.begin("POST", "/tasks", json={"name": "milk", "done": False})
        assert is_waiting.wait(10)
        move(Path(f"{client.db}{suffix}"))
    assert_error(create.result(10), 503, UNAVAILABLE)
    assert_page(client.get("/tasks"), [])


@for_each_file
@for_each_event
def test_reads_go_on(make_client, suffix, event):
    client = make_client()
    client.create_task("milk")
    event(Path(f"{client.db}{suffix}"))
    assert_task(client.get("/tasks/1"), MILK)
    assert_page(client.get("/tasks"), [MILK])


@for_each_file
@for_each_event
def test_writes_work_again_once_the_file_is_put_back(make_client, suffix, event):
    client = make_client()
    client.create_task("milk")
    file = Path(f"{client.db}{suffix}")
    moved = event(file)
    response = client.post("/tasks", json={"name": "eggs", "done": False})
    assert_error(response, 503, UNAVAILABLE)
    moved.replace(file)
    client.create_task("bread")
    assert_json(client.get("/healthz"), {"status": "ok"}, cache_control="no-store")
    client.stop()
    assert_tasks(read_tasks(client.db), [MILK, {"name": "bread", "done": False, "id": 2}])


@for_each_event
def test_a_stop_leaves_everything_in_a_file_that_was_moved(make_client, event):
    client = make_client()
    client.create_task("milk")
    moved = event(client.db)
    client.stop()
    assert_tasks(read_tasks(moved), [MILK])


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-lock"])
@for_each_event
def test_a_stop_leaves_everything_in_the_file_whose_wal_index_or_lock_was_moved(
    make_client, suffix, event
):
    client = make_client()
    client.create_task("milk")
    event(Path(f"{client.db}{suffix}"))
    client.stop()
    copy = shutil.copy(client.db, client.db.with_name("copy.db"))  # without a WAL beside it
    assert_tasks(read_tasks(copy), [MILK])


def test_a_stop_after_another_file_took_the_place_leaves_no_wal_beside_that_file(
    make_client, empty_db
):
    """SQLite would take such a WAL for a part of that file."""
    client = make_client()
    client.create_task("milk")
    move(client.db)
    shutil.copy(empty_db, client.db)
    client.stop()
    wal = Path(f"{client.db}-wal")
    assert not wal.exists() or wal.stat().st_size == 0
    assert read_tasks(client.db) == []
