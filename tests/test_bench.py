"""The benchmark runs, and says what it measured; how fast that was depends on the machine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_the_benchmark_measures_the_contenders_and_compares_them():
    command = [sys.executable, "bench/run.py", "--rounds", "1", "--seconds", "1", "--json"]
    command += ["--only", "point-read", "1000", "todo", "bare"]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, check=True, stdout=subprocess.PIPE, timeout=60)
    report = json.loads(done.stdout)
    todo, bare = report["results"]
    assert (todo["contender"], bare["contender"]) == ("todo", "bare")
    assert todo["rps"]["best"] > 0
    (ratio,) = report["ratios"]
    assert (ratio["to"], ratio["best"]) == ("bare", todo["rps"]["best"] / bare["rps"]["best"])
