"""List the commands, one line each: ``python -m mmprofile``."""

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
    "llm.run": "the text-only stage: all of the next six, then a table",
    "llm.teacher": "a language model or lexicon answers about people",
    "llm.vote": "answers -> labels with calibrated confidence",
    "llm.evaluate": "labels against gold values",
    "llm.attach": "labels -> the prepared data set, for training",
    "llm.distill": "labels -> a student that writes them",
    "llm.reinforce": "the student refined by reinforcement learning",
}

if __name__ == "__main__":
    width = max(map(len, COMMANDS))
    print("usage: python -m mmprofile.COMMAND [key=value ...]    (--help shows a command's keys)\n")
    for name, purpose in COMMANDS.items():
        print(f"  mmprofile.{name:<{width}}  {purpose}")
