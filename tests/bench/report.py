"""What run.py makes of its results: best and median, ratios, tables and a chart."""

import platform
import sqlite3
import statistics
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Row = dict[Any, Any]
Names = Mapping[str, str]
COLOURS = {"bare": "#8b949e", "todo": "#2f81f7", "fastapi": "#db6d28"}
THEMES = {"light": "#1f2328", "dark": "#e6edf3"}  # of the text
SVG: Row = {
    "svg.fonttype": "none",
    "svg.hashsalt": "todo",
    "font.size": 11,
    "font.sans-serif": ["DejaVu Sans"],
}


def summarize(results: list[Row]) -> list[Row]:
    """Return the best and the median round of each contender at each measure."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in results:
        groups.setdefault((row["measure"], row["tasks"], row["contender"]), []).append(row)
    summary: list[Row] = []
    for key, rows in groups.items():
        summary.append(dict(zip(("measure", "tasks", "contender"), key, strict=True)))
        for unit in [unit for unit in {**rows[0], **rows[-1]} if unit not in summary[-1]]:
            values = [row[unit] for row in rows if unit in row]
            best = max(values) if unit == "rps" else min(values)
            summary[-1][unit] = {"best": best, "median": statistics.median(values)}
    return summary


def compare(summary: list[Row]) -> list[Row]:
    """Return this server's throughput in multiples of the others': by requests a second and by CPU time."""
    found = {
        (row["measure"], row["tasks"], row["contender"]): row for row in summary if "rps" in row
    }
    ratios = []
    for (measure, tasks, other), row in found.items():
        if other != "todo" and (todo := found.get((measure, tasks, "todo"))):
            ratio = {kind: todo["rps"][kind] / row["rps"][kind] for kind in ("best", "median")}
            ratio["cpu"] = row["cpu_us"]["median"] / todo["cpu_us"]["median"]
            ratios.append({"measure": measure, "tasks": tasks, "to": other, **ratio})
    return ratios


def environment(rounds: int, seconds: int, connections: int) -> Row:
    """Return what the numbers depend on, beside the machine."""
    packages = ["starlette", "uvicorn", "uvloop", "httptools", "fastapi", "pydantic", "sqlalchemy"]
    versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    versions |= {package: version(package) for package in packages if find_spec(package)}
    return {"connections": connections, "rounds": rounds, "seconds": seconds, "versions": versions}


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, or nothing if it has no rows."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        " | ".join(map(str.ljust, row, widths))
        for row in [head, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(f"| {line} |" for line in lines) + "\n" if rows else ""


def describe(report: Row, titles: Names, contenders: Names) -> str:
    """Return the report as text for people."""
    found = {(row["measure"], row["tasks"], row["contender"]): row for row in report["results"]}
    ratios = {(row["measure"], row["tasks"], row["to"]): row for row in report["ratios"]}
    rates, lists, alone = [], [], []
    for measure, tasks in dict.fromkeys(key[:2] for key in found):
        rows = {name: found.get((measure, tasks, name), {}) for name in contenders}
        others = [ratios.get((measure, tasks, name)) for name in contenders if name != "todo"]
        line = [titles[measure], f"{tasks:,}"]
        if measure == "list-all":
            lists += [[contenders[name], *show_list(row)] for name, row in rows.items() if row]
        else:
            rates.append([*line, *map(show_rate, rows.values()), *map(show_ratio, others)])
        if sqlite := found.get((measure, tasks, "sqlite")):
            ratio = ratios[measure, tasks, "sqlite"]
            alone.append(
                [
                    *line,
                    f"{sqlite['cpu_us']['median']:.0f} µs",
                    f"{1 / ratio['best']:.2f}, {1 / ratio['cpu']:.2f}",
                ]
            )
    ratio_heads = [f"to {text}" for name, text in contenders.items() if name != "todo"]
    texts = [
        "Requests a second: the best round (the median), and CPU time of one\nRatios of this server: best, CPU\n",
        table(["", "tasks", *contenders.values(), *ratio_heads], rates),
        table(["a list of all: a million", "first byte", "all", "memory on top"], lists),
        table(["SQLite alone", "tasks", "takes", "and this server, times as much"], alone),
        ", ".join(f"{name} {number}" for name, number in report["environment"]["versions"].items()),
    ]
    return "\n".join(text for text in texts if text)


def show_rate(row: Row) -> str:
    if not row:
        return "-"
    return (
        f"{row['rps']['best']:,.0f} ({row['rps']['median']:,.0f}), {row['cpu_us']['median']:.0f} µs"
    )


def show_ratio(ratio: Row | None) -> str:
    return f"{ratio['best']:.2f}, {ratio['cpu']:.2f}" if ratio else "-"


def show_list(row: Row) -> list[str]:
    first = f"{row['first_byte_ms']['median']:,.0f} ms" if "first_byte_ms" in row else "none"
    total = (
        f"{row['total_s']['median']:.1f} s"
        if "total_s" in row
        else f"not in {row['gave_up_s']['best']} s"
    )
    return [first, total, f"{row['memory_mb']['median']:,.0f} MB"]


def draw(report: Row, titles: Names, contenders: Names, directory: Path) -> None:
    """Write chart-light.svg and chart-dark.svg: each one's best round at each measure with the most tasks."""
    import matplotlib

    best = {
        (row["measure"], row["contender"]): row["rps"]["best"]
        for row in report["results"]
        if "rps" in row
    }
    most = max(row["tasks"] for row in report["results"])
    title = f"Requests a second on one core, {most:,} tasks in the table"
    with matplotlib.rc_context(SVG):
        for theme, ink in THEMES.items():
            figure = plot(best, titles, contenders, title, ink)
            figure.savefig(
                directory / f"chart-{theme}.svg",
                transparent=True,
                metadata={"Date": None, "Creator": None},
            )


def plot(
    best: Mapping[tuple[str, str], float], titles: Names, contenders: Names, title: str, ink: str
) -> Any:
    from matplotlib.figure import Figure

    measures = [
        measure for measure in titles if any((measure, name) in best for name in contenders)
    ]
    figure = Figure(figsize=(8.4, 0.7 + 0.62 * len(measures)), layout="constrained")
    axes = figure.subplots()
    for place, (name, colour) in enumerate(COLOURS.items()):
        rates = [best.get((measure, name), 0) for measure in measures]
        heights = [row + 0.27 * (place - 1) for row in range(len(measures))]
        bars = axes.barh(heights, rates, 0.25, color=colour, label=contenders[name])
        axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=4, color=ink, fontsize=9)
    axes.set_yticks(range(len(measures)), [titles[measure] for measure in measures])
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.tick_params(length=0, colors=ink)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.08, y=0.01)
    axes.set_title(title, color=ink, fontsize=11, loc="left", pad=12)
    figure.legend(frameon=False, labelcolor=ink, loc="outside lower center", ncols=len(COLOURS))
    return figure
