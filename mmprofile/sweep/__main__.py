"""``python -m mmprofile.sweep table=2 seeds=3 data=demo model.size=tiny``"""

import signal
import sys
from types import FrameType

from mmprofile.config.command import guarded, print_help, quiet

AGAIN = "interrupted; the same command goes on with what is not done yet"


def run() -> int:
    """Make whole tables and return 1 if a row has failed. The imports take a second."""
    from mmprofile.sweep.run import main

    return main(sys.argv[1:])


def interrupt(number: int, frame: FrameType | None) -> None:
    """Answer SIGTERM as Ctrl-C: a run must not outlive the sweep that is told to end."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    if {"--help", "-h"} & set(sys.argv[1:]):
        print_help("sweep")
        sys.exit()
    quiet()
    signal.signal(signal.SIGTERM, interrupt)
    sys.exit(guarded(run, AGAIN))
