"""The tests can fail: for each promise broken on purpose, at least one does."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import REPOSITORY
from tests.mutants import MUTANTS, VARIABLE

TIMEOUT_S = 900


def run_tests(*tests: str, mutant: str) -> "subprocess.CompletedProcess[str]":
    """Run tests until the first fails, with the program broken in every process."""
    path = [str(REPOSITORY / "tests" / "mutation"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, VARIABLE: mutant, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--costly", "1", *tests]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_promise_is_noticed(name: str) -> None:
    done = run_tests(*MUTANTS[name][1], mutant=name)
    assert done.returncode == 1, done.stdout  # 1: tests failed; other codes: they could not be run
    assert "failed" in done.stdout


def test_the_target_of_each_mutant_exists() -> None:
    code = """
        import os
        import nanogpt_compat.run.run, nanogpt_compat.cluster.worker  # most of what they break
        from tests.mutants import MUTANTS, apply
        for name in MUTANTS:
            if not os.fork():
                apply(name)
                os._exit(0)
            assert os.wait()[1] == 0, name
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
