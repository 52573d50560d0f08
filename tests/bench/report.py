"""The report: tables for a person, and the plot."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tests.support.reads import LOOKUPS

_BOTTLENECK_CPU = 0.9
_BOTTLENECK_RATE = 0.8
_MOST_PACKAGES = 12

BATCHES = "batches_of_20"
"""The service again, with twenty adds in each request."""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    all_rows = [head, *rows]
    widths = [max(len(row[column]) for row in all_rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in all_rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _select(rows: Iterable[dict[str, Any]], **what: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[name] == value for name, value in what.items())]


def _median(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return statistics.median(values) if values else None


def _ratio(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], name: str) -> str:
    """The median of the ratios of each round, and the least and the greatest."""
    found = [
        one[name] / other[name]
        for one, other in zip(ours, theirs, strict=True)
        if one[name] is not None and other[name]
    ]
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})" if found else ""


def _number(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


def _unique(rows: Iterable[dict[str, Any]], name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))


def _compared(rounds: Sequence[dict[str, Any]]) -> str:
    rows = []
    for clients in _unique(rounds, "clients"):
        service = _select(rounds, contender="service", clients=clients)
        for name in sorted(_unique(rounds, "contender")):
            own = _select(rounds, contender=name, clients=clients)
            rows.append(
                (
                    name,
                    str(clients),
                    _number(_median(own, "adds_per_second"), 0),
                    _number(_median(own, "p50"), 2),
                    _number(_median(own, "p99"), 2),
                    _number(_median(own, "app_cpu_ms"), 3),
                    _number(_median(own, "load_cpu_share"), 2),
                    _number(_median(own, "storage_cpu_share"), 2),
                    str(sum(row["failed"] for row in own)),
                    "" if name == "service" else _ratio(service, own, "adds_per_second"),
                    "" if name == "service" else _ratio(service, own, "app_cpu_ms"),
                )
            )
    head = ("contender", "clients", "adds/s", "p50 ms", "p99 ms", "app CPU ms/add", "load CPU", "storage CPU", "failed")
    return _table((*head, "service's adds/s, ratio", "service's CPU, ratio"), rows)


def _batched(rounds: Sequence[dict[str, Any]]) -> str:
    """What batches are worth: their customers beside single adds, in the same rounds."""
    rows = []
    for clients in _unique(rounds, "clients"):
        batches, single = (_select(rounds, contender=name, clients=clients) for name in (BATCHES, "service"))
        rows.append((str(clients), _ratio(batches, single, "adds_per_second"), _ratio(batches, single, "app_cpu_ms")))
    return _table(("clients", "customers/s, ratio", "CPU per customer, ratio"), rows)


def _bottlenecks(rounds: Sequence[dict[str, Any]]) -> str:
    """When the load, not the server, was what limited a figure."""
    said = [
        f"The load limited {row['contender']} at {row['clients']} clients in round {row['round'] + 1}: it used "
        f"{row['load_cpu_share']:.0%} of a core and did {row['adds_per_second'] / noop['adds_per_second']:.0%} of what "
        "it does with the no-op server."
        for row in rounds
        for noop in _select(rounds, contender="noop", clients=row["clients"], round=row["round"])
        if row["contender"] != "noop"
        and (
            row["load_cpu_share"] > _BOTTLENECK_CPU
            or row["adds_per_second"] > _BOTTLENECK_RATE * noop["adds_per_second"]
        )
    ]
    return "\n".join(said) or "The load was never the bottleneck."


def _grown(growth: dict[str, Any]) -> str:
    rounds = growth["rounds"]
    rows = []
    for name in _unique(rounds, "contender"):
        full, empty = (_select(rounds, contender=name, table=table) for table in ("full", "empty"))
        figures = [_number(_median(own, field), 2) for field in ("adds_per_second", "p99") for own in (empty, full)]
        rows.append((name, *figures, _ratio(full, empty, "adds_per_second"), _ratio(full, empty, "p99")))
    compared = _table(
        ("contender", "adds/s empty", "full", "p99 ms empty", "full", "adds/s, ratio", "p99, ratio"), rows
    )
    curve = _table(
        ("rows", "bare inserts/s", "p99 ms"),
        [(str(step["rows"]), _number(step["adds_per_second"], 0), _number(step["p99"], 2)) for step in growth["curve"]],
    )
    return f"{compared}\n\nStorage alone, as the table fills:\n\n{curve}"


def _started(starts: Sequence[dict[str, Any]]) -> str:
    rows = []
    for kind in _unique(starts, "kind"):
        for pyc in (True, False):
            bare = _select(starts, kind=kind, pyc=pyc, app="bare_imports")
            for app in _unique(starts, "app"):
                if app != "bare_imports" and (own := _select(starts, kind=kind, pyc=pyc, app=app)):
                    seconds = [_number(_median(figures, "seconds"), 2) for figures in (own, bare)]
                    rows.append((kind, app, "with" if pyc else "without", *seconds, _ratio(own, bare, "seconds")))
    return _table(("from", "app", ".pyc", "s", "bare imports s", "ratio"), rows)


def _looked_up(lookups: dict[str, Any]) -> str:
    asked = _table(
        ("request", "customers", "storage requests", "rows", "s in Azure", "s without the index"),
        [
            (
                row["query"],
                str(row["customers"]),
                str(row["requests"]),
                str(row["rows"]),
                _number(row["seconds"], 3),
                _number(row["seconds_before"], 3),
            )
            for row in sorted(lookups["asked"], key=lambda row: str(row["query"]))
        ],
    )
    rows = []
    for size in _unique(lookups["timed"], "customers"):
        service, bare = (
            _select(lookups["timed"], customers=size, contender=name) for name in ("service", "bare requests")
        )
        medians = [_number(_median(own, "p50"), 2) for own in (service, bare)]
        rows.append(
            (str(size), *medians, _ratio(service, bare, "p50"), str(sum(row["failed"] for row in service + bare)))
        )
    timed = _table(("customers", "lookup ms", "the same bare requests ms", "ratio", "failed"), rows)
    return f"{asked}\n\nA lookup by address, one client, with Azurite:\n\n{timed}"


def text(figures: dict[str, Any]) -> str:
    """All tables; a ratio is the median of the rounds' ratios, with the least and the greatest."""
    parts = []
    if rounds := figures["rounds"]:
        parts += ["Adds", _compared(rounds), _bottlenecks(rounds)]
        parts += ["Batches of 20 adds against single adds", _batched(rounds)]
    if lookups := figures["lookups"]:
        parts += ["What reads ask of storage, and what its published limits make of that", _looked_up(lookups)]
    if growth := figures["growth"]:
        parts += [f"A table of {growth['curve'][-1]['rows']} customers against an empty one", _grown(growth)]
    if starts := figures["starts"]:
        parts += ["To the first 201", _started(starts)]
    if imports := figures["imports"]:
        most = list(imports.items())[:_MOST_PACKAGES]
        rows = [(name, f"{milliseconds:.0f}") for name, milliseconds in most]
        rows.append(("all", f"{sum(imports.values()):.0f}"))
        parts += ["Imports of the service, by package", _table(("package", "ms"), rows)]
    return "\n\n".join(parts)


def plot(figures: dict[str, Any], path: Path) -> None:
    """Draw what there is of the adds, the times, the CPU, the growth and the lookups."""
    figure = Figure(figsize=(18, 8), layout="constrained")
    axes = figure.subplots(2, 3)
    rounds = [row for row in figures["rounds"] if row["contender"] != "noop"]
    clients = _unique(rounds, "clients")
    for index, name in enumerate(_unique(rounds, "contender")):
        style = {"label": name, "marker": "o", "color": f"C{index}"}
        own = [_select(rounds, contender=name, clients=number) for number in clients]
        rates = [[row["adds_per_second"] for row in group] for group in own]
        middle = [statistics.median(values) for values in rates]
        spread = [
            [value - min(values) for value, values in zip(middle, rates, strict=True)],
            [max(values) - value for value, values in zip(middle, rates, strict=True)],
        ]
        axes[0, 0].errorbar(clients, middle, yerr=spread, capsize=3, **style)
        axes[0, 1].plot(clients, [_median(group, "p99") for group in own], **style)
        if own[0][0]["app_cpu_ms"] is not None:
            axes[1, 0].plot(clients, [_median(group, "app_cpu_ms") for group in own], **style)
    for axis, title in (
        (axes[0, 0], "adds a second"),
        (axes[0, 1], "p99, ms"),
        (axes[1, 0], "app CPU, ms an add"),
    ):
        axis.set(title=title, xlabel="clients")
        if rounds:
            axis.set_xscale("log", base=2)
            axis.set_xticks(clients, [str(number) for number in clients])
            axis.legend()
        axis.set_ylim(bottom=0)
    growth = figures["growth"]
    axes[1, 1].set(title="adds a second as the table grows", xlabel="rows")
    if growth:
        curve = growth["curve"]
        axes[1, 1].plot(
            [step["rows"] for step in curve], [step["adds_per_second"] for step in curve], label="bare_inserts"
        )
        ends = [
            _median(_select(growth["rounds"], contender="service", table=table), "adds_per_second")
            for table in ("empty", "full")
        ]
        axes[1, 1].plot([0, curve[-1]["rows"]], ends, label="service", marker="o")
        axes[1, 1].legend()
    axes[1, 1].set_ylim(bottom=0)
    if lookups := figures["lookups"]:
        _plot_lookups(lookups, axes[0, 2], axes[1, 2])
    figure.savefig(path, dpi=110)


def _plot_lookups(lookups: dict[str, Any], asked: Any, timed: Any) -> None:
    sizes = _unique(lookups["asked"], "customers")
    for name, field in (("with the index", "seconds"), ("without", "seconds_before")):
        seconds = [_select(lookups["asked"], query=LOOKUPS[0], customers=size)[0][field] for size in sizes]
        asked.plot(sizes, seconds, label=name, marker="o")
    asked.set(title="a lookup by address in Azure, s", xlabel="customers", xscale="log", yscale="log")
    for name in ("service", "bare requests"):
        p50 = [_median(_select(lookups["timed"], contender=name, customers=size), "p50") for size in sizes]
        timed.plot(sizes, p50, label=name, marker="o")
    timed.set(title="a lookup by address with Azurite, ms", xlabel="customers", xscale="log", ylim=(0, None))
    asked.legend()
    timed.legend()
