"""What the doctor prints: one screen of a hundred columns."""

import textwrap
from collections.abc import Iterable, Sequence

WIDTH, LABEL = 100, 9


def row(label: str, *lines: str) -> str:
    """Return a row of the screen: a label, and beside it lines that are folded where they are too long."""
    folded = [
        part
        for line in lines
        for part in textwrap.wrap(line, WIDTH - LABEL - 2, break_on_hyphens=False, subsequent_indent="  ") or [""]
    ]
    return "\n".join(
        f"{name:<{LABEL}}  {text}".rstrip() for name, text in zip([label, *[""] * len(folded)], folded, strict=False)
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column stands on the left, and the others on the right but for the last."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    last = len(head) - 1
    return "\n".join(
        "  ".join(
            text.ljust(width) if i in (0, last) else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )
