"""Load: wrk for short requests, and one client for the list of all tasks."""

import json
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

from servers import ON_LAST_CORE, Server, cpu_seconds, cpu_seconds_at_rest, memory_mb

SCRIPT = Path(__file__).resolve().parent / "requests.lua"
CONNECTIONS = 64
LIST_TIMEOUT = 600  # seconds
KINDS = {  # of short requests
    "read": "point read",
    "list": "list of 100",
    "create": "create",
    "update": "update",
}

Result = dict[str, float]  # of one turn: a value by its name
Results = dict[str, dict[str, list[Result]]]  # by kind and contender, one for each round


def start_wrk(
    server: Server, kind: str, tasks: int, seconds: int, connections: int = CONNECTIONS
) -> subprocess.Popen[str]:
    """Start to send requests of one kind over so many connections."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", str(SCRIPT)]
    command = [*ON_LAST_CORE, "wrk", *options, server.url, "--", kind, str(tasks)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish_wrk(wrk: subprocess.Popen[str], server: Server) -> Result:
    """Return the results that requests.lua prints; exit if a request failed."""
    output, _ = wrk.communicate()
    if wrk.returncode:
        sys.exit(f"wrk failed:\n{output}")
    result: Result = json.loads(output.splitlines()[-1])
    if result["failed"] or not result["requests"]:
        sys.exit(f"Requests failed: {result}\n{server.log[-2000:]}")
    return result


def measure(server: Server, kind: str, tasks: int, seconds: int) -> Result:
    """Return the requests a second, the CPU time of one in µs, and the p99 latency in ms."""
    before = cpu_seconds(server)
    result = finish_wrk(start_wrk(server, kind, tasks, seconds), server)
    cpu = cpu_seconds_at_rest(server) - before
    requests = result["requests"] + CONNECTIONS  # the last of each connection is not in the result
    return {
        "rate": result["requests"] / result["seconds"],
        "cpu": cpu / requests * 1e6,
        "p99": result["p99"],
    }


def measure_whole_list(server: Server, tasks: int) -> Result:
    """Return the ms to the first byte of the list of all tasks, the seconds to the last, the MB.

    The memory is what the server has taken on top of its memory at rest.
    """
    at_rest = memory_mb(server, "VmRSS")
    connection = HTTPConnection(*server.address, timeout=LIST_TIMEOUT)
    start = time.perf_counter()
    connection.request("GET", "/tasks")
    response = connection.getresponse()
    body = response.read(1)
    first = time.perf_counter() - start
    body += response.read()
    whole = time.perf_counter() - start
    connection.close()
    if response.status != 200 or body.count(b'"id"') != tasks:
        sys.exit(f"The list of all tasks failed: {response.status} {body[:500]!r}")
    memory = memory_mb(server, "VmHWM") - at_rest
    return {"first": first * 1000, "whole": whole, "memory": memory}
