"""What the package exports, its errors as values, and the stub against the built module."""

import importlib
import math
import pickle
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ringtable
from ringtable import _errors
from ringtable._options import check_range, format_size, parse_size

numpy: Any = importlib.import_module("numpy")

ERRORS = [value for value in vars(_errors).values() if isinstance(value, type) and issubclass(value, _errors.Error)]


def test_smoke() -> None:
    assert ringtable.__version__


def test_all_names_everything_public() -> None:
    # Submodules are attributes, too, once they were imported.
    public = {name for name, value in vars(ringtable).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert set(ringtable.__all__) == public | {"__version__"}
    assert len(ringtable.__all__) == len(set(ringtable.__all__))


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
        (ringtable.KeyTooLong, ValueError),
        (ringtable.ValueTooLarge, ValueError),
        (ringtable.OutOfMemory, MemoryError),
        (ringtable.ClientOutOfMemory, MemoryError),
        (ringtable.BucketFull, ringtable.OutOfMemory),
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
    found = parse_size(text)
    assert (found, type(found)) == (size, int)


@pytest.mark.parametrize("size", [1.5, math.nan, math.inf, -math.inf, numpy.float64(0.5)])
def test_what_is_no_whole_number(size: float) -> None:
    with pytest.raises(ringtable.InvalidOption, match="whole number"):
        parse_size(size)


@pytest.mark.parametrize("size", [None, b"1GiB", [1], 1j])
def test_what_is_no_number(size: Any) -> None:
    with pytest.raises(TypeError, match=f"whole number, not {type(size).__name__}"):
        parse_size(size)


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
    ("max_memory", [0, -1, "1MiB", 1 << 45, "100TiB", 1 << 63, 1 << 64], "4194304 to 17592186044416 bytes"),
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
        shown = parse_size(value) if isinstance(value, str) else value
        named = str(shown) if abs(shown) < 1 << 127 else "above 2^127"
        assert message == f"--{option.replace('_', '-')} is {named}; allowed are {limits}"


@pytest.mark.parametrize("text", ["", "GiB", "1GB", "-1", "1e9", "1 GiB and more"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ringtable.InvalidOption, match="KiB"):
        parse_size(text)


@pytest.mark.parametrize(("size", "text"), [(1 << 30, "1 GiB"), (1536, "1536 B"), (3 << 20, "3 MiB")])
def test_sizes_are_written_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert format_size(size) == text


def test_a_value_out_of_range_is_named_with_its_limits() -> None:
    check_range("workers", 64, 1, 64, "threads")
    with pytest.raises(ringtable.InvalidOption, match="workers is 65 threads, but has to be from 1 to 64 threads"):
        check_range("workers", 65, 1, 64, "threads")
