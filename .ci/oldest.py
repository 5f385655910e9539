"""Print the oldest dependencies that setup.cfg allows, as constraints for pip: ``python .ci/oldest.py > oldest.txt``.

Only what setup.cfg bounds from below is listed; pip chooses the rest to go with it.
"""

import configparser
import re
from pathlib import Path


def oldest(text: str) -> list[str]:
    """Return ``name==bound`` for each requirement of the package and of its tests that has a lower bound."""
    settings = configparser.ConfigParser()
    settings.read_string(text)
    lines = settings["options"]["install_requires"].split() + settings["options.extras_require"]["test"].split()
    matches = [re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", line) for line in lines]
    return [f"{match[1]}=={match[2]}" for match in matches if match]


if __name__ == "__main__":
    print("\n".join(oldest((Path(__file__).parents[1] / "setup.cfg").read_text(encoding="utf-8"))))
