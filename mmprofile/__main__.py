"""The command ``mmprofile``: ``mmprofile train`` is ``python -m mmprofile.train``; without a word it lists the commands."""

import runpy
import sys

from mmprofile.errors import nearest

COMMANDS = {
    "prepare": "raw reviews and photos -> a prepared data set",
    "caption": "captions of a prepared data set's photos",
    "train": "train, score and report a model",
    "doctor": "what a training needs, and whether it could start here",
    "evaluate": "score a run again, on any split",
    "predict": "profiles of anybody, from reviews and photos",
    "inspection": "gates, attention and counterfactuals of a run",
    "report": "report.html and report.md of a run, rendered again",
    "sweep": "a whole table or figure of the paper, or a search",
    "apply": "sentiment of reviews with and without the writer's profile",
    "forget": "a person removed from all data; which models to retrain",
    "llm.run": "the text-only stage: all of the next six, then a table",
    "llm.teacher": "a language model or lexicon answers about people",
    "llm.vote": "answers -> labels with calibrated confidence",
    "llm.evaluate": "labels against gold values",
    "llm.attach": "labels -> the prepared data set, for training",
    "llm.distill": "labels -> a student that writes them",
    "llm.reinforce": "the student refined by reinforcement learning",
    "llm.export": "a student's adapter and its base -> whole weights",
}
SHELLS = ("bash", "zsh", "fish")


def main() -> None:
    """Run the command that the first word names, or list the commands. The exit status is 2 where there is no such command."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: mmprofile COMMAND [key=value ...]    (--help shows a command's keys)\n")
        width = max(map(len, COMMANDS))
        for name, purpose in COMMANDS.items():
            print(f"  {name:<{width}}  {purpose}")
        print(f"\nmmprofile completion {'|'.join(SHELLS)} prints the script that your shell completes all this with")
    elif words[0] == "completion":
        _print_completion(words[1:])
    elif words[0] not in COMMANDS:
        print(
            f"error: {words[0]!r} is no command{nearest(words[0], COMMANDS)}; mmprofile alone lists them",
            file=sys.stderr,
        )
        sys.exit(2)
    else:
        sys.argv = [words[0], *words[1:]]
        runpy.run_module(f"mmprofile.{words[0]}", run_name="__main__", alter_sys=True)


def _print_completion(words: list[str]) -> None:
    """Print the completion script of a shell; the exit status is 2 where there is none."""
    if len(words) != 1 or words[0] not in SHELLS:
        print(f"error: mmprofile completion {' '.join(words)}: give {', '.join(SHELLS)}", file=sys.stderr)
        sys.exit(2)
    from mmprofile.config.completion import completion_script

    print(completion_script(words[0], COMMANDS), end="")


if __name__ == "__main__":
    main()
