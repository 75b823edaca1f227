"""What a profile means: names for frames, what a stack was busy with, and the shares of that.

A stack is a tuple of names, the outermost first; a profile counts how often each stack was seen. Everything here is a
pure function of these.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum

Stack = tuple[str, ...]
Frame = tuple[str, str]
"""A function and its source file, as the sampler gives them; without a name, the file that is mapped there."""

OURS = ("ringtable", "ringtable_python")


class Kind(Enum):
    """What a process can be busy with."""

    RECEIVE = "receive"
    TABLE = "table"
    SEND = "send"
    WAIT = "wait"
    OTHER = "other"


# The writers of replies, of both codecs, have these methods in common.
_REPLY = "ok|status|error|nil|integer|boolean|bulk|array|map|double"
# Functions by their modules, those of types with the others: an inlined function does not tell its type.
_DECIDES = {
    kind: re.compile(rf"ringtable::(?:{'|'.join(patterns)})")
    for kind, patterns in {
        Kind.WAIT: (
            r"ring::wait::.+",
            r"ring::\w+::has_news",
            r"ring::(?:lane|exchange)::announce_\w+",
            r"shm::doorbell::wait",
            r"server::listener::accept",
            r"server::\w+::(?:spin|may_spin|may_yield|yield_until_news|has_news|sleep|cool|poll)",
            r"server::(?:exchange|port)::(?:is_member_awake|is_restless|look_for_slow_consumers)",
            r"client::\w+::(?:wait|wait_for_room|has_news|arm|disarm|listen|await_readiness)",
            r"client::waiting::.+",
        ),
        Kind.RECEIVE: (
            r"ring::(?:spsc|mpmc|broadcast|exchange)::"
            r"(?:available|peek|read|skip|release|take|next|check|announce|listen|restamp|repair|quarantine)",
            r"command::record::\w+::(?:decode_\w+|record_size|take|take_word|is_ok)",
            r"command::resp::(?:error|number|request|reply)::.+",
            r"server::\w+::(?:take_request|receive|deliver|accept|append)",
            r"client::replies::(?:bucket|bytes|integer)",
            r"client::\w+::(?:receive|try_receive|receive_piece|take_replies|settle|settle_one|parse)",
        ),
        Kind.SEND: (
            r"ring::(?:spsc|mpmc|broadcast|exchange)::"
            r"(?:room|write|publish|try_claim|move_tail|give_back|look_for_room|listening)",
            r"ring::\w+::must_ring",
            r"shm::doorbell::ring",
            rf"command::record::\w+::(?:new|size|pieces|write|finish|put|open|{_REPLY})",
            r"command::resp::write::.+",
            r"server::\w+::(?:send|send_replies|ring_if_asleep|ring_served)",
            r"client::\w+::(?:push|push_again|try_push|take_over|send|send_unsent|flush|exchange|wake_server)",
            r"client::\w+::(?:publish|publish_written|depart)",
        ),
        # Executing a command is work on the table, but for what it receives and sends.
        Kind.TABLE: (
            r"table::.+",
            r"command::(?:execute|lookup|keyspace|set|set_options|counters|scan|atomic|inspection)::.+",
        ),
    }.items()
}


def kind_of(stack: Stack) -> Kind:
    """What a stack was busy with: from the innermost frame outward, the first one that decides."""
    for name in reversed(stack):
        for kind, decides in _DECIDES.items():
            if decides.fullmatch(name):
                return kind
    return Kind.OTHER


def shares(profile: Mapping[Stack, int]) -> dict[Kind, float]:
    """The share of each kind in percent, rounded to tenths so that they add up to 100."""
    counts: Counter[Kind] = Counter()
    for stack, count in profile.items():
        counts[kind_of(stack)] += count
    total = counts.total()
    result: dict[Kind, float] = {}
    tenths, seen = 0, 0
    for kind in Kind:
        seen += counts[kind]
        # What has been shared out so far is rounded, and not each share: then nothing is lost or counted twice.
        upto = round(1_000 * seen / total) if total else 0
        result[kind] = (upto - tenths) / 10
        tenths = upto
    return result


def readable(frames: Iterable[Frame]) -> Stack:
    """A stack as people want to read it: our functions, and what they call at last.

    What begins a thread or the interpreter, and what stands between our functions, is left out. Of what they call at
    last one name is left: the function if it is the C library's, the module in Rust. Nothing of this decides a kind.
    """
    named = [(_crate_of(file), _name(function, file), file) for function, file in frames]
    ours = [index for index, (crate, _, _) in enumerate(named) if crate in OURS]
    last = ours[-1] if ours else -1
    # Closures say little but where they are, which the functions around them say too.
    stack = [named[index][1] for index in ours if index == last or not named[index][1].endswith("}")]
    foreign = [(crate, name) for crate, name, _ in named[last + 1 :]]
    if named and (named[0][1] == "_start" or "python" in named[0][2]):
        stack.insert(0, "python")
        foreign = foreign if ours else foreign[-1:]
    outside = [name for crate, name in foreign if not crate]
    # Small functions of `core` are part of those that they are inlined into.
    library = ["::".join(name.split("::")[:2]) for crate, name in foreign if crate not in ("", "core")]
    return (*stack, *(outside[:1] or library[:1])) or ("unknown",)


def folded(profile: Mapping[Stack, int]) -> str:
    """The profile in the format that tools for flame graphs read: a line for each stack, and its count."""
    return "".join(f"{';'.join(stack)} {count}\n" for stack, count in sorted(profile.items()))


def _crate_of(file: str) -> str:
    """The crate of a Rust source file, "" for any other file."""
    folder, _, _ = file.rpartition("/src/")
    return re.sub(r"-\d.*", "", folder.rpartition("/")[2]).replace("-", "_") if file.endswith(".rs") else ""


def _name(function: str, file: str) -> str:
    """The name of a frame: `crate::module::function` in Rust, else as the C library or the interpreter has it."""
    if not function:
        return f"[{file.rpartition('/')[2] or 'unknown'}]"
    crate = _crate_of(file)
    if not crate:
        return function.removeprefix("__GI_").lstrip("_") if function != "_start" else function
    module = file.rpartition("/src/")[2].removesuffix(".rs").split("/")
    if module[-1] in ("mod", "lib"):
        module.pop()
    function = _without_generics(function).rpartition("::")[2]
    return "::".join([crate, *module, re.sub(r"\{(\w+)(#\d+)?\}", r"{\1}", function)])


def _without_generics(function: str) -> str:
    """Leave out what stands between `<` and `>`."""
    kept: list[str] = []
    depth = 0
    for character in function.replace("->", ""):
        depth += character == "<"
        if depth == 0:
            kept.append(character)
        depth -= character == ">"
    return "".join(kept)
