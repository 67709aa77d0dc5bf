"""CRC-32, as zlib computes it: with ISA-L, three times as fast, if the package `isal` is installed."""

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
