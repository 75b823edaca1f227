"""What the figures say, in sentences. Each is computed from the results and from nothing else."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ringtable._bench import wording
from ringtable._bench.analysis import ALONE_ST, COMPARED, MANY_MT, MANY_ST, SCENARIOS, Scenario
from ringtable._bench.results import Results
from ringtable._bench.samples import Comparison, Samples, compare
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
            return (
                f"{self.what}: {best} has the best median, {self.median(best)}, but {names} may be as fast ({NOISE})."
            )
        if level:
            result += f", and {wording.listing(level)} may be as fast ({NOISE})"
        worst = others[-1]
        if not self.noise(best, worst):
            result += (
                f"; {worst} is slowest with {self.median(worst)}, {wording.times(self.factor(best, worst))} slower"
            )
        return result + "."

    def loss(self, name: str, rivals: Sequence[str]) -> "Loss | None":
        """By how much `name` loses to the best of these rivals, if it does."""
        better = [
            rival
            for rival in self.ranking()
            if rival in rivals and self.factor(rival, name) > 1 and not self.noise(rival, name)
        ]
        if not better:
            return None
        winner = better[0]
        factor = self.factor(winner, name)
        medians = f"{self.median(name)}, {winner} {self.median(winner)}"
        return Loss(winner, factor, f"{self.what} ({medians}, {wording.times(factor)})")


@dataclass(frozen=True)
class Loss:
    """That one thing was done better in another way."""

    winner: str
    factor: float
    text: str


LOSSES_MAX = 4
"""More than so many are told in short."""


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
    """Whether 16 workers help with a crowd: a sentence for each direction."""
    gains: dict[str, list[str]] = {"faster": [], "slower": [], f"no different, {NOISE},": []}
    *_, level = gains
    for way in results.ways:
        one, many = (results.scenario(scenario.name, way) for scenario in (MANY_ST, MANY_MT))
        if one and many and one.seconds and many.seconds:
            gain = compare(one.ms, many.ms)
            kind = level if gain.noise else "faster" if gain.ratio > 1 else "slower"
            ratio = 1 / gain.ratio if kind == "slower" else gain.ratio
            # What may be chance has no direction.
            gains[kind].append(way if kind == level else f"{way} ({wording.times(ratio)})")
    for kind, names in gains.items():
        if names:
            analysis = " (the analysis: 1.14x)" if kind == "faster" else ""
            yield f"16 visitors at 16 threads, beside 1 thread, are {kind} over {wording.listing(names)}{analysis}."


def against_classic(results: Results, scenario: Scenario) -> Iterator[str]:
    """How the successors do beside the classic: a sentence for each direction."""
    speeds = {way: speed for way in results.ways if (speed := beside_classic(results, scenario, way))}
    if not speeds:
        return
    order = sorted(speeds, key=lambda way: -speeds[way].ratio)
    kinds = {
        "faster than": [way for way in order if speeds[way].ratio > 1 and not speeds[way].noise],
        "slower than": [way for way in order if speeds[way].ratio <= 1 and not speeds[way].noise],
        f"{NOISE} of": [way for way in order if speeds[way].noise],
    }
    for kind, ways in kinds.items():
        # What may be chance has no direction.
        shown = [way if speeds[way].noise else f"{way} {faster_or_slower(speeds[way])[1]}" for way in ways]
        if shown:
            yield f"{scenario.title}, {kind} {CLASSIC}: {wording.listing(shown)}."


def beside_classic(results: Results, scenario: Scenario, way: str) -> Comparison | None:
    """How many times faster than the classic a way is."""
    figures, classic = results.scenario(scenario.name, way), results.scenario(scenario.name, CLASSIC)
    if way == CLASSIC or not figures or not classic or not figures.seconds or not classic.seconds:
        return None
    return compare(classic.ms, figures.ms)


def loss_sentences(contests: list[Contest]) -> Iterator[str]:
    """Where lanes lose to something that is no lane."""
    for name in LANES:
        taking_part = [contest for contest in contests if name in contest.entries]
        rivals = [*dict.fromkeys(rival for contest in taking_part for rival in contest.entries if rival not in LANES)]
        if rivals:
            losses = [loss for contest in taking_part if (loss := contest.loss(name, rivals))]
            yield loss_sentence(name, losses, len(taking_part), rivals)


def loss_sentence(name: str, losses: Sequence[Loss], cases: int, rivals: Sequence[str]) -> str:
    if not losses:
        return f"{name} is nowhere here slower than {wording.listing(rivals)} beyond noise."
    if len(losses) <= LOSSES_MAX:
        return f"{name} loses here: {'; '.join(loss.text for loss in losses)}."
    winners = wording.listing(list(dict.fromkeys(loss.winner for loss in losses)))
    least, *_, most = sorted(losses, key=lambda loss: loss.factor)
    ends = f"the least in {least.text}, the most in {most.text}"
    return f"{name} loses to {winners} in {len(losses)} of {cases} cases, {ends}."


def ratios(results: Results, way: str) -> list[str]:
    """The summary of a way, worded as the analysis words it."""
    lines = []
    for one, other in COMPARED:
        figures, reference = results.scenario(one.name, way), results.scenario(other.name, way)
        if figures and reference and figures.seconds and reference.seconds:
            kind, ratio, noise = faster_or_slower(compare(reference.ms, figures.ms))
            lines.append(f"{one.title} is {kind} than {other.title}: {ratio}{noise}")
    for scenario in (ALONE_ST, MANY_ST, MANY_MT):
        if speed := beside_classic(results, scenario, way):
            kind, ratio, noise = faster_or_slower(speed)
            where = f" with {scenario.title}" if scenario.background else f", {scenario.title}"
            lines.append(f"{way} is {ratio} {kind} than {CLASSIC}{where}{noise}")
    return lines


def faster_or_slower(speed: Comparison) -> tuple[str, str, str]:
    """The word, by how much, and whether it may be chance."""
    kind, ratio = ("faster", speed.ratio) if speed.ratio >= 1 else ("slower", 1 / speed.ratio)
    return kind, wording.times(ratio), f" ({NOISE})" if speed.noise else ""


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
    if contests := payload_contests(results):
        yield from rate_sentences(results, contests)
    yield from absence_sentences(results)


def rate_sentences(results: Results, contests: list[Contest]) -> Iterator[str]:
    largest = max(figures.size for figures in results.payloads)
    most = max(figures.clients for figures in results.payloads)
    for contest in contests:
        if wording.size(largest) in contest.what and contest.what.endswith((wording.clients(1), wording.clients(most))):
            yield contest.sentence()
    for operation in ("get", "set"):
        yield from memcpy_sentence(results, operation, largest)
    yield from loss_sentences(contests)


def absence_sentences(results: Results) -> Iterator[str]:
    """Who takes no part, and why."""
    absences: dict[tuple[str, str], list[int]] = {}
    for of in results.payloads:
        if of.why_none and of.size not in absences.setdefault((of.way, of.why_none), []):
            absences[of.way, of.why_none].append(of.size)
    for (way, why), sizes in absences.items():
        yield f"{way} takes no part with values of {wording.listing([*map(wording.size, sizes)])}: one {why}."


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
