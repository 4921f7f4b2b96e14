"""Measure this server beside what people would pick instead.

    pip install -e '.[bench]'
    python tests/bench/run.py                       measures everything and prints tables
    python tests/bench/run.py --chart tests/bench   also draws the chart

It needs Linux and wrk. A contender whose tools are missing is skipped, with the reason (Fastify
needs Node and npm, which may need a C++ compiler to build better-sqlite3). The servers run on the
first core, and wrk on the last one with 64 connections. The contenders take turns in each round, so
a slow minute of the machine slows all of them: believe the ratios. The files are in the temporary
directory: set TMPDIR if that is not on a real disk.
"""

import argparse
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import report
from load import CONNECTIONS, KINDS, Results, measure, measure_whole_list
from servers import CONTENDERS, insert_tasks, install, prepare, say, serving_contenders


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = {"nargs": "+", "metavar": "NAME"}
    kinds, contenders = [*KINDS, "all"], list(CONTENDERS)
    parser.add_argument("--kinds", choices=kinds, default=kinds, **names, help=", ".join(kinds))
    parser.add_argument(
        "--contenders", choices=contenders, default=contenders, **names, help=", ".join(contenders)
    )
    parser.add_argument("--tasks", type=int, default=1_000_000, help="in the table (1000000)")
    parser.add_argument("--rounds", type=int, default=5, help="for each kind of request (5)")
    parser.add_argument("--seconds", type=int, default=2, help="for each turn (2)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--chart", type=Path, metavar="FOLDER", help="draw the chart in this folder"
    )
    options = parser.parse_args()
    if options.chart and not find_spec("matplotlib"):
        parser.error("--chart needs matplotlib: pip install -e '.[bench]'")
    if options.chart and options.kinds == ["all"]:
        parser.error("--chart shows the other kinds of requests than `all`")
    return options


def install_contenders(names: list[str], folder: Path) -> list[str]:
    """Return the contenders that can be measured here; say why others can't."""
    found = []
    for name in names:
        reason = install(name, folder)
        if reason:
            say(f"{CONTENDERS[name].title} is skipped: {reason}")
        else:
            found.append(name)
    return found


def fill_files(names: list[str], folder: Path, tasks: int) -> None:
    """Let each contender create its table, and fill it."""
    with serving_contenders(names, folder):
        pass
    for name in names:
        if CONTENDERS[name].has_tasks:
            say(f"{CONTENDERS[name].title}: inserting {tasks:,} tasks")
            insert_tasks(folder / f"{name}.db", tasks)


def measure_whole_lists(names: list[str], folder: Path, options: argparse.Namespace) -> Results:
    """Measure the list of all tasks, each time with servers that have just been started."""
    names = [name for name in names if CONTENDERS[name].has_tasks]
    results: Results = {"all": {name: [] for name in names}}
    for number in range(options.rounds):
        say(f"list of all, round {number + 1} of {options.rounds}")
        with serving_contenders(names, folder) as servers:
            for name, server in servers.items():
                results["all"][name].append(measure_whole_list(server, options.tasks))
    return results


def measure_short_requests(names: list[str], folder: Path, options: argparse.Namespace) -> Results:
    """Measure the other kinds of requests.

    A first turn that does not count fills caches, and lets Node compile.
    """
    kinds = [kind for kind in KINDS if kind in options.kinds]
    results: Results = {kind: {name: [] for name in names} for kind in kinds}
    with serving_contenders(names, folder) as servers:
        for kind in kinds:
            for server in servers.values():
                measure(server, kind, options.tasks, options.seconds)
            for number in range(options.rounds):
                say(f"{KINDS[kind]}, round {number + 1} of {options.rounds}")
                for name, server in servers.items():
                    result = measure(server, kind, options.tasks, options.seconds)
                    results[kind][name].append(result)
    return results


def measure_everything(options: argparse.Namespace, folder: Path) -> Results:
    """Measure what the options ask for, with the files in this folder."""
    names = install_contenders(options.contenders, folder)
    fill_files(names, folder, options.tasks)
    results: Results = {}
    if "all" in options.kinds:  # first: creates change the number of tasks
        results |= measure_whole_lists(names, folder, options)
    results |= measure_short_requests(names, folder, options)
    return results


def main() -> None:
    options = read_options()
    prepare()
    with tempfile.TemporaryDirectory() as directory:
        results = measure_everything(options, Path(directory))
    conditions = {
        "tasks": options.tasks,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "connections": CONNECTIONS,
        "versions": report.versions(),
    }
    if options.json:
        print(json.dumps({"conditions": conditions, "results": results}, indent=1))
    else:
        print(report.describe(conditions, results))
    if options.chart:
        report.draw(conditions, results, options.chart)


if __name__ == "__main__":
    main()
