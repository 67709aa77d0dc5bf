"""Turn text of any size into nanoGPT's train.bin and val.bin in bounded memory."""

__version__ = "0.1.0"
