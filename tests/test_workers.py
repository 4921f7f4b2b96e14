"""Any number of workers on one file: no write fails for another, and reads wait for nobody."""

import fcntl
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from helpers import TASK, check_error, insert, locked
from processes import Load, read_trace, tasks_of, traced


def test_four_workers_and_64_writers_give_nothing_but_200_and_nobody_starves(serve):
    server = serve("--workers", "4")
    load = Load()
    load.spread(server, 16)
    load.wait(answers=20)
    load.stop()
    assert load.statuses.keys() == {200}
    assert max(writer.slowest for writer in load.writers) < 2
    load.check(server)


# SQLite 3.7.0 to 3.51.2 may corrupt a file when one process commits while another checkpoints


def test_commits_and_checkpoints_of_two_workers_never_overlap(serve, tmp_path):
    db, trace = tmp_path / "todo.db", tmp_path / "trace"
    delay = ("-s", "0", "-e", "inject=fdatasync:delay_enter=2000")
    server = serve("--workers", "2", db=db, prefix=traced(trace, "pwrite64,fdatasync", *delay))
    load = Load(size=980, creates=1)
    load.spread(server, 8)
    load.wait(answers=60)
    load.stop()
    server.stop()
    checkpoints, overlaps, busy = 0, 0, ""
    for call in read_trace(trace):
        if call.path == str(db):
            checkpoints += not busy
            busy = call.thread if call.name == "pwrite64" else ""
        elif call.path == f"{db}-wal" and busy not in ("", call.thread):
            overlaps += 1
    assert checkpoints >= 3
    assert overlaps == 0


def timed(server, method, target):
    """How long an answer took, and the answer."""
    started = time.monotonic()
    with server.client() as http:
        answer = http.request(method, target, json=TASK)
    return time.monotonic() - started, answer


@pytest.mark.slow
def test_a_write_gives_up_after_5_s_while_another_program_holds_the_database(serve):
    server = serve()
    with ThreadPoolExecutor() as threads, locked(server.db):
        writes = [threads.submit(timed, server, "POST", "/tasks")]
        reads = [timed(server, "GET", "/healthz") for _ in range(100)]
        # The second still waits for SQLite when the first has given up.
        writes.append(threads.submit(timed, server, "POST", "/tasks"))
        outcomes = [write.result(30) for write in writes]
    for took, answer in outcomes:
        assert 4.9 < took < 5.5
        check_error(answer, 503)
    assert {answer.status_code for _, answer in reads} == {200}
    assert statistics.median(took for took, _ in reads) < 0.02
    assert timed(server, "POST", "/tasks")[1].json() == TASK | {"id": 1}
    assert list(tasks_of(server)) == [1], "a write that had given up was written all the same"


@pytest.mark.slow
def test_a_worker_that_is_frozen_in_its_turn_holds_others_up_for_seconds_only(serve):
    server = serve()
    timed(server, "POST", "/tasks")
    with ThreadPoolExecutor() as threads, open(f"{server.db}-lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a worker does in its turn
        late = threads.submit(serve)
        took, answer = timed(server, "POST", "/tasks")
        assert 4.9 < took < 5.5
        check_error(answer, 503)
        for target in ("/tasks", "/tasks/1", "/healthz"):
            took, answer = timed(server, "GET", target)
            assert answer.status_code == 200
            assert took < 0.5
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 6
        refused = late.result(40)
    assert refused.wait() == 3
    assert f"Can't serve {server.db}: it is damaged, or another process holds" in refused.log
    assert "Traceback" not in server.log + refused.log
    assert list(tasks_of(serve())) == [1]


def test_short_reads_stay_quick_beside_long_lists_and_searches_that_nobody_reads(serve):
    server = serve()
    insert(server.db, (("x" * 50, False) for _ in range(100_000)))
    script = "import urllib.request as r, sys\nwhile True: r.urlopen(sys.argv[1]).read()"
    times = []
    with ExitStack() as stack, server.client() as http:
        command = [sys.executable, "-c", script, f"{server.url}/tasks"]
        reader = stack.enter_context(subprocess.Popen(command))
        stack.callback(reader.kill)
        for _ in range(30):
            search = stack.enter_context(socket.create_connection(server.address, timeout=30))
            search.sendall(b"GET /tasks?q=nothing HTTP/1.1\r\nhost: x\r\n\r\n")
        for _ in range(300):
            started = time.monotonic()
            assert http.get("/tasks/1").status_code == 200
            times.append(time.monotonic() - started)
    p99 = [sorted(times[n : n + 100])[-2] for n in (0, 100, 200)]
    assert min(p99) < 0.01  # the best of three: other programs may have the processor
