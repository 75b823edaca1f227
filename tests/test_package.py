"""What the package exports, its errors as values, and the stub against the built module."""

import ast
import importlib.util
import inspect
import math
import os
import pickle
import pydoc
import re
import shutil
import subprocess
import sys
import zipfile
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ringtable
from ringtable import _errors, _ringtable
from ringtable._options import OPTIONS, format_size, parse_size
from ringtable._range import check_range
from ringtable._types import ServerOptions, Stats

numpy: Any = importlib.import_module("numpy")

ERRORS = [value for value in vars(_errors).values() if isinstance(value, type) and issubclass(value, _errors.Error)]


def test_smoke() -> None:
    assert ringtable.__version__


def test_all_names_everything_public() -> None:
    # Some are imported when they are asked for.
    assert all(hasattr(ringtable, name) for name in ringtable.__all__)
    # Submodules are attributes, too, once they were imported.
    public = {name for name, value in vars(ringtable).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert set(ringtable.__all__) == public | {"__version__"}
    assert len(ringtable.__all__) == len(set(ringtable.__all__))
    assert set(ringtable.__all__) <= set(dir(ringtable))


def test_options_of_servers_are_the_same_everywhere() -> None:
    # Besides, the command has what a keeper gives to a server.
    parameters = inspect.signature(ringtable.Server).parameters.keys() - {"name", "_kept"}
    assert parameters == OPTIONS
    assert ServerOptions.__annotations__.keys() == OPTIONS - {"linger"}
    assert inspect.signature(_ringtable.Server).parameters.keys() - {"name", "kept"} == OPTIONS - {"cache"}


def test_every_error_is_exported_and_drawn() -> None:
    assert _errors.__doc__ is not None
    for error in ERRORS:
        assert getattr(ringtable, error.__name__) is error
        assert error.__name__ in _errors.__doc__
        assert error.__doc__


@pytest.mark.parametrize("error", ERRORS)
def test_errors_keep_their_message(error: type[ringtable.Error]) -> None:
    assert str(error("the message")) == "the message"
    assert str(pickle.loads(pickle.dumps(error("the message")))) == "the message"


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (ringtable.TableNotFound, ConnectionError),
        (ringtable.AccessDenied, PermissionError),
        (ringtable.Untrusted, PermissionError),
        (ringtable.ServerGone, ConnectionError),
        (ringtable.ServerExists, OSError),
        (ringtable.ServerFailed, RuntimeError),
        (ringtable.OutOfResources, OSError),
        (ringtable.TooManyClients, ConnectionError),
        (ringtable.Timeout, TimeoutError),
        (ringtable.Closed, ValueError),
        (ringtable.Reentrant, RuntimeError),
        (ringtable.NotOwned, RuntimeError),
        (ringtable.LockLost, ringtable.NotOwned),
        (ringtable.KeyTooLong, ValueError),
        (ringtable.ValueTooLarge, ValueError),
        (ringtable.OutOfMemory, MemoryError),
        (ringtable.ClientOutOfMemory, MemoryError),
        (ringtable.BucketFull, ringtable.OutOfMemory),
        (ringtable.NotAFloat, ValueError),
        (ringtable.NotAnInteger, ValueError),
        (ringtable.InvalidOption, ValueError),
    ],
)
def test_errors_are_also_what_python_calls_them(error: type[ringtable.Error], base: type[Exception]) -> None:
    assert issubclass(error, ringtable.Error)
    assert issubclass(error, base)


def test_the_stub_matches_the_module(tmp_path: Path) -> None:
    # Before Python 3.12 the buffer protocol has no methods, though type checkers know it by these.
    allowed = tmp_path / "allowed"
    allowed.write_text("" if sys.version_info >= (3, 12) else r"ringtable\._ringtable\.View\.__(release_)?buffer__")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "--allowlist", str(allowed), "ringtable._ringtable"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def stubs() -> ModuleType:
    """The script that writes the stub's docstrings."""
    spec = importlib.util.spec_from_file_location("stubs", Path(__file__).parent.parent / "scripts" / "stubs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stub_has_the_docstrings_of_the_module() -> None:
    """Editors show what is in the stub; `help` shows what is in the module. If this fails, run scripts/stubs.py."""
    script = stubs()
    source = script.STUB.read_text()
    assert script.written(source) == source
    tree = ast.parse(source)
    documented = {node.name: script.docstring(found) for node, found in script.documented(tree)}
    assert {"set", "get_many", "Table", "View", "expire"} <= documented.keys()
    assert not [name for name, text in documented.items() if not text]
    # It notices one that differs.
    changed = source.replace("Write `key`; return whether", "Write `key`, and return whether")
    assert changed != source
    assert script.written(changed) == source


PUBLIC = [ringtable.Table, ringtable.Pipeline, ringtable.View, ringtable.Watch, ringtable.Server]


@pytest.mark.parametrize("owner", PUBLIC)
def test_every_method_shows_its_signature_and_a_sentence(owner: type) -> None:
    members = {name: getattr(owner, name) for name in dir(owner) if not name.startswith("_")}
    assert members
    for name, member in members.items():
        text = inspect.getdoc(member)
        assert text, name
        # No signature in the place of a sentence, and a sentence has an end.
        assert text[0].isupper(), name
        assert not re.search(r"^--$", text, re.MULTILINE), name
        assert text.split("\n\n")[0].rstrip().endswith((".", ":")), name
        if callable(member):
            assert "..." not in str(inspect.signature(member)), name


def test_help_shows_signatures() -> None:
    for method, signature in (
        (ringtable.Table.get, "get(self, key, /, default=None)"),
        (
            ringtable.Table.incr,
            "incr(self, /, key, by=1, *, ttl_if_new=None, minimum=None, maximum=None, evictable=None)",
        ),
        (
            ringtable.Pipeline.set,
            "set(self, /, key, value, *, ttl=None, nx=False, xx=False, if_version=None, evictable=None, keepttl=False)",
        ),
    ):
        lines = pydoc.plain(pydoc.render_doc(method)).splitlines()
        assert lines[2] == signature
        assert not lines[3].strip().startswith(signature[:4])


def test_stats_are_typed_by_key(ringtable_dir: Path) -> None:
    with ringtable.Server(max_memory="8MiB", workers=1) as server:
        figures = server.stats()
    # A figure that is new belongs into `Stats`, too.
    assert figures.keys() == Stats.__annotations__.keys()
    assert all(type(figure) is int for figure in figures.values())


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(ringtable.__file__).with_name("py.typed").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1GiB", 1 << 30),
        ("512MiB", 512 << 20),
        ("512 mib", 512 << 20),
        ("1.5KiB", 1536),
        ("4096", 4096),
        ("4096B", 4096),
        (4096, 4096),
        (4096.0, 4096),
        (1e9, 1_000_000_000),
        (Decimal("1e9"), 1_000_000_000),
        (numpy.int64(4096), 4096),
        (numpy.uint8(255), 255),
        (numpy.float32(4096), 4096),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    found = parse_size("size", text)
    assert (found, type(found)) == (size, int)


@pytest.mark.parametrize("size", [1.5, math.nan, math.inf, -math.inf, numpy.float64(0.5)])
def test_what_is_no_whole_number(size: float) -> None:
    with pytest.raises(ringtable.InvalidOption, match="whole number"):
        parse_size("size", size)


@pytest.mark.parametrize("size", [None, b"1GiB", [1], 1j])
def test_what_is_no_number(size: Any) -> None:
    with pytest.raises(TypeError, match=f"number of bytes, .*, not {type(size).__name__}"):
        parse_size("size", size)


def test_a_servers_numbers_may_be_of_any_type(ringtable_dir: Path) -> None:
    for number in (numpy.int64, numpy.float64, float, Decimal):
        options: dict[str, Any] = {"workers": number(1), "buckets": number(1_000), "max_clients": number(3)}
        rings: dict[str, Any] = {"topology": "shared", "ring_slots": number(64), "slot_size": number(128)}
        with ringtable.Server(**options, **rings, max_memory=number(8 << 20)) as server:
            figures = server.stats()
            assert (server.workers, figures["clients_max"]) == (1, 3)
            assert (figures["max_memory"], figures["ring_slots"], figures["buckets"]) == (8 << 20, 64, 1_000)
    with ringtable.Server(topology="shared", slot_size="1KiB", max_memory=" 8 MiB ") as server:
        assert server.stats()["max_memory"] == 8 << 20


LIMITS: list[tuple[str, list[Any], str]] = [
    ("buckets", [0, -1, -(1 << 80), (1 << 31) + 1, 1 << 32, 1 << 64, 1 << 200], "1 to 2147483648 buckets"),
    ("workers", [0, -1, 65, 1 << 64], "1 to 64 threads"),
    ("max_memory", [0, -1, "1MiB", 1 << 44, "100TiB", 1 << 63, 1 << 64], "4194304 to 8796093022208 bytes"),
    ("max_clients", [0, -1, (1 << 20) + 1, 1 << 64], "1 to 1048576 clients"),
    ("ring_slots", [0, 15, -1, 1 << 17, 1 << 64], "16 to 65536 slots"),
    ("slot_size", [0, 32, -1, "1MiB", 1 << 64], "64 to 65536 bytes"),
]


@pytest.mark.parametrize(("option", "values", "limits"), LIMITS)
def test_each_option_has_one_limit(ringtable_dir: Path, option: str, values: list[Any], limits: str) -> None:
    """Two places had an opinion, and each named its own."""
    for value in values:
        with pytest.raises(ringtable.InvalidOption) as refused:
            ringtable.Server(**{option: value})
        message = str(refused.value)
        # What is beyond any number that means something is said to be.
        shown = parse_size("size", value) if isinstance(value, str) else value
        named = str(shown) if abs(shown) < 1 << 127 else "above 2^127"
        assert message == f"{option} is {named}; allowed are {limits}"


@pytest.mark.parametrize("text", ["", "GiB", "1GB", "-1", "1e9", "1 GiB and more"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ringtable.InvalidOption, match="KiB"):
        parse_size("size", text)


@pytest.mark.parametrize(("size", "text"), [(1 << 30, "1 GiB"), (1536, "1536 B"), (3 << 20, "3 MiB")])
def test_sizes_are_written_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert format_size(size) == text


def test_a_value_out_of_range_is_named_with_its_limits() -> None:
    check_range("workers", 64, 1, 64, "threads")
    with pytest.raises(ringtable.InvalidOption, match="workers is 65 threads, but has to be from 1 to 64 threads"):
        check_range("workers", 65, 1, 64, "threads")


# What is built, and what is imported


ROOT = Path(__file__).parent.parent
RELEASE_SIZE_MAX = 4_000_000
"""Bytes of the extension in a wheel: 3.9 MB, of which 0.7 are tables of the library that computes checksums of files
(of all that it knows), and some 0.5 what reads and writes files. With its names and line tables it was 13.7 MB."""


def run_from(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the package in this folder instead of the one that is installed."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )


def is_stripped(extension: Path) -> bool:
    """Whether it has neither names nor line tables, as in a wheel."""
    data = extension.read_bytes()
    return b"\0.symtab\0" not in data and b"\0.debug_line\0" not in data


def test_the_import_takes_nothing_that_connecting_does_without() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import ringtable"], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"ringtable", "ringtable._table", "ringtable._ringtable"} <= imported
    others = (
        "ringtable._codecs.pickle",
        "pickle",
        "msgspec",
        "numpy",
        "ringtable._bench",
        "ringtable._cli",
        "ringtable._profiler",
        "argparse",
        "rich",
        "statistics",
        "asyncio",
        "dataclasses",
        "json",
        "pathlib",
        "random",
        "subprocess",
        "threading",
        # Each takes about as long as all of ringtable.
        "typing",
        "contextlib",
        "datetime",
        "enum",
        "functools",
        "re",
    )
    assert not {name for name in imported for other in others if f"{name}.".startswith(f"{other}.")}


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.skipif(shutil.which("cargo") is None, reason="there is no cargo")
def test_a_wheel(tmp_path: Path, ringtable_dir: Path) -> None:
    """It is small, works, and says in one line what it cannot do."""
    build = ["build", "--quiet", "--release", "--compatibility", "linux", "--out", str(tmp_path)]
    maturin = Path(sys.executable).with_name("maturin")
    subprocess.run([maturin, *build], check=True, cwd=ROOT, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    package = tmp_path / "package"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(package)
    [extension] = package.glob("ringtable/_ringtable*.so")
    assert is_stripped(extension)
    assert extension.stat().st_size < RELEASE_SIZE_MAX
    done = run_from(package, "-c", "import ringtable\nwith ringtable.Server(): print(ringtable.__file__)")
    assert (done.stdout.strip(), done.stderr) == (str(package / "ringtable" / "__init__.py"), "")
    done = run_from(package, "-m", "ringtable", "profile", "--output", str(tmp_path / "profile"))
    assert done.returncode == 1
    assert re.fullmatch(r"ringtable: .*line tables.*`make install`.*\n", done.stderr)
    assert not (tmp_path / "profile").exists()


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.skipif(shutil.which("cargo") is None, reason="there is no cargo")
def test_a_build_without_what_measures(tmp_path: Path, ringtable_dir: Path) -> None:
    """All else works, and commands that measure say in one line what they lack."""
    target = ROOT / "target"
    # As maturin does it: the module finds Python's symbols in the program that loads it.
    environment = os.environ | {"PYO3_PYTHON": sys.executable, "PYO3_BUILD_EXTENSION_MODULE": "1"}
    build = ["--package", "ringtable-python", "--no-default-features", "--target-dir", str(target)]
    subprocess.run(["cargo", "build", "--quiet", *build], check=True, cwd=ROOT, env=environment)
    installed = Path(ringtable._ringtable.__file__)
    package = tmp_path / "ringtable"
    shutil.copytree(installed.parent, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(target / "debug" / "lib_ringtable.so", package / installed.name)
    program = """
import ringtable
from ringtable import _ringtable
assert not {"Histogram", "Profiler", "classic_client"} & vars(_ringtable).keys()
with ringtable.Server(workers=1), ringtable.connect() as table:
    table["key"] = b"value"
    print(table["key"])
"""
    done = run_from(tmp_path, "-c", program)
    assert (done.stdout, done.stderr) == ("b'value'\n", "")
    for command in (["client", "1", "1"], ["bench", "--quick"]):
        done = run_from(tmp_path, "-m", "ringtable", *command)
        assert done.returncode == 1
        assert re.fullmatch(rf"ringtable: ringtable {command[0]}.* the feature `bench`.*\n", done.stderr)
    with ringtable.Server(workers=1):
        done = run_from(tmp_path, "-m", "ringtable", "client", "2", "5", "--python")
    assert (done.returncode, done.stderr) == (0, "")
    assert "30 operations" in done.stdout
