"""The report of a benchmark: Markdown tables of medians, and a chart."""

import platform
import shutil
import sqlite3
import statistics
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from load import KINDS, Result, Results
from servers import CONTENDERS

PACKAGES = ("starlette", "uvicorn", "uvloop", "httptools", "fastapi", "pydantic", "sqlalchemy")
TEXT_COLORS = {"light": "#1f2328", "dark": "#e6edf3"}
BAR_COLORS = {
    "todo": "#2f81f7",
    "bare": "#8b949e",
    "starlette": "#3fb950",
    "fastapi": "#db6d28",
    "fastify": "#a371f7",
}
BAR_HEIGHT = 0.16  # of the space for one kind of request
SVG = {"svg.fonttype": "none", "svg.hashsalt": "todo", "font.sans-serif": ["DejaVu Sans"]}


def versions() -> dict[str, str]:
    """Return the versions of everything that the numbers depend on."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    found |= {package: version(package) for package in PACKAGES if find_spec(package)}
    if shutil.which("node"):
        done = subprocess.run(["node", "--version"], capture_output=True, text=True)
        found["node"] = done.stdout.strip().removeprefix("v")
    return found


def median(rounds: list[Result], value: str) -> float:
    """Return the median of one value."""
    return statistics.median(one[value] for one in rounds)


def median_ratio(rounds: list[Result], others: list[Result], value: str) -> float:
    """Return the median of the ratios of each round to the other's round beside it."""
    pairs = zip(rounds, others, strict=True)
    return statistics.median(one[value] / other[value] for one, other in pairs)


# Tables


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def describe(conditions: dict[str, Any], results: Results) -> str:
    """Return the whole report as text."""
    parts = [
        f"{conditions['tasks']:,} tasks, {conditions['connections']} connections, one core; "
        f"medians of {conditions['rounds']} rounds of {conditions['seconds']} s."
    ]
    short = short_requests(results)
    if short:
        parts += ["Requests a second", values_table(short, "rate", "{:,.0f}")]
        parts += ["CPU time of a request, µs", values_table(short, "cpu", "{:,.0f}")]
        parts += ["Latency, 99th percentile, ms", values_table(short, "p99", "{:,.1f}")]
        if "todo" in contenders_of(short):
            divided = "of this server divided by that of"
            parts += [f"Requests a second {divided}", ratios_table(short, "rate")]
            parts += [f"CPU time of a request {divided}", ratios_table(short, "cpu")]
    if "all" in results:
        parts += ["The list of all tasks", whole_lists_table(results["all"])]
    parts += [", ".join(f"{name} {number}" for name, number in conditions["versions"].items())]
    return "\n\n".join(parts)


def short_requests(results: Results) -> Results:
    """Return the results without those of the list of all tasks."""
    return {kind: results[kind] for kind in KINDS if kind in results}


def contenders_of(results: Results) -> list[str]:
    """Return the names of the contenders, which are the same for every kind of request."""
    first = next(iter(results.values()))
    return list(first)


def values_table(short: Results, value: str, form: str) -> str:
    """Return a table of one value, by contender and kind of request."""
    rows = []
    for name in contenders_of(short):
        values = [form.format(median(short[kind][name], value)) for kind in short]
        rows.append([CONTENDERS[name].title, *values, CONTENDERS[name].writes])
    return table(["", *[KINDS[kind] for kind in short], "writes"], rows)


def ratios_table(short: Results, value: str) -> str:
    """Return a table of one value of this server divided by the other contenders' value."""
    names = [name for name in contenders_of(short) if name != "todo"]
    rows = []
    for name in names:
        ratios = [median_ratio(short[kind]["todo"], short[kind][name], value) for kind in short]
        rows.append([CONTENDERS[name].title, *[f"{ratio:.2f}" for ratio in ratios]])
    return table(["", *[KINDS[kind] for kind in short]], rows)


def whole_lists_table(lists: dict[str, list[Result]]) -> str:
    """Return a table of the list of all tasks, by contender."""
    rows = []
    for name, rounds in lists.items():
        first, whole = median(rounds, "first"), median(rounds, "whole")
        memory = median(rounds, "memory")
        values = [f"{first:,.0f} ms", f"{whole:,.1f} s", f"{memory:,.0f} MB"]
        rows.append([CONTENDERS[name].title, *values])
    return table(["", "first byte", "all", "memory on top"], rows)


# The chart


def draw(conditions: dict[str, Any], results: Results, folder: Path) -> None:
    """Draw chart-light.svg and chart-dark.svg: the requests a second."""
    import matplotlib

    short = short_requests(results)
    title = f"Requests a second on one core, {conditions['tasks']:,} tasks in the table"
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(SVG):
        for theme, color in TEXT_COLORS.items():
            figure = plot(short, title, color)
            metadata = {"Date": None, "Creator": None}  # the same numbers give the same file
            figure.savefig(folder / f"chart-{theme}.svg", transparent=True, metadata=metadata)


def plot(short: Results, title: str, color: str) -> Any:
    """Return the figure, with its text in this color."""
    from matplotlib.figure import Figure

    names = contenders_of(short)
    figure = Figure(figsize=(8.4, 1 + len(short)), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        rates = [median(short[kind][name], "rate") for kind in short]
        middles = [row + BAR_HEIGHT * (place - (len(names) - 1) / 2) for row in range(len(short))]
        label = CONTENDERS[name].title
        bars = axes.barh(middles, rates, BAR_HEIGHT, color=BAR_COLORS[name], label=label)
        axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=4, color=color, size=8)
    axes.set_yticks(range(len(short)), [KINDS[kind] for kind in short])
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.tick_params(length=0, colors=color)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.08, y=0.01)
    axes.set_title(title, color=color, fontsize=11, loc="left", pad=12)
    figure.legend(frameon=False, labelcolor=color, loc="outside lower center", ncols=3, fontsize=9)
    return figure
