"""Start the command line: `python -m nanogpt_compat`, and what `prepare.py` calls.

Python 3.6 to 3.9 must get as far as the message that they are too old: use no newer syntax here.
"""

import sys

# What the package imports; setup.cfg's install_requires says which versions, and a test compares the names.
PACKAGES = ["numpy", "psutil", "tiktoken", "tqdm"]
_COLLECT_AFTER = 50000  # objects; no underscores in numbers before Python 3.6


def start(home: "str | None" = None) -> int:
    """Run the command line, or print what is missing for that; return the exit code.

    `home` is the folder that default paths start from; None is the current folder.
    """
    try:
        from nanogpt_compat.system.signals import end_at_once

        end_at_once()
    except KeyboardInterrupt:
        sys.stderr.write("prepare: stopped by SIGINT\n")
        sys.excepthook = lambda *_: None  # Python then ends by the signal, without a traceback
        raise
    problem = find_problem()
    if problem:
        sys.stderr.write(f"nanogpt_compat: {problem}\n")
        return 2
    import gc
    import os
    from pathlib import Path

    # By default each 700 new objects start a collection, which is a tenth of the time of all imports.
    gc.set_threshold(_COLLECT_AFTER)
    # OpenBLAS would start a thread for each CPU when numpy is imported; nothing here uses linear algebra.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from nanogpt_compat.cli import main  # only now: it imports the packages
    from nanogpt_compat.errors import MemoryLimitError, TooSmallError

    exit_code = main(home=None if home is None else Path(home))
    if exit_code in (MemoryLimitError.exit_code, TooSmallError.exit_code):
        os._exit(exit_code)  # sys.exit waits for threads still at work: one refused memory would abort()
    gc.freeze()  # else Python visits every object twice more at its exit, which takes 80 ms
    return exit_code


def find_problem() -> str:
    """Return one sentence that names everything missing; empty if all is installed."""
    if sys.version_info < (3, 10):  # noqa: UP036 - see above
        found = ".".join(str(number) for number in sys.version_info[:3])
        return f"Python 3.10 or newer is needed, and {sys.executable} is Python {found}"
    from importlib.util import find_spec

    missing = [name for name in PACKAGES if find_spec(name) is None]
    if not missing:
        return ""
    from nanogpt_compat.system.commands import install, show  # these need none of the packages

    return "packages are missing; install them with:" + show(install(*missing))


if __name__ == "__main__":
    sys.exit(start())
