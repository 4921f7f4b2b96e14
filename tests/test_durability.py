"""Acknowledged is durable: what was answered survives kill -9, power cuts and faults of the disk.

With TODO_ROUNDS=100 in the environment, these tests crash a hundred times instead of twice.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from assertions import assert_error, assert_json, assert_page, assert_task, assert_tasks
from database import read_tasks
from load import Load, by_id
from server import Server
from tracing import Call, injected, read_trace, recording_prefix

ROUNDS = int(os.environ.get("TODO_ROUNDS", "2"))


# kill -9


@pytest.mark.parametrize("workers", ["1", pytest.param("4", marks=pytest.mark.slow)])
def test_what_was_acknowledged_survives_kill_9(make_server, workers):
    load = Load()
    chance = random.Random(1)
    server = make_server("--workers", workers)
    for _ in range(ROUNDS):
        load.start(server, 16)
        load.wait_for_responses(chance.randrange(1, 30))
        server.kill()
        load.stop()
        server = make_server("--workers", workers)
        load.assert_kept(server)
    assert set(load.statuses) == {200}


# Power cuts
#
# A server is recorded while it creates tasks. Then its writes and syncs are replayed up to some
# moment, which leaves what the disk would have kept if the power had failed there.


@dataclass
class Recording:
    """The calls of a server that reached the kernel, and the tasks that it created meanwhile."""

    db: Path
    calls: list[Call]
    tasks: list[dict[str, object]]
    answers: list[int]  # the indexes of the calls that sent the response to a create


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The recording of a new file, so long that SQLite checkpointed once."""
    folder = tmp_path_factory.mktemp("recorded")
    db, trace = folder / "todo.db", folder / "trace"
    calls = "pwrite64,fsync,fdatasync,write,writev,sendto,sendmsg"
    with Server(db, prefix=recording_prefix(trace, calls, "-s", "5000")) as server:
        load = Load(name_length=980, creates=1)
        load.start(server, 8)
        while Path(f"{db}-wal").stat().st_size < 1000 * 4096:  # Then SQLite checkpoints.
            load.wait_for_responses(1)
        load.wait_for_responses(10)
        load.stop()
        server.stop()
    calls = list(read_trace(trace))
    answers = [number for number, call in enumerate(calls) if created_id(call) is not None]
    return Recording(db, calls, read_tasks(db), answers)


def created_id(call: Call) -> int | None:
    """Return the id of the task whose creation this call answers, or None."""
    location = re.search(rb"location: /tasks/(\d+)", call.data)
    return int(location[1]) if location else None


class Disk:
    """A file as a disk keeps it: what was synced, and the writes that were not synced yet."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.unsynced: list[Call] = []

    def apply(self, call: Call) -> None:
        """Replay a write or a sync."""
        if call.name == "pwrite64":
            self.unsynced.append(call)
        else:
            self.synced = self.after_power_cut([None] * len(self.unsynced))
            self.unsynced = []

    def after_power_cut(self, sizes: Sequence[int | None]) -> bytearray:
        """Return what is left if this many bytes of each write that was not synced have arrived.

        None stands for all of them.
        """
        content = self.synced.copy()
        for call, size in zip(self.unsynced, sizes, strict=True):
            part = call.data[:size]
            content.extend(bytes(max(0, call.offset - len(content))))
            content[call.offset : call.offset + len(part)] = part
        return content


@pytest.mark.slow
def test_the_name_of_the_new_wal_is_synced_before_the_first_answer(recorded):
    """Without it the content could not be found; the name is in the folder, so that is synced."""
    first_answer = recorded.answers[0]
    first_write = [call.path for call in recorded.calls].index(f"{recorded.db}-wal")
    calls = recorded.calls[first_write:first_answer]
    assert str(recorded.db.parent) in [call.path for call in calls if "sync" in call.name]


def replay(recorded: Recording, cuts: list[int]) -> Iterator[tuple[int, dict[str, Disk]]]:
    """Yield, for each call after which the power is cut, its index and the disks of both files."""
    disks = {str(recorded.db): Disk(), f"{recorded.db}-wal": Disk()}
    for number, call in enumerate(recorded.calls):
        if call.path in disks:
            disks[call.path].apply(call)
        if number in cuts:
            yield number, disks


SECTOR = 512  # bytes; a disk writes each of them completely or not at all


@pytest.mark.parametrize(
    "arrived",  # how many bytes of a write that was not synced, chosen for each one; None is all
    [
        pytest.param([0], id="nothing unsynced arrived"),
        pytest.param([0, SECTOR, None], id="unsynced writes arrived in part and in any order"),
    ],
)
@pytest.mark.slow
def test_what_was_acknowledged_survives_a_power_cut_at_any_moment(recorded, tmp_path, arrived):
    created = by_id(recorded.tasks)
    chance = random.Random(1)
    moments = range(recorded.answers[0], recorded.answers[-1] + 1)
    cuts = chance.sample(recorded.answers, 5 * ROUNDS) + chance.sample(moments, 5 * ROUNDS)
    for number, disks in replay(recorded, cuts):
        left = tmp_path / str(number)
        left.mkdir()
        for path, disk in disks.items():
            sizes = chance.choices(arrived, k=len(disk.unsynced))
            (left / Path(path).name).write_bytes(disk.after_power_cut(sizes))
        survived = by_id(read_tasks(left / "todo.db"))
        answered = [answer for answer in recorded.answers if answer <= number]
        acknowledged = {created_id(recorded.calls[answer]) for answer in answered}
        assert acknowledged - set(survived) == set(), f"The power was cut after call {number}."
        assert survived == {id: created[id] for id in survived}


@pytest.mark.slow
def test_the_recording_has_a_checkpoint_between_its_answers(recorded):
    calls = recorded.calls[recorded.answers[0] : recorded.answers[-1]]
    assert str(recorded.db) in [call.path for call in calls]


# Faults of the disk


@pytest.mark.parametrize(
    ("fault", "status", "detail"),
    [
        ("fdatasync:error=EIO", 503, "The server cannot do this now: try again"),
        pytest.param(
            "pwrite64:error=EIO",
            503,
            "The server cannot do this now: try again",
            marks=pytest.mark.slow,
        ),
        # There is room for a part of the first write.
        pytest.param(
            "pwrite64:error=ENOSPC:when=3+",
            507,
            "The disk is full: try again when there is room",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_during_a_fault_of_the_disk_reads_go_on_and_after_it_writes_too(
    make_server, fault, status, detail
):
    server = make_server()
    milk = {"name": "milk", "done": False, "id": 1}
    bread = {"name": "bread", "done": True, "id": 2}
    with server.client() as client:
        client.post("/tasks", json={"name": "milk", "done": False})
        with injected(server, fault):
            for _ in range(2):
                response = client.post("/tasks", json={"name": "bread", "done": True})
                assert_error(response, status, detail)
                assert_page(client.get("/tasks"), [milk])
                assert_json(client.get("/healthz"), {"status": "ok"}, cache_control="no-store")
        response = client.post("/tasks", json={"name": "bread", "done": True})
        assert_task(response, bread, location="/tasks/2")
    server.kill()
    errors = [line for line in server.lines if line.startswith("ERROR:")]
    assert len(errors) == 2, "A failed write is one line in the log."
    assert "Traceback" not in server.log
    assert_tasks(make_server().list_tasks(), [milk, bread])
