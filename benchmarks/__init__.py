"""The benchmarks that produce the numbers in README.md and docs/: corpora, strategies, speed and memory."""
