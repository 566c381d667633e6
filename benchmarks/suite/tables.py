"""Cells and lines of Markdown tables."""

from __future__ import annotations


def header(*cells: str) -> list[str]:
    """Two lines that begin a table."""
    return [line(*cells), line(*(["---"] * len(cells)))]


def line(*cells) -> str:
    """Write a line of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def percent(share: float) -> str:
    """Write a share in percent, with a tenth."""
    return f"{100 * share:.1f} %"


def degrees(angle: float | None) -> str:
    """Write an angle with two digits, a dash where there is none."""
    return "–" if angle is None or angle != angle else f"{angle:.2f}°"
