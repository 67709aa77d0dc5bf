"""How options are parsed: the text of errors, and the form of the help. `options` describes them."""

import argparse
import difflib
import re
import shutil
import textwrap
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import NoReturn

from nanogpt_compat.errors import UsageError

DASHES = "-\u2013\u2014"  # word processors replace two dashes by a long one
_WIDE_COLUMNS = 70
ANY = 1 << 30
_SIMILAR = 0.75  # --vall-ratio and --worker, but not --verbose for --errors

_INVALID_CHOICE = re.compile(r"invalid choice: (['\"])(.*)\1 \(choose from (.*)\)")
_NO_VALUE = re.compile(r"argument (--[a-z-]+): expected (?:one|at least one) argument")


class Help(argparse.HelpFormatter):
    """Wraps all texts except examples to the terminal, and breaks no option at a hyphen."""

    def __init__(self, prog: str) -> None:
        columns = shutil.get_terminal_size().columns - 2
        super().__init__(prog, width=columns, max_help_position=24 if columns >= _WIDE_COLUMNS else 8)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wrap each line under itself; keep one that begins with four spaces: it is a command."""
        lines = []
        for line in text.splitlines():
            margin = re.match(r" *(?:\d+ +)?", line)
            if margin is None or line.startswith("    "):
                lines.append(line)
                continue
            under = " " * len(margin[0])
            lines.append(textwrap.fill(line, width, subsequent_indent=under, break_on_hyphens=False))
        return "\n".join(lines)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises its errors as UsageError, and does not print the usage first."""

    words: Sequence[str] = ()  # the command line, for errors

    @cached_property
    def arities(self) -> dict[str, int]:
        """The most values that each option takes."""
        n_values = {None: 1, "?": 1, 0: 0}
        return {name: n_values.get(one.nargs, ANY) for name, one in self._option_string_actions.items()}

    def similar(self, typed: str) -> str:
        """Return the option that was meant by a word with dashes before it; "" if none is like it."""
        name = f"--{typed.lstrip(DASHES).partition('=')[0].replace('_', '-').lower()}"
        return next(iter(difflib.get_close_matches(name, self.arities, 1, _SIMILAR)), "")

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError that names what may have been meant."""
        meant = []
        if message.startswith("unrecognized"):
            meant = [self.similar(word) for word in message.split()[2:] if word.startswith("-")]
        elif (choice := _INVALID_CHOICE.search(message)) is not None:
            meant = difflib.get_close_matches(choice[2].lower(), re.findall(r"[\w-]+", choice[3]), 1)
        elif (option := _NO_VALUE.match(message)) is not None:
            after = [next_one for word, next_one in pairwise(self.words) if word == option[1]]
            if after and after[-1].partition("=")[0] not in self.arities:  # else the value was forgotten
                form = f"{option[1]}={self._option_string_actions[option[1]].metavar}"
                message += f" (one that begins with a dash is given as {form})"
        if meant := list(filter(None, meant)):
            message += f"; did you mean {' and '.join(meant)}?"
            raise UsageError(f"{message} --help lists the options")
        raise UsageError(f"{message}; --help lists the options")
