"""Rules of the house that no linter knows: they are checked here, and not left to a reviewer's memory."""

import re
from collections.abc import Iterator
from pathlib import Path

from scripts import circles

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / "crates" / "ringtable" / "src"
BINDING = ROOT / "crates" / "ringtable-python" / "src"
LINE_LENGTH_MAX = 120

# Which layer may use which: a layer, and the layers right below it. What is below those, it may use, too.
BELOW = {
    "fuzzing": {"server", "client"},
    "server": {"command", "disk", "folder"},
    "arrival": {"address", "shm"},
    "client": {"command", "disk", "folder", "arrival"},
    "folder": {"address", "shm"},
    "address": {"limits"},
    "command": {"table", "ring"},
    "disk": {"table"},
    "table": {"shm"},
    "ring": {"shm"},
    "shm": {"sync"},
    "sync": {"limits"},
    "limits": {"failpoint", "input"},
    "failpoint": set[str](),
    "input": set[str](),
}


def sources(*patterns: str) -> list[Path]:
    """The project's own files, without what was built or installed."""
    names = ("benches", "crates", "examples", "fuzz", "proof", "python", "scripts", "suites", "tests")
    folders = [ROOT / name for name in names]
    return sorted(file for folder in folders for pattern in patterns for file in folder.rglob(pattern))


def documents() -> list[Path]:
    """What is written about the project, without what lies beside the code."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def place(file: Path) -> str:
    return str(file.relative_to(ROOT))


def below(layer: str) -> set[str]:
    """The layers that this one may use."""
    return BELOW[layer].union(*(below(lower) for lower in BELOW[layer]))


def layer_of(file: Path) -> str:
    """The layer of a file of the engine: the folder or file right under `src`."""
    return file.relative_to(ENGINE).parts[0].removesuffix(".rs")


def uses(source: str, root: str) -> Iterator[tuple[int, str]]:
    """The line and the first name of each path that begins with `root::`, outside of comments and tests."""
    source = re.sub(r"//.*", "", source.split("\n#[cfg(test)]\nmod tests", 1)[0])
    for match in re.finditer(rf"\b{root}::(?:(\w+)|\{{([^;]*)\}})", source):
        line = source.count("\n", 0, match.start()) + 1
        # Of `{a::b, c::{d, e}}` the names outside of inner braces count.
        group = match[2] or ""
        while group != (group := re.sub(r"\{[^{}]*\}", "", group)):
            pass
        for name in [match[1]] if match[1] else re.findall(r"(?:^|,)\s*(\w+)", group):
            yield line, name


RUST = sources("*.rs")
ENGINE_FILES = [file for file in RUST if ENGINE in file.parents]
BINDING_FILES = [file for file in RUST if BINDING in file.parents]


def test_smoke() -> None:
    assert ENGINE_FILES
    assert BINDING_FILES
    above = {"command", "disk", "table", "ring", "shm", "sync", "limits", "address", "arrival", "folder"}
    assert below("client") == above | {"failpoint", "input"}
    example = "use crate::{limits, table::{reader, writer}};\nlet x = crate::shm::map(); // crate::server\n"
    assert list(uses(example, "crate")) == [(1, "limits"), (1, "table"), (2, "shm")]


def test_lines_are_not_too_long() -> None:
    too_long = [
        f"{place(file)}:{number}"
        for file in [*sources("*.py", "*.pyi", "*.rs", "*.md"), *documents()]
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if len(line) > LINE_LENGTH_MAX
    ]
    assert not too_long


def anchors(text: str) -> set[str]:
    """What a link may name on a page: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> Iterator[str]:
    """The links of a page to files that are not there, and to headings that a page does not have."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", text, re.MULTILINE):
        target, _, anchor = "".join(link).partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            yield "".join(link)


def test_links_lead_somewhere(tmp_path: Path) -> None:
    assert anchors("# One, `two` (3)\n```\n# no heading\n```\n## It's_so") == {"one-two-3", "its_so"}
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](#here) [b](#there) [c](page.md#here) [d][e] `[f](f.md)`\n\n[e]: none.md\n")
    assert list(dead_links(page)) == ["#there", "none.md"]
    assert not [f"{place(page)}: {link}" for page in documents() for link in dead_links(page)]


def test_nothing_is_left_to_do() -> None:
    # The brackets keep this file from finding itself.
    unfinished = re.compile(r"TOD[O]|FIXM[E]|XX[X]|tod[o]!|unimplemente[d]!")
    assert not [place(file) for file in sources("*.py", "*.pyi", "*.rs") if unfinished.search(file.read_text())]


def test_every_unsafe_has_its_reason() -> None:
    without_reason: list[str] = []
    for file in RUST:
        lines = file.read_text().splitlines()
        for index, line in enumerate(lines):
            code = line.split("//")[0]
            if re.search(r"\bunsafe\s+(impl|extern)\b|\bunsafe\s*\{", code):
                wanted = "SAFETY:"
            elif re.search(r"\bunsafe\s+fn\s+\w", code):
                wanted = "# Safety"
            else:
                continue
            if wanted not in line and wanted not in comment_above(lines, index):
                without_reason.append(f"{place(file)}:{index + 1}")
    assert not without_reason


def comment_above(lines: list[str], index: int) -> str:
    """The comment right above a line, past attributes and the beginning of the statement that the line belongs to."""
    comment: list[str] = []
    for line in reversed(lines[:index]):
        stripped = line.strip()
        if stripped.startswith("//"):
            comment.append(stripped)
        elif comment or not (stripped.startswith("#[") or stripped.endswith(("=", "(", "{", ".", ",", "&&", "||"))):
            break
    return "\n".join(comment)


def test_layers_use_only_what_is_below() -> None:
    upward: list[str] = []
    for file in ENGINE_FILES:
        layer = layer_of(file)
        if layer == "lib":
            continue
        assert layer in BELOW, f"{layer} is a new layer: say in BELOW what it may use"
        allowed = below(layer) | {layer}
        upward += [
            f"{place(file)}:{line} {name}" for line, name in uses(file.read_text(), "crate") if name not in allowed
        ]
    assert not upward


def test_imports_inside_a_folder_run_one_way() -> None:
    """A `mod.rs` lists its files from the bottom up, and a file imports those that stand before it; see the script."""
    example = "use super::{error::Error, lane::{self, Lane}};\nlet x = crate::client::Client::new(); // super::gone\n"
    assert list(circles.paths(circles.code(example))) == [
        (1, ["super", "error", "Error"]),
        (1, ["super", "lane", "self"]),
        (1, ["super", "lane", "Lane"]),
        (2, ["crate", "client", "Client", "new"]),
    ]
    found = [
        f"{one.place}: {one.importer} imports {one.name} of {one.imported}, which does not stand before it"
        for folder in circles.folders(circles.SOURCES)
        for one in circles.upward(folder, list(folder.imports()))
    ]
    assert not found


def test_the_engine_does_not_know_python() -> None:
    assert not [place(file) for file in ENGINE_FILES if re.search(r"\bpyo3\b", file.read_text())]


def test_the_binding_uses_what_is_on_top() -> None:
    used = {name for file in BINDING_FILES for _, name in uses(file.read_text(), "ringtable")}
    assert used <= {
        "client",
        "server",
        "command",
        "disk",
        "table",
        "limits",
        "address",
        "folder",
        "arrival",
        "failpoint",
    }


def test_what_is_model_checked_takes_its_atomics_from_sync() -> None:
    # Tests on real threads need real atomics of their own; so do models that count what happens in all their runs.
    others = re.compile(r"tests\.rs|shuttle_\w+\.rs")
    checked = [file for file in ENGINE_FILES if layer_of(file) in ("ring", "table") and not others.fullmatch(file.name)]
    assert not [place(file) for file in checked if list(uses(file.read_text(), "std::sync::atomic"))]


# What makes a descriptor, closes one, or maps memory.
MAKERS = re.compile(
    r"\b(?:socket|socket_with|socketpair|net::accept|accept_with|recvmsg|memfd_create|eventfd|epoll::create|dup[23]?"
    r"|fcntl_dupfd_cloexec|(?:fs|libc)::open\w*|pipe(?:_with)?|inotify\w*|pidfd_\w+|timerfd_\w+|signalfd"
    r"|io::close|mm::mmap|File::\w+|OpenOptions::\w+|read_dir|try_clone|(?:Unix|Tcp)(?:Stream|Listener)::\w+)\("
)
# Within which it may be called.
STEP = re.compile(r"\b(?:Descriptor::make|Self::make|undisturbed)\(")


def outside_of_steps(source: str) -> Iterator[tuple[int, str]]:
    """The line and the name of each call that makes a descriptor or a mapping where a fork may cut it in two."""
    # Comments and tests out, and what is in steps; the lines stay.
    source = re.sub(r"//.*", "", source.split("\n#[cfg(test)]\nmod tests", 1)[0])
    while match := STEP.search(source):
        end, depth = match.end(), 1
        while depth:
            depth += {"(": 1, ")": -1}.get(source[end], 0)
            end += 1
        source = source[: match.start()] + "\n" * source.count("\n", match.start(), end) + source[end:]
    for match in MAKERS.finditer(source):
        if not source[: match.start()].endswith("fn "):
            yield source.count("\n", 0, match.start()) + 1, match[0]


def test_the_files_of_each_walk_exist_and_are_entered_once() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().split("## Four walks\n")[1].split("\n## ")[0]
    walks = re.split(r"\n\*\*[A]|\nIn the server:\n", text)[1:]
    assert len(walks) == 5
    for walk in walks:
        files = re.findall(r"(?:→|\n\n) ?\s*`([\w/.-]+)`", walk)
        assert len(files) == len(set(files)) > 5
        assert not [file for file in files if not (ENGINE / file).exists() and not (ROOT / file).exists()]


def test_descriptors_are_born_known() -> None:
    """No other way to make one: see `shm/fork.rs`."""
    example = (
        "let a = make_socket(x)?;\nDescriptor::make(|| rustix::net::accept(&b.c()))?;\nlet d = rustix::io::dup(a)?;\n"
    )
    assert list(outside_of_steps(example)) == [(3, "dup(")]
    others = re.compile(r"tests\.rs|fuzzing|profile\.rs")
    # The handler in the child closes all that is known; and what moves a descriptor has the proof in hand.
    fork = "crates/ringtable/src/shm/fork.rs"
    # A look without room for descriptors takes none.
    look = ("crates/ringtable/src/server/socket.rs", "recvmsg(")
    allowed = {(fork, "io::close("), (fork, "fcntl_dupfd_cloexec("), look}
    found = [
        (place(file), line, name)
        for file in ENGINE_FILES + BINDING_FILES
        if not any(others.match(part) for part in file.parts)
        for line, name in outside_of_steps(file.read_text())
        if (place(file), name) not in allowed
    ]
    assert not found


def test_no_file_is_dead() -> None:
    """Every file of the engine is a module of its parent."""
    dead: list[str] = []
    for file in ENGINE_FILES + BINDING_FILES:
        if file.name == "lib.rs":
            continue
        module = file.parent if file.name == "mod.rs" else file.with_suffix("")
        parents = [module.parent / "mod.rs", module.parent / "lib.rs", module.parent.with_suffix(".rs")]
        declared = re.compile(rf"\bmod {module.name};")
        if not any(parent.exists() and declared.search(parent.read_text()) for parent in parents):
            dead.append(place(file))
    assert not dead
