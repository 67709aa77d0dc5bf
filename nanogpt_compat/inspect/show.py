"""Show what is in a folder or a file of tokens."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from nanogpt_compat.encoders.decode import decode
from nanogpt_compat.encoders.vocabulary import find_gpt2, how_to_install
from nanogpt_compat.errors import InputError, OutputError
from nanogpt_compat.inspect.dataset import open_dataset
from nanogpt_compat.inspect.overview import Decode, describe_saved, overview
from nanogpt_compat.inspect.place import parse_place, show_place
from nanogpt_compat.system.commands import show


def inspect(path: Path, at: str | None, *, vocab_dir: Path | None, width: int) -> Iterator[str]:
    """Yield the lines about a folder or a file of tokens, or about one place in it.

    `at`: the value of `--at`. `width`: the columns of the terminal. Memory is bounded by some megabytes.
    """
    place = None if at is None else parse_place(at)
    dataset = open_dataset(path)
    if not (dataset.parts or dataset.misfits):
        saved = list(describe_saved(path))
        if saved and place is None:
            yield from saved
            return
        why = (
            "its run has not finished"
            if saved
            else "give --inspect a folder with train.bin or shards, or a file"
        )
        raise OutputError(f"{path} has no token files; {why}")
    show_text, why_not = _open_vocabulary(vocab_dir)
    if place is None:
        yield from overview(dataset, show_text, width=width)
    else:
        yield from show_place(dataset, place, show_text, width=width)
    yield from why_not


def _open_vocabulary(vocab_dir: Path | None) -> tuple[Decode | None, Sequence[str]]:
    """Return a function that turns tokens into text, or None and a line with the reason."""
    try:
        return partial(decode, encoding=find_gpt2(vocab_dir).encoding), ()
    except InputError as error:
        if vocab_dir is not None:
            raise
        why = str(error).partition("\n")[0].rstrip(":")
        return None, [f"no texts: {why}. Install a package that contains it:{show(how_to_install())}"]
