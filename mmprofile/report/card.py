"""The model card: ``model/README.md`` of a finished training, in the format of the Hugging Face hub.

Every figure is one of ``metrics.json``.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmprofile.evaluate.score_table import THIS_RUN, SystemRow, format_percent, score_cells, system_rows
from mmprofile.evaluate.subgroups import LEAST
from mmprofile.files import write_text
from mmprofile.profile.schema import Schema

READS = {
    "text": ("reviews", ""),
    "multi": ("reviews and photos", ', photos=["photo.jpg"]'),
    "uni": ("reviews and the captions of photos", ', photos=["photo.jpg"], captions=["a photo of ..."]'),
    "both": ("reviews, photos and their captions", ', photos=["photo.jpg"], captions=["a photo of ..."]'),
}
"""The modality of a model -> what it reads of a person, and the arguments of ``Profiler.predict`` besides reviews."""
SHOWN = ("majority", "tfidf_lr", THIS_RUN)
FEW = 100
"""With fewer test users than these, the card says that the scores are not precise."""


def write_card(run: Path, metrics: Mapping[str, Any]) -> None:
    """Write the card of a run's model.

    Args:
        run: its folder, with ``model/`` and ``environment.json``.
        metrics: what ``metrics.json`` will hold.
    """
    model, versions = (
        json.loads((run / name).read_text(encoding="utf-8")) for name in ("model/config.json", "environment.json")
    )
    write_text(run / "model" / "README.md", model_card(Schema.from_dict(model["schema"]), model, metrics, versions))


def data_facts(folder: Path) -> dict[str, Any]:
    """Return what a card says of prepared data: the numbers of users, how attributes are labelled, language, licence, origin.

    Args:
        folder: of the prepared data, with ``manifest.json`` and the data set's own card.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    own = yaml.safe_load(front)
    origin = re.search(r"## Origin and licence\n\n(.+?)\n", text)
    return {
        "users": manifest["splits"],
        "labelled": {name: manifest["labels"].get(name, []) for name in ("from_file", "derived")},
        "language": own.get("language", []),
        "licence": own.get("license_name", own["license"]),
        "origin": origin[1] if origin else "",
    }


def model_card(
    schema: Schema, settings: Mapping[str, Any], metrics: Mapping[str, Any], versions: Mapping[str, str]
) -> str:
    """Return the text of a card.

    Args:
        schema: of the profiles.
        settings: the model's.
        metrics: of its training; empty where it is not known.
        versions: of the libraries that it was trained with.
    """
    name = metrics.get("config", {}).get("name", schema.name)
    modality = settings["inputs"]["modality"]
    sections = {
        "What it predicts": _attributes(schema),
        "How to use it": _usage(modality),
        "What it is for": settings.get("purpose", ""),
        "Data": _data(metrics),
        "Scores": _scores(metrics),
        "Groups of people": _subgroups(metrics),
        "Confidence": _confidence(metrics),
        "Limits": "\n".join(f"- {line}" for line in _limits(settings["inputs"], metrics)),
        "Excluded uses": _excluded(schema, settings.get("purpose")),
        "Training": _training(metrics, versions),
    }
    front = yaml.safe_dump(_front(str(name), modality, metrics), sort_keys=False, allow_unicode=True, width=120)
    text = (
        f"---\n{front}---\n# {name}\n\nThis model was trained with mmprofile. It reads a person's "
        f"{READS[modality][0]}, and writes a profile: {', '.join(schema.names)}.\n"
    )
    return text + "".join(f"\n## {title}\n\n{body.rstrip()}\n" for title, body in sections.items() if body)


def _front(name: str, modality: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a card."""
    front: dict[str, Any] = {"library_name": "mmprofile"}
    data = metrics.get("data", {})
    if data.get("language"):
        front["language"] = data["language"]
    front["tags"] = ["user-profiling", *([] if modality == "text" else ["multimodal"])]
    scored = [(attribute, row.f1(attribute)) for row in _this_run(metrics) for attribute in (None, *_names(row))]
    values = [
        {"type": "f1", "name": f"macro-F1, {attribute or 'mean of the attributes'}", "value": round(score, 2)}
        for attribute, score in scored
        if score is not None
    ]
    if values:
        of = metrics["config"]["data"]
        front["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "text-generation", "name": "user profiling"},
                        "dataset": {"type": of, "name": f"{of} data of mmprofile", "split": "test"},
                        "metrics": values,
                    }
                ],
            }
        ]
    return front


def _this_run(metrics: Mapping[str, Any]) -> list[SystemRow]:
    return [row for row in system_rows(metrics) if row.key == THIS_RUN] if "test" in metrics else []


def _names(row: SystemRow) -> list[str]:
    return list(row.scores["per_attribute"])


def _attributes(schema: Schema) -> str:
    rows = [(name, _kind(schema, name), ", ".join(schema[name].values)) for name in schema.names]
    return _table(("attribute", "value", "of"), rows)


def _kind(schema: Schema, name: str) -> str:
    """Return what values an attribute has."""
    attribute = schema[name]
    least = attribute.size if attribute.min_size is None else attribute.min_size
    size = str(attribute.size) if least == attribute.size else f"{least} to {attribute.size}"
    words = {
        "single": "one",
        "ordinal": "one, the least first",
        "number": f"the range that a number is in{attribute.unit and f' ({attribute.unit})'}",
        "set": f"{size} together",
        "ordered": f"{size} in order",
    }
    notes = [words[attribute.kind]]
    notes += ["or Unknown"] if attribute.unknown else []
    notes += ["from text alone"] if attribute.text_only else []
    return ", ".join([*notes, *(["**sensitive**"] if attribute.sensitive else [])])


def _usage(modality: str) -> str:
    return (
        "```python\nfrom mmprofile import Profiler\n\n"
        'profiler = Profiler.from_pretrained("path/to/this/folder")  # or the hub id\n'
        f'profile = profiler.predict(reviews=["..."]{READS[modality][1]})\nprint(profile)\n```'
    )


def _data(metrics: Mapping[str, Any]) -> str:
    data = metrics.get("data")
    if data is None:
        return ""
    sizes = ", ".join(f"{split} {count:,}" for split, count in data["users"].items())
    text = f"`data={metrics['config']['data']}`, {sum(data['users'].values()):,} people: {sizes}.\n"
    given, derived = data["labelled"]["from_file"], data["labelled"]["derived"]
    if given:
        text += f"\nLabels from the owner's file: {', '.join(given)}.\n"
    if derived:
        text += f"\nLabels by rules over what people did, which nobody has confirmed: {', '.join(derived)}.\n"
    text += f"\nLicence of the data: {data['licence']}. {data['origin']}\n"
    return text + "The model has no licence yet: whoever publishes it chooses one that the terms of the data allow."


def _scores(metrics: Mapping[str, Any]) -> str:
    if "test" not in metrics:
        return "Not known."
    systems = [row for row in system_rows(metrics) if row.key in SHOWN]
    head = ["attribute"]
    for row in systems:
        head += ["**this model**", "95 % interval"] if row.key == THIS_RUN else [row.label]
    text = f"Macro-F1, 0 to 100, of {metrics['test']['n_users']:,} test users who were not trained on. "
    text += "The intervals are bootstraps over users.\n\n"
    text += _table(head, score_cells(systems, _names(_this_run(metrics)[0])))
    mean = {row.key: row.f1() for row in systems}
    better = [row.label for row in systems if row.key != THIS_RUN and (row.f1() or 0) > (mean[THIS_RUN] or 0)]
    return text + (f"\n**On these users {' and '.join(better)} is better than this model.**" if better else "")


def _subgroups(metrics: Mapping[str, Any]) -> str:
    """Return the errors of each group of people, by the values of sensitive attributes."""
    text = ""
    for name, groups in metrics.get("subgroups", {}).items():
        rows = [
            [value, str(one["users"]), other, f"{one['macro_f1']:.1f}", f"{one['error']:.1f}"]
            for value, group in groups.items()
            for other, one in group.get("attributes", {}).items()
            if one["users"] is not None
        ]
        if rows:
            text += f"By {name}, where {LEAST} or more test users have the value:\n\n"
            text += _table((name, "test users", "attribute", "macro-F1", "wrong, %"), rows) + "\n"
        small = [value for value, group in groups.items() if group["users"] is None]
        if small:
            text += f"{name} {', '.join(small)}: fewer than {LEAST} test users, not shown.\n\n"
    return text


def _confidence(metrics: Mapping[str, Any]) -> str:
    """Return how far probabilities can be trusted: the part ``confidence`` of the scores."""
    test = metrics.get("test", {})
    if not test.get("confidence"):
        return "Not measured: take the probabilities of this model for a ranking, not for shares of right answers."
    head = ["", "answers", "right", "mean confidence", "calibration error (ECE)", "before calibration"]
    keys = ("accuracy", "mean_confidence", "ece", "ece_uncalibrated")
    rows = [
        [name, f"{row['answers']:,}", *(format_percent(row.get(key)) for key in keys)]
        for name, row in test["confidence"].items()
    ]
    text = "On the test users; calibrated on the validation users.\n\n" + _table(head, rows)
    together = test["confidence"].get("all", {})
    if together.get("coverage") is not None:
        text += (
            f"\nWith `risk={test['risk']:g}` the sets of values held the true one in {format_percent(together['coverage'])} "
            f"of the answers, with {together['set_size']:.1f} values on average."
        )
    return text


def _limits(inputs: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield sentences on what the model cannot do, and on what is not known of it."""
    yield "A profile is a guess about a person. The scores are means: for a single person it may be wrong in every attribute."
    yield "Other people, places, languages and years than those of the data were not measured."
    yield f"It reads at most {inputs['reviews']} reviews of a person, and what belongs to them; of more it draws some."
    if inputs.get("evidence"):
        yield f"Of the other reviews it reads the {inputs['evidence']} sentences that look most like evidence (`evidence.json`)."
    for row in _this_run(metrics):
        if row.scores["n_users"] < FEW:
            yield f"There are only {row.scores['n_users']} test users: look at the intervals."
        unseen = {
            name: [value for value, users in scores["support"].items() if not users]
            for name, scores in row.scores["per_attribute"].items()
        }
        if any(unseen.values()):
            listed = "; ".join(f"{name}: {', '.join(values)}" for name, values in unseen.items() if values)
            yield f"Values that no test user has, so that nothing is known of them: {listed}."
    if metrics.get("unknown_tokens"):
        yield f"{format_percent(metrics['unknown_tokens'])} of the tokens of the reviews are unknown to its tokenizer."


def _excluded(schema: Schema, purpose: str | None) -> str:
    sensitive = [attribute.name for attribute in schema.attributes if attribute.sensitive]
    lines = [
        "No decision about a person may rest on a profile alone: not on credit, work, housing, insurance, prices, access or "
        "suspicion.",
        "It is not for finding, identifying or watching people, nor for profiles of people who do not know of it.",
    ]
    if sensitive:
        lines.append(f"{', '.join(sensitive)}: sensitive, and not to be predicted for anything but: {purpose}.")
    else:
        lines.append(
            "It is not for sensitive traits (health, belief, origin, sexuality, politics), neither directly nor by proxy."
        )
    return "\n".join(f"- {line}" for line in lines)


def _training(metrics: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    config = metrics.get("config", {})
    lines = []
    if "settings" in config:
        words = " ".join(config["settings"])
        lines.append(f"`python -m mmprofile.train` with the data above and `{words}`")
    lines += [", ".join(config[key]) for key in ("reads", "training") if config.get(key)]
    if metrics.get("n_parameters"):
        seconds = metrics["seconds"]["train"]
        lines.append(f"{metrics['n_parameters'] / 1e6:.1f} M parameters, {seconds:,.0f} s of training")
    if versions:
        lines.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of Markdown."""
    head = [*head]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
