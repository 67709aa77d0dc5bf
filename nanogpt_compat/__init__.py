"""Turn text of any size into nanoGPT's train.bin and val.bin in bounded memory.

prepare.py is the command line. From Python:

    import nanogpt_compat

    report = nanogpt_compat.prepare("train_fineweb.txt", "data/fineweb", val_ratio=0.001)
    tokens = nanogpt_compat.open_tokens("data/fineweb/train.bin")
    n_tokens = nanogpt_compat.count_tokens("more.txt")

A PrepareError says what is wrong and what to do; `exit_code` is that of the command line.
"""

__version__ = "0.2.0"
__all__ = ["PrepareError", "count_tokens", "open_tokens", "prepare"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nanogpt_compat.api import count_tokens, prepare
    from nanogpt_compat.errors import PrepareError
    from nanogpt_compat.output.open import open_tokens

_MODULES = {
    "PrepareError": "nanogpt_compat.errors",
    "count_tokens": "nanogpt_compat.api",
    "open_tokens": "nanogpt_compat.output.open",
    "prepare": "nanogpt_compat.api",
}


def __getattr__(name: str) -> object:
    """Import a function when it is first used, so that the command line starts in a tenth of a second."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})
