"""Commands in messages: quoted for the shell, one to a line, so that they work when they are pasted.

A command has a line of its own, indented by four spaces. Nothing else in a message is indented like that, so
tests/test_advice.py can find the commands and run them.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path

import nanogpt_compat
from nanogpt_compat.system.redaction import redact

_INDENT = "\n    "
_ESCAPED = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\t": r"\t", "\r": r"\r"}
_SCRIPT = "nanogpt-prepare"  # in setup.cfg

# The command line that does what a call from Python does: the program, and its words.
_typed: ContextVar[tuple[str, Sequence[str]] | None] = ContextVar("typed", default=None)


@contextmanager
def typed(words: Sequence[str], *, program: str) -> Iterator[None]:
    """Let `this_command` and `this_program` offer this command line, whatever `sys.argv` holds."""
    token = _typed.set((program, words))
    try:
        yield
    finally:
        _typed.reset(token)


def quote(word: object) -> str:
    r"""Quote a word for the shell, in ASCII and without the secrets of an address.

    >>> quote("two words.txt"), quote("caf\xe9's.txt"), quote(Path("-n.txt"))
    ("'two words.txt'", "$'caf\\xc3\\xa9\\'s.txt'", './-n.txt')
    """
    text = redact(word) if isinstance(word, str) else str(word)
    if isinstance(word, Path) and text.startswith("-"):
        text = f"./{text}"  # or it would be read as an option
    if text.isascii() and text.isprintable():
        return shlex.quote(text)
    chars = (chr(byte) for byte in os.fsencode(text))
    shown = (_ESCAPED.get(one, one if " " <= one <= "~" else f"\\x{ord(one):02x}") for one in chars)
    return f"$'{''.join(shown)}'"


def join(*words: object) -> str:
    """Join words into a command, each quoted.

    >>> join("cat", Path("my text.txt"))
    "cat 'my text.txt'"
    """
    return " ".join(map(quote, words))


def show(*commands: str) -> str:
    r"""Return finished commands for a message: `f"convert it with{show(command)}\nor ..."`."""
    text = "".join(_INDENT + command for command in commands)
    if "://...@" in text or "?..." in text:
        text += "\n(replace ... in the address with its secret part)"
    return text


def this_program(*words: object) -> str:
    """Return the command that starts this program, the way it was started, with these words."""
    called = _typed.get()
    if called is not None:
        program = called[0]
    elif _is_launcher():
        program = join(_python(), Path(sys.argv[0]))
    elif Path(sys.argv[0]).name == _SCRIPT:
        program = join(sys.argv[0])
    else:  # also in a cluster's worker, which was started in another way
        program = join(_python(), "-m", "nanogpt_compat")
    return f"{program} {join(*words)}" if words else program


def program_name() -> str:
    """Return the name of this program, if it is not prepare.py: what a user types to start it."""
    return _SCRIPT if Path(sys.argv[0]).stem == _SCRIPT else "python -m nanogpt_compat"


def this_command(*more: object, without: Iterable[str] = (), words: Sequence[str] | None = None) -> str:
    """Return the command that was typed, without the options `without`, and with `more` at the end.

    `words` are the words typed, if they are not in `sys.argv`. `more` comes last, so that it wins.
    """
    return this_program(*drop_options(_words() if words is None else words, without), *more)


def _words() -> Sequence[str]:
    called = _typed.get()
    return called[1] if called is not None else sys.argv[1:] if _is_ours() else []


def is_typed(option: str) -> bool:
    """Return whether an option is on the command line."""
    return any(word.partition("=")[0] == option for word in _words())


def option_of(value: str, *, otherwise: str) -> str:
    """Return the option that has this value on the command line; `otherwise` if none has it."""
    option = otherwise
    for word in _words():
        if word.startswith("-") and word != "-":
            option, _, word = word.partition("=")
        if word == value:
            return option
    return otherwise


def drop_options(words: Sequence[str], options: Iterable[str]) -> list[str]:
    """Return `words` without `options` and their values; every word must be an option or a value.

    >>> drop_options(["--input", "a", "b", "--n=1", "--quiet"], ["--input", "--n"])
    ['--quiet']
    """
    options, kept, is_dropped = set(options), [], False
    for word in words:
        if word.startswith("-") and word != "-":
            is_dropped = word.partition("=")[0] in options
        if not is_dropped:
            kept.append(word)
    return kept


def install(*packages: str) -> str:
    """Return the command that installs packages for this Python, not for the one of the shell's `pip`."""
    if find_spec("pip") is None and (uv := shutil.which("uv")):  # uv makes environments without pip
        return join(uv, "pip", "install", "--python", _python(), *packages)
    return module("pip", "install", *packages)


def python(code: str) -> str:
    """Return the command that runs a line of code with this Python."""
    return join(_python(), "-c", code)


def module(name: str, *words: object) -> str:
    """Return the command that runs a module with this Python."""
    return join(_python(), "-m", name, *words)


def _python() -> str:
    return sys.executable or "python3"


def _package() -> Path:
    return Path(nanogpt_compat.__file__).resolve().parent


def _is_launcher() -> bool:
    """Whether the script of this process is prepare.py: under any name, a file next to the package."""
    script, package = Path(sys.argv[0]), _package()
    folders = {script.absolute().parent, script.resolve().parent}  # either may be a link
    return script.is_file() and package in {(folder / package.name).resolve() for folder in folders}


def _is_ours() -> bool:
    script = Path(sys.argv[0])
    is_module = script.name == "__main__.py" and script.resolve().parent == _package()
    return is_module or script.name == _SCRIPT or _is_launcher()
