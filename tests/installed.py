"""A server with a keeper, of a copy of the package in whose place another one can be put."""

import shutil
from pathlib import Path

import ringtable
from support import KeptServer

PACKAGE = Path(ringtable.__file__).parent


class Installed(KeptServer):
    """A server with a keeper, and a copy of the package that it is of."""

    def __init__(self, folder: Path, *options: str, max_deaths: int = 1_000) -> None:
        self._now = folder / "now"
        self._folder = folder
        self.install("first")
        super().__init__(*options, max_deaths=max_deaths, path=self._now)

    def install(self, name: str, **changes: tuple[str, str]) -> None:
        """Install a copy of the package, in which of some modules (with `__` for a slash) one text is another one."""
        copy = self._folder / name
        shutil.copytree(PACKAGE, copy / "ringtable", ignore=shutil.ignore_patterns("__pycache__"))
        for module, (old, new) in changes.items():
            file = copy / "ringtable" / f"{module.replace('__', '/')}.py"
            source = file.read_text()
            assert old in source
            file.write_text(source.replace(old, new))
        link = self._folder / "link"
        link.symlink_to(copy)
        link.replace(self._now)

    def extensions(self) -> set[str]:
        """The files of the extension that are loaded in the server."""
        maps = Path(f"/proc/{self.server_pid}/maps").read_text().splitlines()
        return {line.split(maxsplit=5)[5] for line in maps if "_ringtable." in line}
