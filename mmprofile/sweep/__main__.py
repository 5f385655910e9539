"""``python -m mmprofile.sweep table=2 seeds=3 data=demo model.size=tiny``"""

import sys

from mmprofile.config.command import guarded, keep_private, quiet, show_help

AGAIN = "interrupted; the same command goes on with what is not done yet"


def run() -> int:
    """Make whole tables; the exit status is 1 if a row has failed. The imports take a second."""
    from mmprofile.config.targets import trust
    from mmprofile.sweep.run import main

    return main(trust(sys.argv[1:]))


if __name__ == "__main__":
    if show_help("sweep", run):
        sys.exit()
    quiet()
    guarded(keep_private)
    sys.exit(guarded(run, AGAIN))
