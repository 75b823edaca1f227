"""List the import circles of each folder of Rust sources, and the imports that run upward.

    python scripts/circles.py [FOLDER ...]

A folder's `mod.rs` is its table of contents: the `mod` lines stand in order, from the bottom up, and a file imports
siblings that stand before its own line. A sub-folder counts as one sibling; inside it the same rule holds.
`super::` and `crate::` paths count alike, wherever they stand, in a `use` or in the middle of code. Tests, models
(`loom_`, `shuttle_`) and fuzzing may import anything. A name that a `mod.rs` only hands on counts as an import of the
file it comes from. Without a FOLDER all folders of the engine and the extension are listed.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SOURCES = [ROOT / "crates" / name / "src" for name in ("ringtable", "ringtable-python")]
# Files that look at everything: they are no part of the order.
OUTSIDE = re.compile(r"(?:\w*tests|fuzzing|loom_\w+|shuttle_\w+)(?:\.rs)?")


@dataclass(frozen=True)
class Import:
    """One file takes a name from another one of its folder."""

    importer: str
    imported: str
    name: str
    place: str
    """File and line."""


def code(source: str) -> str:
    """The source without comments, strings and modules inside of the file; lines stay where they are."""
    source = re.sub(r"//.*", "", source)
    source = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', source)
    return re.sub(r"(?ms)^(?:pub )?mod \w+ \{.*?^\}", lambda inner: "\n" * inner[0].count("\n"), source)


def paths(source: str) -> Iterator[tuple[int, list[str]]]:
    """The line and the segments of each path that begins with `super` or `crate`."""
    for match in re.finditer(r"(?<![\w:])(?:super|crate)::", source):
        line = source.count("\n", 0, match.start()) + 1
        for path in tree(source, match.start())[0]:
            yield line, path


def tree(source: str, at: int) -> tuple[list[list[str]], int]:
    """The paths of the `use` tree that begins at `at`, and where it ends."""
    head: list[str] = []
    while True:
        if source.startswith("{", at):
            found: list[list[str]] = []
            at += 1
            while at < len(source) and source[at] != "}":
                if source[at] in " \n,":
                    at += 1
                    continue
                inner, end = tree(source, at)
                if end == at:
                    return [], at
                found += [head + path for path in inner]
                at = end
            return found, at + 1
        word = re.compile(r"\w+|\*").match(source, at)
        if word is None:
            return [head], at
        head.append(word[0])
        at = word.end()
        renamed = re.compile(r"\s+as\s+\w+").match(source, at)
        if renamed is not None:
            at = renamed.end()
        if not source.startswith("::", at):
            return [head], at
        at += 2


class Folder:
    """A folder of modules, with what its `mod.rs` (or `lib.rs`) declares and hands on."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.path = list(folder.relative_to(root).parts)
        self.face = next(face for name in ("mod.rs", "lib.rs") if (face := folder / name).exists())
        text = code(self.face.read_text())
        self.order = re.findall(r"^\s*(?:pub(?:\([^)]*\))? )?mod (\w+);", text, re.MULTILINE)
        self.handed_on: dict[str, str] = {}
        for match in re.finditer(r"^(?:pub(?:\([^)]*\))? )?use (?=(?:self::)?(\w+)::)", text, re.MULTILINE):
            for path in tree(text, match.end())[0]:
                steps = path[1:] if path[0] == "self" else path
                if steps[0] in self.order:
                    self.handed_on[steps[-1]] = steps[0]

    def files(self, module: str) -> list[Path]:
        alone = self.folder / f"{module}.rs"
        return [alone] if alone.exists() else sorted((self.folder / module).rglob("*.rs"))

    def imports(self) -> Iterator[Import]:
        """What the folder's modules take from each other, and from the folder's face."""
        for module in self.order:
            if OUTSIDE.fullmatch(module):
                continue
            for file in self.files(module):
                if any(OUTSIDE.fullmatch(part) for part in file.relative_to(self.folder).parts):
                    continue
                yield from self.imports_of(module, file)

    def imports_of(self, module: str, file: Path) -> Iterator[Import]:
        here = list(file.relative_to(self.root).with_suffix("").parts)
        if here[-1] == "mod":
            here.pop()
        for line, path in paths(code(file.read_text())):
            at = [] if path[0] == "crate" else here[:]
            steps = path[:]
            while steps and steps[0] in ("super", "crate"):
                at = at[:-1] if steps.pop(0) == "super" else []
            whole = at + steps
            if whole[: len(self.path)] != self.path or len(whole) <= len(self.path):
                continue
            name = whole[len(self.path)]
            imported = name if name in self.order else self.handed_on.get(name, self.face.stem)
            if imported != module and not OUTSIDE.fullmatch(imported):
                place = f"{file.relative_to(ROOT) if ROOT in file.parents else file}:{line}"
                yield Import(module, imported, "::".join(whole[len(self.path) :]), place)


def circles(imports: list[Import]) -> list[list[str]]:
    """The groups of modules that reach each other, by Tarjan's algorithm (SIAM Journal on Computing 1, 1972)."""
    targets: dict[str, set[str]] = {}
    for one in imports:
        targets.setdefault(one.importer, set()).add(one.imported)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in sorted(targets.get(module, ())):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(targets):
        if module not in index:
            visit(module)
    return found


def upward(folder: Folder, imports: list[Import]) -> list[Import]:
    """The imports of what stands above, or of what the folder's face defines."""
    at = {module: index for index, module in enumerate(folder.order)}
    return [one for one in imports if at.get(one.imported, len(at)) > at[one.importer]]


def folders(sources: list[Path]) -> Iterator[Folder]:
    """Each folder of modules at or below these folders."""
    for source in sources:
        root = next(folder for folder in [source, *source.parents] if (folder / "lib.rs").exists())
        for face in sorted([*source.rglob("mod.rs"), *source.rglob("lib.rs")]):
            if not any(OUTSIDE.fullmatch(part) for part in face.parent.relative_to(root).parts):
                yield Folder(face.parent, root)


def main(arguments: list[str]) -> int:
    total = 0
    for folder in folders([Path(argument).resolve() for argument in arguments] or SOURCES):
        imports = list(folder.imports())
        found, wrong = circles(imports), upward(folder, imports)
        total += len(found)
        shown = "/".join(folder.path) or folder.root.parent.name
        print(f"{shown}: {len(folder.order)} modules, {len(found)} circles, {len(wrong)} imports upward")
        for group in found:
            print(f"  a circle of {len(group)}: {', '.join(group)}")
        if arguments:
            for one in wrong:
                print(f"  {one.place}: {one.importer} takes {one.name} of {one.imported}")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
