"""The benchmark runs and says what it measured. How fast that was is not tested: it depends on the machine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "bench" / "run.py"


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_measures_the_contenders_and_compares_them() -> None:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--seconds", "1", "--json"]
    command += ["--only", "point-read", "1000", "todo", "bare"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {(row["measure"], row["tasks"], row["contender"]) for row in report["results"]} == {
        ("point-read", 1000, "todo"),
        ("point-read", 1000, "bare"),
    }
    for row in report["results"]:
        assert row["rps"]["best"] >= row["rps"]["median"] > 0
        assert row["cpu_us"]["median"] > 0
    (ratio,) = report["ratios"]
    assert ratio["to"] == "bare"
    assert ratio["best"] == report["results"][0]["rps"]["best"] / report["results"][1]["rps"]["best"]
    assert report["environment"]["rounds"] == 1
    assert "round 1 of 1, bare" in done.stderr
