"""Who is ahead? Rows of the ResNet-8 benchmark as tables: mean and spread over seeds, edgel0 less its best peer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean, stdev
from typing import Any

OURS, AFTER, DENSE = "edgel0", "scratch", "dense"  # scratch trains what edgel0 found: no peer
KIND = ("epochs", "distill", "validate", "samples")
Row = dict[str, Any]


def spread(values: list[float], scale: float = 100.0, digits: int = 2) -> str:
    """Return "mean ± standard deviation", of one value that value."""
    text = f"{scale * mean(values):,.{digits}f}"
    return f"{text} ± {scale * stdev(values):,.{digits}f}" if len(values) > 1 else text


def labelled(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with their own settings, where they have any, in the name of their method."""
    return [row | {"method": f"{row['method']} ({row['set']})"} if row.get("set") else row for row in rows]


def plain(method: str) -> str:
    """Return the name of a method without its settings."""
    return method.partition(" (")[0]


def difference(rows: Iterable[Row], level: float, ours: str = OURS) -> tuple[str, list[float]] | None:
    """Return the peer with the highest mean accuracy at a level and ``ours`` less it by seed; None if there is none.

    Peers count if they have every seed that ``ours`` has.
    """
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row["level"] == level and "error" not in row:
            found[row["method"]][row["seed"]] = row["accuracy"]
    mine = found.get(ours)
    if not mine:
        return None
    peers = {m: by for m, by in found.items() if plain(m) not in (OURS, AFTER, DENSE) and by.keys() >= mine.keys()}
    if not peers:
        return None
    best = max(peers, key=lambda m: mean(peers[m][seed] for seed in mine))
    return best, [mine[seed] - peers[best][seed] for seed in sorted(mine)]


def section(rows: list[Row]) -> list[str]:
    """Return the lines of one kind of run: the tables by level and the differences."""
    first = rows[0]
    seeds = sorted({row["seed"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    test = "the last 5,000 training images" if first["validate"] else "the official test set"
    lines = [
        f"## {first['epochs']} epochs{', distilled' if first['distill'] else ''}, accuracy on {test}",
        "",
        f"Seeds {', '.join(map(str, seeds))}; mean ± standard deviation over seeds."
        + (f" **{first['samples']} samples: a trial of the machinery, not a result.**" if first["samples"] else ""),
        "",
        "| MACs at most | method | accuracy % | MACs % | parameters | widths (first seed) | minutes | seeds |",
        "|--:|---|--:|--:|--:|---|--:|---|",
    ]
    for level in sorted({row["level"] for row in rows}, reverse=True):
        for method in methods:
            cell = [row for row in rows if row["level"] == level and row["method"] == method]
            good = sorted((row for row in cell if "error" not in row), key=lambda row: row["seed"])
            if not cell:
                if plain(method) != DENSE and level < 1:
                    lines.append(f"| {level:.1%} | {method} | | | | | | **none of {len(seeds)}** |")
                continue
            failed = len(cell) - len(good)
            count = f"{len(good)}" if len(good) == len(seeds) else f"**{len(good)} of {len(seeds)}**"
            count += f", {failed} failed" if failed else ""
            if not good:
                lines.append(f"| {level:.1%} | {method} | | | | | | {count} |")
                continue
            lines.append(
                f"| {level:.1%} | {method} | {spread([r['accuracy'] for r in good])} | "
                f"{spread([r['share'] for r in good])} | {spread([r['params'] for r in good], 1, 0)} | "
                f"{'-'.join(map(str, good[0]['widths']))} | {mean(r['seconds'] for r in good) / 60:.1f} | {count} |"
            )
    return [*lines, "", *gaps(rows), *(f"- {_named(row)}: {row['error']}" for row in rows if "error" in row)]


def gaps(rows: list[Row]) -> list[str]:
    """Return edgel0's lead over the best peer, by level and on average."""
    lines = []
    for ours in dict.fromkeys(row["method"] for row in rows if plain(row["method"]) == OURS):
        levels = sorted({row["level"] for row in rows if row["method"] == ours}, reverse=True)
        found = {level: difference(rows, level, ours) for level in levels}
        for level, each in found.items():
            said = f"{ours}: no peer with all of its seeds yet"
            if each:
                said = f"{ours} less {each[0]}: {spread(each[1])} points, {len(each[1])} seed(s)"
            lines.append(f"- at {level:.1%}, {said}")
        whole = [mean(each[1]) for each in found.values() if each]
        if whole:
            some = "" if len(whole) == len(levels) else f", {len(whole)} of {len(levels)} levels"
            lines.append(f"- on average, {ours} less its best peer: {100 * mean(whole):+.2f} points{some}")
    return ["The best peer of each level, compared seed by seed:", "", *lines, ""] if lines else []


def report(rows: list[Row]) -> str:
    """Return the whole report."""
    rows = labelled(rows)
    versions = sorted({", ".join(f"{name} {number}" for name, number in row["versions"].items()) for row in rows})
    machines = sorted({f"{row['machine']}, {row['threads']} thread(s)" for row in rows})
    lines = [
        "# ResNet-8 on CIFAR-10",
        "",
        f"Made by `make resnet8` with {'; '.join(versions)}; on {'; '.join(machines)}.",
        "",
        "MLPerf Tiny's ResNet-8 (widths trunk-inner of three stages). All methods: the same epochs, batches, crops and "
        "flips, initial weights by seed and one cosine for the rate; a new optimizer wherever a phase begins. Before "
        "anything is removed, edgel0 and `tp-*` train the same dense epochs (for all `tp-*` of a seed computed once, "
        "and counted in the minutes of each). `tp-*` is Torch-Pruning, global ranking, in one step or in five over the "
        "phase in which edgel0's gates train. `uniform` scales all widths by one factor, `scratch` trains what edgel0 "
        "found from new weights; both train all epochs at the small size. MACs are counted by edgel0 for every row.",
        "",
    ]
    kinds = list(dict.fromkeys(tuple(row[name] for name in KIND) for row in rows if plain(row["method"]) != DENSE))
    kinds = kinds or list(dict.fromkeys(tuple(row[name] for name in KIND) for row in rows))
    for kind in kinds:
        shared = {name: value for name, value in zip(KIND, kind, strict=True) if name != "distill"}
        mine = [row for row in rows if tuple(row[name] for name in KIND) == kind and plain(row["method"]) != DENSE]
        dense = [row for row in rows if plain(row["method"]) == DENSE and all(row[n] == v for n, v in shared.items())]
        lines += [*section(sorted([*dense, *mine], key=_place)), ""]
    return "\n".join(lines).rstrip() + "\n"


ORDER = (DENSE, OURS, AFTER, "uniform")


def _place(row: Row) -> tuple[int, str, float, int]:
    method = row["method"]
    first = plain(method)
    return ORDER.index(first) if first in ORDER else len(ORDER), method, -row["level"], row["seed"]


def _named(row: Row) -> str:
    return f"{row['method']} at {row['level']:.1%}, seed {row['seed']}"
