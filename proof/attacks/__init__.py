"""What a hostile client does: strategies, each a generator of attacks from a seed; an attack is done at each `yield`.

A strategy knows what is valid, and puts beside it what is at its edge (`boundaries`), or has a word change while the
server reads it (`Hammer`). It joins as a client does (`support.RawLane` and its kin), so that it is a member of the
house that does all this. Where the contract says what comes of an attack, the strategy checks it, by an assertion.

    target.py     the server that is attacked, and what strategies share
    lanes.py      what a client with a lane writes where it may
    sockets.py    what comes over a socket
    memory.py     what a client does to the memory and the descriptors that it was passed
    rings.py      what one of the clients that share rings writes there

A hostile client may do whatever a command does: read, write and delete everything. That would show nothing here, so
these ones are kept from it. Well-formed requests have keys that begin with `PREFIX`, of which no honest client has any;
FLUSHALL is never sent; and words that are scribbled where a record may begin never have the number of a command that
writes (`harmless`), since a request that was forged by chance counts like any other.
"""

from proof.attacks.lanes import doorbell, hints, noise, pins, positions, races, records, waiting_flags
from proof.attacks.memory import pages, sealing, unsealed, waiters
from proof.attacks.rings import cursors, laps, ring_noise, slots, stamps, tails
from proof.attacks.sockets import (
    ahead,
    collisions,
    crowd,
    drafts,
    extremes,
    foreign,
    handshake,
    leases,
    malformed,
    passing,
    single,
    unfinished,
    unread,
    watches,
    wills,
)
from proof.attacks.target import Strategy

STRATEGIES: dict[str, Strategy] = {
    "positions": positions,
    "records": records,
    "races": races,
    "noise": noise,
    "pins": pins,
    "hints": hints,
    "waiting flags": waiting_flags,
    "doorbell": doorbell,
    "malformed": malformed,
    "foreign": foreign,
    "extremes": extremes,
    "collisions": collisions,
    "unread": unread,
    "ahead": ahead,
    "drafts": drafts,
    "unfinished": unfinished,
    "leases": leases,
    "watches": watches,
    "handshake": handshake,
    "crowd": crowd,
    "single": single,
    "wills": wills,
    "sealing": sealing,
    "unsealed": unsealed,
    "pages": pages,
    "waiters": waiters,
    "passing": passing,
}
"""By name, all those that a client with a lane or a socket has."""

RING_STRATEGIES: dict[str, Strategy] = {
    "stamps": stamps,
    "tails": tails,
    "cursors": cursors,
    "slots": slots,
    "laps": laps,
    "ring noise": ring_noise,
}
"""Those of a client that shares rings with others."""
