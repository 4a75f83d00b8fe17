"""Bar charts as SVG, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_COLORS = ("#0b84a5", "#f6a735", "#6f4e7c", "#9dd866", "#ca472f", "#8dddd0")
_WIDTH, _LEFT, _RIGHT = 760, 120, 110
_BAR, _GAP = 18, 22


def bars(title: str, unit: str, groups: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """Horizontal bars: for each group (such as a load) one bar for each name. Each group has a scale of its own."""
    names = list(dict.fromkeys(name for group in groups.values() for name, _ in group))
    y = 34
    parts = [f'<text x="0" y="16" font-weight="bold">{escape(title)}</text>']
    for group, values in groups.items():
        y += _GAP
        parts.append(f'<text x="0" y="{y - 6}" font-weight="bold">{escape(group)}</text>')
        longest = max((value for _, value in values), default=0) or 1
        for name, value in values:
            width = (_WIDTH - _LEFT - _RIGHT) * value / longest
            color = _COLORS[names.index(name) % len(_COLORS)]
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 3}" fill="{color}"/>')
            parts.append(f'<text x="{_LEFT + width + 6:.1f}" y="{y + 13}">{value:,.4g} {escape(unit)}</text>')
            y += _BAR
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 10}" width="{_WIDTH}" height="{y + 10}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="#808080" role="img">\n'
        f"<title>{escape(title)}</title>\n{body}\n</svg>\n"
    )
