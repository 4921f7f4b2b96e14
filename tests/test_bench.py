"""The benchmark's scripts run and report what they measured; the numbers depend on the machine."""

import json
import shutil
import subprocess
import sys

import pytest
from server import ROOT

SHORT = ("--tasks", "1000", "--rounds", "1", "--seconds", "1")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed"),
]


def run(script, *options):
    """Return what a script of the benchmark prints."""
    command = [sys.executable, f"tests/bench/{script}", *SHORT, *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0
    return done.stdout


def test_the_benchmark_measures_each_contender_in_each_round():
    contenders = ["todo", "bare", "starlette"]
    report = json.loads(run("run.py", "--json", "--contenders", *contenders))
    assert report["conditions"]["tasks"] == 1000
    assert list(report["results"]) == ["all", "read", "list", "create", "update"]
    for kind in ("read", "list", "create", "update"):
        measured = report["results"][kind]
        assert list(measured) == contenders
        assert [len(rounds) for rounds in measured.values()] == [1, 1, 1]
        assert all(rounds[0]["rate"] > 0 for rounds in measured.values())


def test_the_benchmark_skips_a_contender_whose_tools_are_missing(tmp_path):
    for tool in ("wrk", "taskset"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    command = [sys.executable, "tests/bench/run.py", *SHORT]
    command += ["--kinds", "read", "--contenders", "todo", "fastify"]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Fastify + better-sqlite3 is skipped: not installed: node, npm" in done.stderr
    assert "| this server |" in done.stdout


def test_a_paired_run_compares_two_checkouts():
    printed = run("compare.py", "--against", str(ROOT), "--kinds", "read")
    assert "| point read | " in printed


def test_the_tail_the_start_and_the_memory_are_measured():
    printed = run("tail.py")
    assert "| new file | " in printed
    assert "| 2 | 32 readers beside 32 writers | read | " in printed
    assert "peak under load" in printed
