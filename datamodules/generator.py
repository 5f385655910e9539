"""The sources of the demo city's generator: a city is what they make."""

import hashlib
from pathlib import Path

PACKAGE = Path(__file__).with_name("demo")
HINTS = PACKAGE / "hints.py"  # read only where something is said indirectly
UNCHANGED = {
    # city.py, which lets people hint
    "12c7b8830de01a7fbf39ca24fbddc49f2d0dc916c5df62a7137a502884d206c4": (
        "9c61c81f45b428b17fbe10e0533f171d99325ac7d503c9e46c2521cbce9a9019"
    ),
}
"""SHA-256 of a source -> that of an earlier one which writes the same, so that a city keeps its place in the cache."""


def generator_hashes(indirect: float) -> list[str]:
    """Return the SHA-256 of each source that a city depends on.

    Args:
        indirect: share of the give-away sentences that only hint; without any, what hints say changes nothing.
    """
    sources = [path for path in sorted(PACKAGE.rglob("*.py")) if indirect or path != HINTS]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sources]
    return [UNCHANGED.get(of_source, of_source) for of_source in hashes]
