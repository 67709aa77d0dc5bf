"""Shared by all tests: no network, no skips in CI, samples of cases, the vocabulary, running the program."""

import contextlib
import fcntl
import os
import random
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest
import tiktoken

from nanogpt_compat.encoders.interface import Encoder
from nanogpt_compat.encoders.vocabulary import load_gpt2
from nanogpt_compat.system import redaction
from tests.disks import Disks, open_disks
from tests.engines import NAMES, open_encoder
from tests.failing import FailingCalls, compile_failing_calls

pytest.register_assert_rewrite("tests.faults")
hypothesis.settings.register_profile("no clock", deadline=None)  # a slow machine is not an error
hypothesis.settings.load_profile("no clock")

REPOSITORY = Path(__file__).parent.parent
IMPOSSIBLE = "impossible here: "  # begins the reason of a skip that no package or tool would avoid
# Nothing listens on the discard port, so every download fails at once, here and in programs started here.
CLOSED_PROXY = "http://127.0.0.1:9"


class RunPrepare(Protocol):
    """Run `prepare.py` of this repository with these arguments, as a user would."""

    def __call__(self, *args: str | Path, timeout_s: float = ...) -> "subprocess.CompletedProcess[str]": ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-all",
        action="store_true",
        help="fail every test that is skipped: for CI, where everything that tests need is installed",
    )
    parser.addoption(
        "--costly",
        type=int,
        default=16,
        metavar="N",
        help="run one in N of the tests that take long, and all of the others; 1 runs all (default: 16)",
    )
    parser.addoption(
        "--sample-seed", default="0", help="choose other tests of those that run in part (default: 0)"
    )


def pytest_configure() -> None:
    # A background process of a shell ignores these, and so would the programs started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ[name] = os.environ[name.upper()] = CLOSED_PROXY
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"  # for the servers of tests
    # With the last one set, each program started here would compile the package again.
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark all cases outside the samples as slow, and of the costly tests all but some of each module.

    The choice depends only on names and the seed.
    """
    seed, costly = config.getoption("--sample-seed"), config.getoption("--costly")
    for name, some in _by_name(items, "sample", "[").items():
        marker = some[0].get_closest_marker("sample")
        assert marker is not None
        for item in _shuffled(some, f"{seed} {name}")[marker.args[0] :]:
            item.add_marker("slow")
    for name, some in _by_name(items, "costly", "::").items():
        for item in _shuffled(some, f"{seed} {name}")[-(-len(some) // costly) :]:
            item.add_marker("slow")


def _by_name(items: Iterable[pytest.Item], marker: str, mark: str) -> dict[str, list[pytest.Item]]:
    """Group the items with a marker that are not slow, by their names up to a mark."""
    found: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker(marker) is not None and item.get_closest_marker("slow") is None:
            found.setdefault(item.nodeid.partition(mark)[0], []).append(item)
    return found


def _shuffled(items: list[pytest.Item], seed: str) -> list[pytest.Item]:
    items = sorted(items, key=lambda item: item.nodeid)
    random.Random(seed).shuffle(items)
    return items


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test that is marked `alone` while the other processes (-n 2) run none."""
    with _turn(item.config, is_alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextlib.contextmanager
def _turn(config: pytest.Config, *, is_alone: bool) -> Iterator[None]:
    if not hasattr(config, "workerinput"):  # this is the only process
        yield
        return
    with (REPOSITORY / "setup.cfg").open() as running, Path(__file__).open() as waiting:
        # While one test waits to be alone, no other may begin.
        fcntl.flock(waiting, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(waiting, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest's own hook, which decides on skip or xfail
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _fail_if_required(report, item.config)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _fail_if_required(report, collector.config)
    return report


def _fail_if_required(report: Any, config: pytest.Config) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    if config.getoption("--require-all") and IMPOSSIBLE not in str(reason):
        report.outcome = "failed"
        report.longrepr = f"--require-all: nothing may be skipped, and this was: {reason}"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the secrets of other tests: a password in one may be an ordinary word in another."""
    monkeypatch.setattr(redaction, "_known", set())
    redaction._forms.cache_clear()


@pytest.fixture(scope="session")
def gpt2() -> tiktoken.Encoding:
    return load_gpt2()


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest) -> str:
    """Return the name of each engine in turn, for `--engine`."""
    return str(request.param)


@pytest.fixture(scope="session", params=NAMES)
def encoder(request: pytest.FixtureRequest, gpt2: tiktoken.Encoding) -> Encoder:
    """Return each engine in turn; gigatoken without a bound, because tests use memory of this process."""
    return open_encoder(request.param, gpt2)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    with open_disks(tmp_path) as disks:
        yield disks


@pytest.fixture(scope="session")
def failing_calls(tmp_path_factory: pytest.TempPathFactory) -> FailingCalls:
    return compile_failing_calls(tmp_path_factory.mktemp("failing-calls"))


@pytest.fixture
def run_prepare(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> RunPrepare:
    """Run in `tmp_path`, with an empty tiktoken cache, so that the installed vocabulary is used."""
    environment = os.environ | {"TIKTOKEN_CACHE_DIR": str(tmp_path_factory.mktemp("tiktoken-cache"))}

    def run(*args: str | Path, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(REPOSITORY / "prepare.py"), *map(str, args)]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run
