"""Compare the CPU time of this checkout's requests with another checkout's: a paired run.

    git worktree add ../base main
    python tests/bench/compare.py --against ../base

The two servers take turns, in many short rounds, with this interpreter and its packages. The ratio
is the median of the rounds' ratios, so a slow minute of the machine does not change it much.
Below 1, this checkout takes less. A checkout against itself shows how much is noise.
"""

import argparse
import tempfile
from pathlib import Path

import report
from load import KINDS, Result, measure
from servers import ON_FIRST_CORE, ROOT, Server, insert_tasks, prepare, say, serving


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--against", type=Path, required=True, metavar="FOLDER", help="of the other"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--tasks", type=int, default=100_000, help="in the table (100000)")
    parser.add_argument("--rounds", type=int, default=15, help="for each kind of request (15)")
    parser.add_argument("--seconds", type=int, default=1, help="for each turn (1)")
    return parser.parse_args()


def measure_in_turns(
    base: Server, here: Server, kind: str, options: argparse.Namespace
) -> tuple[list[Result], list[Result]]:
    """Return the results of both servers, whose order changes with each round.

    A first turn that does not count fills caches.
    """
    base_rounds: list[Result] = []
    here_rounds: list[Result] = []
    for server in (base, here):
        measure(server, kind, options.tasks, options.seconds)
    turns = [(base, base_rounds), (here, here_rounds)]
    for number in range(options.rounds):
        say(f"{KINDS[kind]}, round {number + 1} of {options.rounds}")
        for server, rounds in turns:
            rounds.append(measure(server, kind, options.tasks, options.seconds))
        turns.reverse()
    return base_rounds, here_rounds


def make_file(db: Path, checkout: Path, tasks: int) -> None:
    """Let a checkout create its table in a new file, and fill it."""
    with serving(db, folder=checkout):
        pass
    insert_tasks(db, tasks)


def compare(base: Server, here: Server, options: argparse.Namespace) -> list[list[str]]:
    """Return table rows: the CPU times in µs and their ratio, by kind of request."""
    rows = []
    for kind in options.kinds:
        base_rounds, here_rounds = measure_in_turns(base, here, kind, options)
        times = [report.median(rounds, "cpu") for rounds in (base_rounds, here_rounds)]
        ratio = report.median_ratio(here_rounds, base_rounds, "cpu")
        rows.append([KINDS[kind], *[f"{time:.1f}" for time in times], f"{ratio:.3f}"])
    return rows


def main() -> None:
    options = read_options()
    prepare()
    with tempfile.TemporaryDirectory() as directory:
        base_db, here_db = Path(directory, "base.db"), Path(directory, "here.db")
        make_file(base_db, options.against, options.tasks)
        make_file(here_db, ROOT, options.tasks)
        with (
            serving(base_db, prefix=ON_FIRST_CORE, folder=options.against) as base,
            serving(here_db, prefix=ON_FIRST_CORE, folder=ROOT) as here,
        ):
            rows = compare(base, here, options)
    print("CPU time of a request, µs\n")
    print(report.table(["", "the other", "this one", "ratio"], rows))


if __name__ == "__main__":
    main()
