"""What one of the clients that share rings writes there: stamps, tails, cursors, slots, laps."""

import time
from contextlib import closing, suppress
from random import Random

from support import RawRings, SlotState

from proof.attacks.target import WORD_MAX, Attacks, Hammer, Target, boundaries, harmless, is_ended, random_words


def queue_words(rings: RawRings) -> tuple[int, int]:
    """Where the queue begins, and its words."""
    return rings.slot(0), rings.slots * rings.slot_words


def stamps(target: Target, random: Random) -> Attacks:
    """Stamps that cannot be, near the tail, in anybody's name."""
    with closing(target.rings()) as rings:
        while True:
            position = rings.words[rings.QUEUE_TAIL] % (1 << 40) + random.randrange(-4, 8)
            laps = random.choice([-2, -1, 0, 0, 1, 2, 1 << 20, (1 << 45) - 1])
            owner = random.choice([0, 1, rings.number, 500, 0xFFFF])
            word = rings.stamp(max(position, 0), random.choice(list(SlotState)), owner, laps) & WORD_MAX
            rings.words[rings.slot(position)] = word
            rings.ring()
            yield


def tails(target: Target, random: Random) -> Attacks:
    """Tails that cannot be, and workers that seem awake."""
    with closing(target.rings()) as rings:
        while True:
            place = random.choice([rings.QUEUE_TAIL, rings.QUEUE_TAIL, rings.RESPONSE_TAIL, 48])
            rings.words[place] = random.choice(boundaries(rings.words[place], rings.slots))
            rings.ring()
            yield
            if random.random() < 0.1:
                # What a client checks when it joins; for a moment, since nobody can join meanwhile.
                place = random.randrange(7)
                right = rings.words[place]
                rings.words[place] = random.choice(boundaries(right, rings.slots))
                try:
                    yield
                finally:
                    rings.words[place] = right


def cursors(target: Target, random: Random) -> Attacks:
    """Cursors that hold everybody back, that go back, or that are ahead; those of others, too."""
    with closing(target.rings()) as rings:
        while True:
            number = random.choice([rings.number, rings.number, random.randrange(16)])
            near = rings.words[rings.RESPONSE_TAIL]
            rings.words[rings.CURSORS + 32 * number] = random.choice([WORD_MAX, *boundaries(near, rings.slots)])
            rings.words[rings.CURSORS + 32 * number + 16] = random.choice([0, 1, WORD_MAX])
            yield


def slots(target: Target, random: Random) -> Attacks:
    """Heads and pieces of nonsense, published or in the slots of others."""
    while True:
        with closing(target.rings()) as rings:
            while not is_ended(rings):
                with suppress(AssertionError):
                    position = rings.claim()
                    size = random.choice([0, 1, 8, 8 * (rings.slot_words - 2), 8 * (rings.slot_words - 2) + 1, 65_535])
                    rings.fill(
                        position,
                        [harmless(random.getrandbits(64)) for _ in range(random.randrange(rings.slot_words - 2))],
                        size=random.choice([size, 8]),
                        sequence=(rings.sequence + random.choice([0, 0, 1, 70, 1 << 31, -1])) & 0xFFFFFFFF,
                        generation=rings.generation + random.choice([0, 0, 0, 1]) & 0xFFFF,
                    )
                    rings.publish(position)
                start, words = queue_words(rings)
                # Anywhere in either ring, but not over a stamp: that is another strategy's.
                place = start + random.randrange(2 * words)
                if (place - start) % rings.slot_words:
                    rings.words[place] = harmless(random.getrandbits(64))
                yield


def laps(target: Target, random: Random) -> Attacks:
    """All stamps at once, again and again, as fast as can be: so that workers never come to an end of them."""
    while True:
        with closing(target.rings()) as rings:
            start, _ = queue_words(rings)
            states = [
                [rings.stamp(0, SlotState.FREE, 0, 1 << 44), rings.stamp(0, SlotState.FREE, 0, (1 << 44) + 1)],
                [rings.stamp(0, SlotState.QUARANTINED, 1), rings.stamp(0, SlotState.QUARANTINED, 2)],
                [rings.stamp(0, SlotState.CLAIMED), rings.stamp(0, SlotState.PUBLISHED)],
            ]
            memory = rings.memory
            with Hammer(memory, 8 * start, random.choice(states), 8 * rings.slot_words, rings.slots):
                for _ in range(20):
                    rings.ring()
                    time.sleep(0.0005)
            yield


def ring_noise(target: Target, random: Random) -> Attacks:
    """Noise over all that members share, but for the constants in front: without those nobody can join any more."""
    while True:
        with closing(target.rings()) as rings:
            for _ in range(50):
                count = random.choice([1, 8, 64])
                start = random.randrange(rings.QUEUE_TAIL, len(rings.words) - count)
                rings.memory[8 * start : 8 * (start + count)] = random_words(random, count)
                rings.ring()
                yield
                if is_ended(rings):
                    break
