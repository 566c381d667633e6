"""The open benchmark: dynamical patterns of random orientations with known truth, and how to score any code on them.

``python -m open_benchmark --help``, in the folder ``benchmarks``; ``docs/open_benchmark.md`` is its page.
"""
