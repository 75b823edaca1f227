"""The report in three numbers: one of each part, for the way that is the default of a client."""

from collections.abc import Iterator
from dataclasses import dataclass

from ringtable._bench import wording
from ringtable._bench.analysis import CROWD, MANY_ST
from ringtable._bench.results import Results
from ringtable._bench.samples import compare
from ringtable._bench.sections import MEMCPY
from ringtable._bench.verdict import CLASSIC, LANES, beside_classic, faster_or_slower


@dataclass(frozen=True)
class Number:
    figure: str
    what: str
    where_from: str
    """The medians that it is made of."""


def headline(results: Results) -> list[Number]:
    """Of each part that was measured over lanes: reading in place, if that was."""
    numbers = []
    for part in (crowded, scaled, large):
        numbers += [number for way in reversed(LANES) for number in part(results, way)][:1]
    return numbers


def crowded(results: Results, way: str) -> Iterator[Number]:
    figures, classic = (results.scenario(MANY_ST.name, name) for name in (way, CLASSIC))
    speed = beside_classic(results, MANY_ST, way)
    if figures and classic and speed:
        kind, ratio, _ = faster_or_slower(speed)
        figure, what = ("level", f"with the classic topology, {wording.NOISE}") if speed.noise else (ratio, kind)
        what = what if speed.noise else f"{what} than the classic topology"
        yield Number(
            figure,
            f"{what}, beside {CROWD} other clients at 1 thread",
            f"client 100 10: {way} {wording.ms(figures.ms.median)}, {CLASSIC} {wording.ms(classic.ms.median)}",
        )


def scaled(results: Results, way: str) -> Iterator[Number]:
    counts = sorted({of.clients for of in results.scaling if of.way == way and of.operations_per_s})
    one, most = (results.scaled(way, count) for count in (counts[0], counts[-1])) if counts else (None, None)
    if one and most:
        alone = f", {wording.ns(one.cpu_ns.median)} where there is 1 client" if len(counts) > 1 else ""
        yield Number(
            wording.per_s(most.throughput.median),
            f"operations of {wording.clients(most.clients)} in tight loops, 95 % of them get",
            f"{way}; CPU time of one, server included: {wording.ns(most.cpu_ns.median)}{alone}",
        )


def large(results: Results, way: str) -> Iterator[Number]:
    size = max((of.size for of in results.payloads), default=0)
    figures, copied = (results.payload(name, "get", size, 1) for name in (way, MEMCPY))
    if figures and copied and figures.gb_per_s and copied.gb_per_s:
        yield Number(
            f"{compare(figures.rate, copied.rate).ratio * 100:.0f} %",
            f"of memcpy's rate, for a get of {wording.size(size)} by 1 client",
            f"{way} {wording.gb_per_s(figures.rate.median)}, memcpy {wording.gb_per_s(copied.rate.median)}",
        )
