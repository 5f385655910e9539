"""``python -m mmprofile.sweep table=2 seeds=3 data=demo model.size=tiny``"""

import signal
import sys
from types import FrameType

from mmprofile.config.command import guarded, quiet, show_help

AGAIN = "interrupted; the same command goes on with what is not done yet"


def run() -> int:
    """Make whole tables; the exit status is 1 if a row has failed. The imports take a second."""
    from mmprofile.sweep.run import main

    return main(sys.argv[1:])


def interrupt(number: int, frame: FrameType | None) -> None:
    """Answer SIGTERM as Ctrl-C: a run must not outlive the sweep that is told to end."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    if show_help("sweep", run):
        sys.exit()
    quiet()
    signal.signal(signal.SIGTERM, interrupt)
    sys.exit(guarded(run, AGAIN))
