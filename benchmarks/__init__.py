"""The benchmarks behind the numbers of README.md and docs/: corpora, strategies, speed and memory."""
