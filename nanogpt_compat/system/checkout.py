"""Notice files that git would add to a checkout although they are data."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from nanogpt_compat.system.commands import join, quote, show

_TIMEOUT_S = 1.0
_MOST_FILES = 1000  # the most files that git is asked about
_MOST_NAMED = 3
_SPECIAL = re.compile(r"[\\*?\[\]!# ]")  # in a pattern of .gitignore


def notice_unignored(folder: Path, files: Iterable[Path]) -> str:
    """Return a notice about `files` that git would add to the checkout of `folder`; "" if there are none.

    It takes 5 to 10 ms in a checkout, where it starts git, and none elsewhere. Without git, or if git fails
    for any reason, it returns "".
    """
    real = folder.resolve()
    root = next((one for one in (real, *real.parents) if (one / ".git").exists()), None)
    names = [] if root is None else _unignored(root, files)
    if root is None or not names:
        return ""
    named = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    ignore = root / ".gitignore"
    ends_line = not ignore.exists() or not (text := ignore.read_bytes()) or text.endswith(b"\n")
    form = r"%s\n" if ends_line else r"\n%s\n"
    command = f"{join('printf', form, *patterns_for(names))} >> {quote(ignore)}"
    return f"notice: git does not ignore {named} in {root}; to add them to its .gitignore:{show(command)}"


def _unignored(root: Path, files: Iterable[Path]) -> list[str]:
    """Return those of `files` that git neither tracks nor ignores, relative to the top folder."""
    inside = [
        one.relative_to(root).as_posix() for one in map(Path.resolve, files) if one.is_relative_to(root)
    ]
    git = shutil.which("git")
    if git is None or not inside:
        return []
    words = ("--literal-pathspecs", "ls-files", "-z", "--others", "--exclude-standard", "--")
    try:
        done = subprocess.run(
            [git, *words, *inside[:_MOST_FILES]],
            cwd=root,
            env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # it also refuses the checkout of another user
        return []
    return list(filter(None, os.fsdecode(done.stdout).split("\0")))


def patterns_for(names: Sequence[str]) -> list[str]:
    r"""Return lines for the .gitignore of the top folder: one for all files of a folder with one suffix.

    >>> patterns_for(["web/prepare.json", "web/a_0.npy", "web/a_1.npy", "my text.txt"])
    ['/web/prepare.json', '/web/*.npy', '/my\\ text.txt']
    """
    alike: dict[tuple[str, str], list[PurePosixPath]] = {}
    for path in map(PurePosixPath, names):
        alike.setdefault((str(path.parent), path.suffix), []).append(path)
    return [
        _escape(some[0]) if len(some) == 1 else f"{_escape(some[0].with_name('_'))[:-1]}*{some[0].suffix}"
        for some in alike.values()
    ]


def _escape(path: PurePosixPath) -> str:
    return _SPECIAL.sub(r"\\\g<0>", f"/{path}")
