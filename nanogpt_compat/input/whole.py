"""Read text files each of which is one document, in blocks: the whole file, or parts of a long one."""

from dataclasses import replace

from nanogpt_compat.input.local import InputFile
from nanogpt_compat.input.open import open_input
from nanogpt_compat.input.reader import Check, go_on
from nanogpt_compat.input.samples import Excerpts, Sample, Share
from nanogpt_compat.input.separated import DocumentText
from nanogpt_compat.text.blocks import Block, MakeRoom
from nanogpt_compat.text.decoding import decode, lenient


class WholeText(DocumentText):
    """Reads text that is one document. There is no block of an empty file, which is an empty document."""

    __slots__ = ()

    def shorten(self, block: Block, _n_chars: int, _make_room: MakeRoom) -> Block:
        return replace(block, n_chars=len(decode(block, lenient(self.errors))))

    def sample(self, file: InputFile, samples: list[Sample], share: Share, check: Check) -> Excerpts:
        """Take pieces of the text, and the same share of its one end-of-text token."""
        found = super().sample(file, samples, share, check)
        if not self.size_bytes:
            return found
        weights = [*found.weights, found.n_bytes / self.size_bytes]
        return replace(found, texts=[*found.texts, self.mark], weights=weights)

    def bounds(self, start: int, end: int, check: Check = go_on) -> tuple[int, int]:
        """Give the whole file to the span that begins with it."""
        if self.form.compression != "none":
            return start, end
        check()
        with open_input(self.location, size_bytes=self.size_bytes, check=check) as file:
            return (0, file.size_bytes) if start == 0 else (end, end)
