"""Threads start before there is work for them, and a thread that is refused is a lack of memory."""

import subprocess
import sys
import threading

import pytest

from nanogpt_compat.system.threads import start_pool


def test_all_threads_run_before_there_is_work() -> None:
    before = set(threading.enumerate())
    with start_pool(3, "early") as pool:
        started = set(threading.enumerate()) - before
        assert sorted(thread.name for thread in started) == ["early_0", "early_1", "early_2"]
        assert pool.submit(lambda: threading.current_thread() in started).result()
        assert set(threading.enumerate()) - before == started
    assert not started & set(threading.enumerate())


@pytest.mark.skipif(sys.platform != "linux", reason="rlimits on memory are Linux's")
def test_threads_that_cannot_be_started_are_a_lack_of_memory() -> None:
    code = """
import psutil, resource, threading
from nanogpt_compat.system.threads import start_pool
limit = psutil.Process().memory_info().data + (40 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    start_pool(64, "many")  # with stacks of 8 MiB
except MemoryError as error:
    print(error, threading.active_count())
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "not all of 64 threads can be started 1\n", done.stderr
