"""Check whether training programs can read the output, and suggest the command that starts one.

bin    nanoGPT's train.py reads data/<dataset> in its checkout
npy    build-nanogpt's train_gpt2.py reads every file of a folder with `train` or `val` in its name
llmc   llm.c's train_gpt2cu reads the files that match two patterns
"""

import ast
import glob
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from nanogpt_compat.config import Config
from nanogpt_compat.output.layout import OutputFile, Outputs, by_split, files_of
from nanogpt_compat.system.commands import is_typed, join, quote, show, this_command
from nanogpt_compat.system.units import format_count, plural
from nanogpt_compat.text.val_split import FIRST_SHARD

MIN_TOKENS = 1025  # a block of 1,024, the default of all three programs, and the token after it
_LLMC_MIN_TOKENS = 4 * 1024 + 1  # in each shard: train_gpt2cu's default batch, and the token after it
_MANY_SHARDS = 1000
_EVAL_TOKENS = 200 * 12 * 1024  # for a split: train.py's eval_iters, batch_size and block_size
_MANY_TIMES = 100  # tokens are drawn so often that a larger val.bin is worth a notice,
_FEW_TIMES = 25  # and at most this often from the one that the notice offers
_ENOUGH_VAL_TOKENS = 1_000_000
_FEW_DOCUMENTS = 5


@dataclass(frozen=True, slots=True)
class Output:
    """The output of a run: finished if `is_made`, else a forecast."""

    config: Config
    outputs: Outputs
    tokens: Mapping[str, int]  # in each stream
    is_made: bool
    n_documents: int | None = None  # None: unknown
    redo: Sequence[str] = ()  # the options that start over, for commands with another option
    is_merge: bool = False

    def verb(self, n_tokens: int) -> str:
        """Return a verb and the number of tokens: "has 3 tokens", or "would have about 3 tokens"."""
        return f"{'has' if self.is_made else 'would have about'} {plural(n_tokens, 'token')}"

    def start_over(self, option: str, value: object, *, without: Sequence[str] = ()) -> str:
        """Return the command that starts over with another value of `option`; for ranks, only the options."""
        if self.is_merge and not is_typed("--cluster"):  # the parts must be made again before they are merged
            return f" {join(option, value, '--overwrite')}, for all ranks and for the --merge after them"
        unwanted = ["--dry-run", option, *self.redo, *without]
        return show(this_command(option, value, *self.redo, without=unwanted))


def find_short(made: Output) -> dict[str, str]:
    """Return warnings, by kind, about splits and shards that are too short to be read."""
    found: dict[str, str] = {}
    is_bin = made.config.output_format == "bin"
    if not is_bin and made.outputs["train"].shard_tokens < MIN_TOKENS:
        return found  # all shards are too short, and `find_odd` warns of that
    counts = by_split(made.outputs, made.tokens)
    if short := [split for split, n_tokens in counts.items() if n_tokens < MIN_TOKENS]:
        found["splits"] = _warn_of_splits(made, counts, short)
    lasts = {one.stream: one for one in files_of(made.outputs, made.tokens)}.values()
    for last in (one for one in lasts if not is_bin and one.k and one.n_tokens < MIN_TOKENS):
        way_out = "change --shard-tokens, or remove that shard afterwards"
        if made.is_made:
            way_out = f"remove it:{show(join('rm', last.path))}"
        found[f"last shard of {last.stream}"] = (
            f"warning: {last.name}, the last shard, {made.verb(last.n_tokens)}, and readers of shards fail "
            f"at a shard of fewer than {MIN_TOKENS:,}: {way_out}"
        )
    return found


def _warn_of_splits(made: Output, counts: Mapping[str, int], short: Sequence[str]) -> str:
    config, total = made.config, sum(counts.values())
    is_file = config.output_format == "bin"
    names = {"val": "val.bin", "train": "train.bin" if config.shard_tokens is None else "train_shard_*.bin"}
    each = (f"{names[one] if is_file else f'the {one} split'} {made.verb(counts[one])}" for one in short)
    why = (
        f"warning: {' and '.join(each)}, but sampling a block of 1,024 takes at least {MIN_TOKENS:,}: give "
        "more text"
    )
    if config.n_val_inputs:
        return f"{why} with {' and '.join('--val-input' if one == 'val' else '--input' for one in short)}"
    if total < 2 * len(counts) * MIN_TOKENS:
        return why
    if config.val_split == FIRST_SHARD:
        return f"{why}, or smaller shards:{made.start_over('--shard-tokens', max(MIN_TOKENS, total // 10))}"
    if "train" in short or (made.n_documents is not None and 0 < made.n_documents < _FEW_DOCUMENTS):
        none = made.start_over("--val-split", "none", without=["--val-ratio"])
        return f"{why}, or make no validation split:{none}"
    ratio = 1.5 * MIN_TOKENS / total
    if config.val_split == "documents":
        if not made.n_documents:
            return f"{why}, or a larger --val-ratio"
        ratio = max(ratio, _FEW_DOCUMENTS / made.n_documents)  # five on average, or val may get none
    larger = made.start_over("--val-ratio", f"{min(0.5, ceil(ratio * 1000) / 1000):g}")
    return f"{why}, or a larger share for validation:{larger}"


def find_small_val(made: Output) -> dict[str, str]:
    """Return a notice, by kind, if val.bin is so small that nanoGPT's evaluation says little.

    Only if a tenth of the text at most, as nanoGPT takes for a small text, makes a difference.
    """
    config, total = made.config, sum(made.tokens.values())
    n_val = made.tokens.get("val", 0)
    aim = min(_ENOUGH_VAL_TOKENS, total // 10)
    is_fine = n_val > _EVAL_TOKENS // _MANY_TIMES or aim < _EVAL_TOKENS // _FEW_TIMES
    is_share = config.output_format == "bin" and config.has_val and not config.n_val_inputs
    if not is_share or n_val < MIN_TOKENS or is_fine:
        return {}
    ratio = f"{ceil(100 * aim / total * 10) / 1000:g}" if aim == _ENOUGH_VAL_TOKENS else "0.1"
    larger = made.start_over("--val-ratio", ratio)
    return {
        "small val": (
            f"notice: val.bin {made.verb(n_val)}. Each evaluation of nanoGPT's train.py draws "
            f"{format_count(_EVAL_TOKENS)} of them, so each about {round(_EVAL_TOKENS / n_val):,} times. "
            f"For a val.bin of about {format_count(float(ratio) * total)} tokens:{larger}"
        )
    }


def find_odd(made: Output) -> dict[str, str]:
    """Return warnings, by kind, about the number of shards and about unrelated files in the folder."""
    found: dict[str, str] = {}
    shards = made.outputs["train"]
    shard_tokens, total = shards.shard_tokens, sum(made.tokens.values())
    n_files, size = shards.n_shards(made.tokens["train"]), plural(shard_tokens, "token")
    larger_tokens = max(MIN_TOKENS, -(-total // 20_000) * 1000)
    why = ""
    if made.config.output_format != "bin" and shard_tokens < MIN_TOKENS:
        why = f"shards of {size} are too short, since a block of 1,024 takes {MIN_TOKENS:,}"
    elif n_files >= _MANY_SHARDS and shard_tokens < larger_tokens:
        why = f"this makes {n_files:,} files of {size} each"
    if why:
        larger = made.start_over("--shard-tokens", larger_tokens)
        found["shards"] = f"warning: {why}: make larger shards:{larger}"
    return found | _faults_of_folder(made.config, made.outputs)


def _faults_of_folder(config: Config, outputs: Outputs) -> dict[str, str]:
    """Return warnings about files in the folder that a training program would take for part of the output."""
    found: dict[str, str] = {}
    folder = config.output_dir
    if config.output_format == "npy" and folder.is_dir():
        own = [shards.pattern for shards in outputs.values()]
        names = (path.name for path in folder.iterdir() if "train" in path.name or "val" in path.name)
        name = min((name for name in names if not any(one.fullmatch(name) for one in own)), default=None)
        if name is not None:
            found["other files"] = (
                f"warning: {folder / name} is not a shard, but build-nanogpt would read it because of its "
                "name: move it away, or give another --output-dir"
            )
    if config.output_format != "bin":
        return found
    own_names = {shards.listed_name(0) for shards in outputs.values()}
    for name in ("val.bin", "train.bin"):
        if name not in own_names and (folder / name).exists():
            found[name] = (
                f"warning: {folder / name} is from another run, and this run makes no {name}; nanoGPT would "
                f"read the files of both: move it away, or remove it:{show(join('rm', folder / name))}"
            )
    meta = folder / "meta.pkl"
    if meta.exists():
        found[meta.name] = (
            f"warning: {meta} is from another dataset, and train.py would read its vocabulary size from "
            f"there: move it away, or remove it:{show(join('rm', meta))}"
        )
    return found


def next_step(config: Config, files: Sequence[OutputFile]) -> str:
    """Return the command that trains on the output, for the user; "" if none would work."""
    folder = config.output_dir
    is_pair = {one.split for one in files} == {"train", "val"}
    if config.output_format == "npy":
        is_short = any(one.n_tokens < MIN_TOKENS for one in files)
        root = str(folder.resolve())
        line = f"next: set data_root = {root!a} in train_gpt2.py of build-nanogpt"
        return line if is_pair and not is_short else ""
    if config.output_format == "llmc":
        first = str(folder.resolve() / f"{config.shard_name}_")
        patterns = {split: f"{glob.escape(first)}{split}_*.bin" for split in ("train", "val")}
        command = join("./train_gpt2cu", "-i", patterns["train"], "-j", patterns["val"])
        is_short = any(one.n_tokens < _LLMC_MIN_TOKENS for one in files)
        return f"next, where llm.c was built:{show(command)}" if is_pair and not is_short else ""
    n_tokens = {split: sum(one.n_tokens for one in files if one.split == split) for split in ("train", "val")}
    train = _train_command(folder) if min(n_tokens.values()) >= MIN_TOKENS else ""
    if config.shard_tokens is None:
        return f"next:{show(train)}" if train else ""
    if (folder / "train.bin").exists():
        return ""
    last = max(one.k for one in files if one.split == "train")
    # A pattern would sort shard 10000 before shard 9999.
    put_together = f"(cd {quote(folder)} && seq -f train_shard_%04.0f.bin 0 {last} | xargs cat > train.bin)"
    return f"next, for one train.bin:{show(*filter(None, (put_together, train)))}"


def _train_command(output_dir: Path) -> str:
    """Return the command that starts nanoGPT; "" if the folder is not data/<dataset> in a checkout."""
    places = [  # the folder or one of its parents may be a link
        (root, folder.relative_to(root / "data").as_posix())
        for folder in (output_dir.absolute(), output_dir.resolve())
        for root in folder.parents
        if folder.is_relative_to(root / "data") and (root / "train.py").is_file()
    ]
    if not places or (output_dir / "meta.pkl").exists():
        return ""
    root, dataset = places[0]
    try:
        ast.literal_eval(dataset)
        dataset = repr(dataset)  # nanoGPT's configurator would read `2024` as a number
    except (SyntaxError, ValueError):
        pass
    if dataset == "." or "=" in dataset:
        return ""
    command = join(sys.executable or "python3", "train.py", f"--dataset={dataset}")
    return command if root == Path.cwd() else f"cd {quote(root)} && {command}"
