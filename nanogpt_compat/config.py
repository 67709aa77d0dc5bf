"""What a run was asked to do."""

from dataclasses import asdict, dataclass
from pathlib import Path

from nanogpt_compat.documents import Documents

DEFAULT_INPUT = "train_fineweb.txt"


@dataclass(frozen=True, slots=True)
class Config:
    """The options of one run, checked and complete."""

    inputs: tuple[Path, ...]
    output_dir: Path
    n_chunks: int | None = None  # of 10,000,000 characters each
    val_ratio: float = 0.0005
    val_split: str = "spread"
    separator: str | None = None  # between documents; None: there are none
    eot: str = "append"
    errors: str = "ignore"
    errors_given: bool = False  # whoever says what to do with undecodable bytes knows of them
    vocab_dir: Path | None = None
    engine: str = "auto"
    n_workers: int = 1
    block_bytes: int | None = None  # None: by the number of workers
    overwrite: bool = False
    max_memory_bytes: int | None = None
    min_available_bytes: int | None = None

    @property
    def documents(self) -> Documents | None:
        """What to do about documents; None if the text is one stream."""
        if self.separator is None:
            return None
        return Documents(self.separator, self.eot, self.val_ratio if self.has_val else 0.0)

    @property
    def has_val(self) -> bool:
        """Whether there is a val.bin at all."""
        return self.val_split != "none" and self.val_ratio > 0

    def as_options(self) -> dict[str, object]:
        """List the options as JSON can hold them."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
            if name != "inputs"
        }
