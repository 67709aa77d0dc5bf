"""Measurements behind the README's numbers: corpora, the strategies that are replaced, and their memory."""
