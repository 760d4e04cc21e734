"""Line plots as inline SVG: a page that shows them needs no script and no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from attrs import frozen

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 960, 240, 56, 28, 24
LAST = 4  # tick of an axis, from 0
POINTS_MAX = 600  # of a line; beyond that, the highest value of each stretch


@frozen
class Line:
    """One line: its name, its colour, a value for each x; None is a gap in it."""

    name: str
    colour: str
    values: Sequence[float | None]


def plot(title: str, at: Sequence[float], lines: Sequence[Line]) -> str:
    """Draw the lines over `at`, from 0 up."""
    if len(at) < 2:  # noqa: PLR2004  # a line has two ends
        return f"<p class=note>{escape(title)}: too short a run to draw</p>"
    step = max(1, -(-len(at) // POINTS_MAX))
    first, last = at[0], at[-1]
    values = (value for line in lines for value in line.values if value is not None)
    most = _round_up(max(values, default=0.0))

    def x(value: float) -> float:
        return LEFT + (value - first) / (last - first) * (WIDTH - LEFT - 8)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / most * (HEIGHT - BOTTOM - TOP)

    parts = [
        (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="12"'
            ' font-family="system-ui,sans-serif" fill="#7a8598">'
        )
    ]
    for tick in range(LAST + 1):
        value = most * tick / LAST
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
            ' stroke="#7a8598" stroke-opacity=".25"/>'
        )
        parts.append(
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
        second, anchor = first + (last - first) * tick / LAST, "end" if tick == LAST else "middle"
        parts.append(
            f'<text x="{x(second):.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">'
            f"{second:.0f} s</text>"
        )
    legend = LEFT
    for line in lines:
        for piece in _pieces(at, line.values, step):
            if len(piece) == 1:
                second, value = piece[0]
                parts.append(
                    f'<circle cx="{x(second):.1f}" cy="{y(value):.1f}" r="1.6"'
                    f' fill="{line.colour}"/>'
                )
                continue
            points = " ".join(f"{x(second):.1f},{y(value):.1f}" for second, value in piece)
            parts.append(
                f'<polyline fill="none" stroke="{line.colour}" stroke-width="1.6"'
                f' points="{points}"/>'
            )
        parts.append(f'<text x="{legend}" y="14" fill="{line.colour}">{escape(line.name)}</text>')
        legend += 9 * len(line.name) + 16
    parts.append(f'<text x="{WIDTH - 8}" y="14" text-anchor="end">{escape(title)}</text></svg>')
    return "".join(parts)


def _pieces(
    at: Sequence[float], values: Sequence[float | None], step: int
) -> list[list[tuple[float, float]]]:
    """A line's points, in pieces between its gaps; of each stretch the highest value."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for index in range(0, len(at), step):
        found = [value for value in values[index : index + step] if value is not None]
        if found:
            pieces[-1].append((at[index], max(found)))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _round_up(value: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 0.1
    return next((factor * power for factor in (1, 2, 5, 10) if factor * power >= value), 1.0) or 1.0
