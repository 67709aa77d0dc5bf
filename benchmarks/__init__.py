"""The benchmarks that give the numbers in README.md and docs/: corpora, strategies, speed and memory."""
