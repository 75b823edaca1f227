"""What the figures say, in sentences. Each is computed from the results and from nothing else."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ringtable._bench import wording
from ringtable._bench.analysis import ALONE_ST, COMPARED, MANY_MT, MANY_ST, SCENARIOS, Scenario
from ringtable._bench.results import Results
from ringtable._bench.samples import Samples, compare
from ringtable._bench.sections import MEMCPY
from ringtable._bench.wording import NOISE

CLASSIC = "shared"
LANES = ("lanes", "lanes+direct")


@dataclass(frozen=True)
class Paragraph:
    title: str
    sentences: Sequence[str]


@dataclass(frozen=True)
class Contest:
    """The same thing done in several ways."""

    what: str
    entries: dict[str, Samples]
    show: Callable[[float], str]
    more_is_better: bool

    def factor(self, winner: str, loser: str) -> float:
        """How many times better the first one's median is."""
        ratio = compare(self.entries[winner], self.entries[loser]).ratio
        return ratio if self.more_is_better or not ratio else 1 / ratio

    def noise(self, one: str, other: str) -> bool:
        return compare(self.entries[one], self.entries[other]).noise

    def ranking(self) -> list[str]:
        return sorted(self.entries, key=lambda name: self.entries[name].median, reverse=self.more_is_better)

    def median(self, name: str) -> str:
        return self.show(self.entries[name].median)

    def sentence(self) -> str:
        """Who wins, who cannot be told from the winner, who is last."""
        best, *others = self.ranking()
        result = f"{self.what}: {best} is fastest with {self.median(best)}"
        level = [name for name in others if self.noise(best, name)]
        if not others:
            return f"{self.what}: {best} has {self.median(best)}; nothing else was measured."
        if level == others:
            names = wording.listing(level)
            return f"{self.what}: {best} has the best median, {self.median(best)}, but {names} may be as fast ({NOISE})."
        if level:
            result += f", and {wording.listing(level)} may be as fast ({NOISE})"
        worst = others[-1]
        if not self.noise(best, worst):
            result += f"; {worst} is slowest with {self.median(worst)}, {wording.times(self.factor(best, worst))} slower"
        return result + "."

    def losses(self, name: str, rivals: Sequence[str]) -> str | None:
        """By how much `name` loses to the best of these rivals, if it does."""
        better = [
            rival
            for rival in self.ranking()
            if rival in rivals and self.factor(rival, name) > 1 and not self.noise(rival, name)
        ]
        if not better:
            return None
        winner = better[0]
        factor = wording.times(self.factor(winner, name))
        return f"{self.what} ({self.median(name)}, {winner} {self.median(winner)}, {factor})"


def verdict(results: Results) -> list[Paragraph]:
    paragraphs = (
        Paragraph("The seven scenarios", list(scenario_sentences(results))),
        Paragraph("One client to sixteen", list(scaling_sentences(results))),
        Paragraph("Large values", list(payload_sentences(results))),
    )
    return [paragraph for paragraph in paragraphs if paragraph.sentences]


# The scenarios


def scenario_contests(results: Results) -> list[Contest]:
    contests = []
    for scenario in SCENARIOS.values():
        found = {way: results.scenario(scenario.name, way) for way in results.ways}
        entries = {way: figures.ms for way, figures in found.items() if figures and figures.seconds}
        if entries:
            contests.append(Contest(scenario.title, entries, wording.ms, more_is_better=False))
    return contests


def scenario_sentences(results: Results) -> Iterator[str]:
    contests = {contest.what: contest for contest in scenario_contests(results)}
    for scenario in (ALONE_ST, MANY_ST, MANY_MT):
        if scenario.title in contests:
            yield contests[scenario.title].sentence()
    yield from crowd_sentence(results)
    yield from threads_sentence(results)
    for scenario in (MANY_ST, MANY_MT):
        yield from against_classic(results, scenario)
    yield from loss_sentences(list(contests.values()))


def crowd_sentence(results: Results) -> Iterator[str]:
    """What the others in the background cost each way."""
    costs = []
    for way in results.ways:
        alone, many = (results.scenario(scenario.name, way) for scenario in (ALONE_ST, MANY_ST))
        if alone and many and alone.seconds and many.seconds:
            cost = compare(many.ms, alone.ms)
            costs.append(f"{way} {wording.times(cost.ratio)}{f' ({NOISE})' if cost.noise else ''}")
    if costs:
        yield (
            f"A crowd of 16 in the background makes the one measured client take, beside alone at 1 thread:"
            f" {', '.join(costs)} as long (the analysis: {wording.times(183.7 / 18.9)})."
        )


def threads_sentence(results: Results) -> Iterator[str]:
    """Whether 16 workers help with a crowd."""
    gains: dict[str, list[str]] = {"faster": [], "slower": [], "level": []}
    for way in results.ways:
        one, many = (results.scenario(scenario.name, way) for scenario in (MANY_ST, MANY_MT))
        if one and many and one.seconds and many.seconds:
            gain = compare(one.ms, many.ms)
            if gain.noise:
                gains["level"].append(f"{way} ({wording.times(gain.ratio)})")
            elif gain.ratio > 1:
                gains["faster"].append(f"{way} ({wording.times(gain.ratio)})")
            else:
                gains["slower"].append(f"{way} ({wording.times(1 / gain.ratio)})")
    parts = [
        f"{text} {wording.listing(gains[kind])}"
        for kind, text in (("faster", "faster"), ("slower", "slower"), ("level", f"no different ({NOISE})"))
        if gains[kind]
    ]
    if parts:
        yield f"Sixteen threads instead of one make 16 visitors: {'; '.join(parts)}. The analysis had 1.14x faster."


def against_classic(results: Results, scenario: Scenario) -> Iterator[str]:
    """How each successor does beside the classic."""
    classic = results.scenario(scenario.name, CLASSIC)
    if not classic or not classic.seconds:
        return
    for way in results.ways:
        figures = results.scenario(scenario.name, way)
        if way != CLASSIC and figures and figures.seconds:
            yield faster_or_slower(way, CLASSIC, f"with {scenario.title}", figures.ms, classic.ms)


def loss_sentences(contests: list[Contest]) -> Iterator[str]:
    """Where lanes lose to something that is no lane."""
    for name in LANES:
        rivals = {rival for contest in contests if name in contest.entries for rival in contest.entries}
        rivals -= {*LANES}
        if rivals:
            losses = [
                loss for contest in contests if name in contest.entries for loss in [contest.losses(name, list(rivals))]
                if loss
            ]
            yield (
                f"{name} loses here: {'; '.join(losses)}."
                if losses
                else f"{name} is nowhere here slower than {wording.listing(sorted(rivals))} beyond noise."
            )


def faster_or_slower(one: str, other: str, where: str, ms: Samples, reference_ms: Samples) -> str:
    """"lanes is 8.2x faster than shared with 16 visitors"."""
    speed = compare(reference_ms, ms)
    if speed.noise:
        return f"{one} and {other} are level {where} ({wording.times(speed.ratio)}, {NOISE})."
    if speed.ratio > 1:
        return f"{one} is {wording.times(speed.ratio)} faster than {other} {where}."
    return f"{one} is {wording.times(1 / speed.ratio)} slower than {other} {where}."


def ratios(results: Results, way: str) -> list[str]:
    """The summary of a way, worded as the analysis words it."""
    lines = []
    for one, other in COMPARED:
        figures, reference = results.scenario(one.name, way), results.scenario(other.name, way)
        if figures and reference and figures.seconds and reference.seconds:
            speed = compare(reference.ms, figures.ms)
            kind, ratio = ("faster", speed.ratio) if speed.ratio >= 1 else ("slower", 1 / speed.ratio)
            noise = f" ({NOISE})" if speed.noise else ""
            lines.append(f"{one.title} is {kind} than {other.title}: {wording.times(ratio)}{noise}")
    return lines


# Scaling


def scaling_contests(results: Results) -> list[Contest]:
    contests = []
    for count in sorted({figures.clients for figures in results.scaling}):
        found = {way: results.scaled(way, count) for way in results.ways}
        entries = {way: of.throughput for way, of in found.items() if of and of.operations_per_s}
        contests.append(Contest(wording.clients(count), entries, wording.per_s, more_is_better=True))
    return contests


def scaling_sentences(results: Results) -> Iterator[str]:
    contests = scaling_contests(results)
    if not contests:
        return
    yield contests[0].sentence()
    if len(contests) > 1:
        yield contests[-1].sentence()
        yield from growth_sentences(results)
    yield from latency_sentence(results)
    yield from loss_sentences(contests)


def growth_sentences(results: Results) -> Iterator[str]:
    """What one operation costs among many, beside alone: on few cores, that is what 1:1 scaling means."""
    counts = sorted({figures.clients for figures in results.scaling})
    costs, gains = [], []
    for way in results.ways:
        one, many = results.scaled(way, counts[0]), results.scaled(way, counts[-1])
        if one and many and one.client_ns and many.client_ns:
            cost, gain = compare(many.cpu_ns, one.cpu_ns), compare(many.throughput, one.throughput)
            noise = f", {NOISE}" if cost.noise else ""
            costs.append(f"{way} {wording.ns(many.cpu_ns.median)} ({wording.times(cost.ratio)}{noise})")
            gains.append(f"{way} {wording.times(gain.ratio)}{f' ({NOISE})' if gain.noise else ''}")
    if costs:
        few, many_clients = wording.clients(counts[0]), wording.clients(counts[-1])
        yield f"CPU time of one operation with {many_clients}, in brackets beside {few}: {', '.join(costs)}."
        yield f"Operations a second with {many_clients}, beside {few}: {', '.join(gains)}."


def latency_sentence(results: Results) -> Iterator[str]:
    most = max(figures.clients for figures in results.scaling)
    tails = {
        way: figures.latency_ns["99.9"]
        for way in results.ways
        if (figures := results.scaled(way, most)) and "99.9" in figures.latency_ns
    }
    if len(tails) > 1:
        best, worst = min(tails, key=lambda way: tails[way]), max(tails, key=lambda way: tails[way])
        yield (
            f"Of 1,000 operations with {wording.clients(most)}, all but one take at most {wording.ns(tails[best])} over"
            f" {best}, which is the shortest, and {wording.ns(tails[worst])} over {worst}, which is the longest."
        )


# Large values


def payload_contests(results: Results) -> list[Contest]:
    contests = []
    cases = dict.fromkeys((of.operation, of.size, of.clients) for of in results.payloads)
    for operation, size, count in cases:
        found = {way: results.payload(way, operation, size, count) for way in results.ways}
        entries = {way: of.rate for way, of in found.items() if of and of.gb_per_s}
        if entries:
            what = f"{operation} of {wording.size(size)}, {wording.clients(count)}"
            contests.append(Contest(what, entries, wording.gb_per_s, more_is_better=True))
    return contests


def payload_sentences(results: Results) -> Iterator[str]:
    contests = payload_contests(results)
    if not contests:
        return
    largest = max(figures.size for figures in results.payloads)
    most = max(figures.clients for figures in results.payloads)
    for contest in contests:
        if wording.size(largest) in contest.what and contest.what.endswith((wording.clients(1), wording.clients(most))):
            yield contest.sentence()
    for operation in ("get", "set"):
        yield from memcpy_sentence(results, operation, largest)
    yield from loss_sentences(contests)


def memcpy_sentence(results: Results, operation: str, size: int) -> Iterator[str]:
    """The share of what the machine can copy at all."""
    shares = []
    for way in results.ways:
        figures, copied = (results.payload(name, operation, size, 1) for name in (way, MEMCPY))
        if figures and copied and figures.gb_per_s and copied.gb_per_s:
            share = compare(figures.rate, copied.rate)
            level = f" ({NOISE} of memcpy)" if share.noise else ""
            shares.append(f"{way} {share.ratio * 100:.0f} %{level}")
    if shares:
        yield f"{operation} of {wording.size(size)} by 1 client, in parts of memcpy's rate: {', '.join(shares)}."
