"""People of our own in other languages: the tiny model against TF-IDF with logistic regression.

``python benchmarks/languages.py german chinese [--seeds 3] [--epochs 50]`` invents 300 customers of shops for each language,
writes them as files of one's own, trains ``paradigm=multi`` and ``paradigm=text`` through the command, and prints the scores of
the test customers. What a customer is like shows in some reviews and in some photos; some reviews speak of what others do.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.demo.drawing import draw_photo

REVIEWS, SAID, SHOWN, OTHERS = (5, 9), 0.35, 0.5, 0.25
"""Reviews of a customer; the chance that one says something of an attribute, that a photo shows it, that it is of others."""


class Value(NamedTuple):
    """A value of an attribute.

    Attributes:
        name: as the schema has it.
        said: sentences about oneself.
        others: sentences about others, which say nothing of the customer.
        cues: what a photo of it shows, as the demo city draws it.
    """

    name: str
    said: tuple[str, ...]
    others: tuple[str, ...]
    cues: Mapping[str, str] = {}


class Language(NamedTuple):
    """Shops, small talk and the attributes of their customers."""

    shops: tuple[str, ...]
    talk: tuple[str, ...]
    between: str
    attributes: Mapping[str, tuple[Value, ...]]


LOW, HIGH = {"Budget Range": "Low"}, {"Budget Range": "High"}
MORNING, EVENING = {"Preferred Meal": "Breakfast"}, {"Preferred Meal": "Dinner"}
SERVED, TAKEN = {"Service Preference": "False"}, {"Service Preference": "True"}

GERMAN = Language(
    shops=("Bäckerei Öztürk", "Café Lindner", "Weinstube Krüger", "Feinkost Weiß", "Konditorei Jäger"),
    talk=(
        "Ich komme seit Jahren hierher.", "Die Beratung war nett und geduldig.", "Leider war die Kasse langsam.",
        "Gerne wieder!", "Kleiner Laden mit großer Auswahl.", "Die Einrichtung ist etwas in die Jahre gekommen.",
        "Meine Tochter fand es auch schön.", "Im Sommer ist es hier angenehm kühl.", "Der Chef grüßt jeden mit Namen.",
    ),
    between=" ",
    attributes={
        "Anreise": (
            Value("Auto", ("Parken war direkt vor der Tür möglich.", "Großer Parkplatz, sehr praktisch.",
                           "Von der Autobahn sind wir in fünf Minuten da."),
                  ("Mein Bruder sucht hier immer lange einen Parkplatz.", "Viele kommen mit dem Auto.")),
            Value("Fahrrad", ("Ich habe mein Rad vor dem Laden angeschlossen.", "Mit dem Fahrrad ist man schnell da.",
                              "Der Radweg führt direkt vorbei."),
                  ("Meine Kollegin fährt mit dem Rad hierher.", "Vor dem Laden stehen viele Fahrräder.")),
            Value("Bahn", ("Von der Haltestelle sind es nur zwei Minuten.", "Die Straßenbahn hält direkt gegenüber.",
                           "Nach der S-Bahn gehe ich immer vorbei."),
                  ("Wer mit der Bahn kommt, muss etwas laufen.", "Die Haltestelle wird gerade umgebaut.")),
        ),
        "Budget": (
            Value("niedrig", ("Ein echtes Schnäppchen.", "Die Preise sind wirklich günstig.", "Hier zahlt man wenig."),
                  ("Anderen ist es hier zu billig.",), LOW),
            Value("hoch", ("Das hat seinen Preis, dafür ist alles erstklassig.", "Für Qualität gebe ich gern mehr aus.",
                           "Teuer, aber jeden Cent wert."),
                  ("Meiner Mutter ist es hier zu teuer.",), HIGH),
        ),
        "Tageszeit": (
            Value("morgens", ("Frühmorgens ist es am schönsten.", "Vor der Arbeit kurz vorbeigeschaut.",
                              "Um acht war noch nichts los."),
                  ("Morgens stehen hier die Schulkinder an.",), MORNING),
            Value("abends", ("Nach Feierabend noch schnell eingekehrt.", "Am späten Abend freundlich bedient worden.",
                             "Kurz vor Ladenschluss war es leer."),
                  ("Abends treffen sich hier die Nachbarn.",), EVENING),
        ),
        "Verzehr": (
            Value("vor Ort", ("Wir haben am Fenster gesessen.", "Die Bedienung kam sofort an den Tisch.",
                              "Man sitzt sehr gemütlich."),
                  ("Die Tische sind meist besetzt.",), SERVED),
            Value("zum Mitnehmen", ("Alles gut verpackt für den Heimweg.", "Ich nehme immer etwas mit nach Hause.",
                                    "Schnell eingepackt, schon war ich wieder draußen."),
                  ("Viele lassen sich hier etwas einpacken.",), TAKEN),
        ),
    },
)  # fmt: skip

CHINESE = Language(
    shops=("王记面馆", "春天咖啡", "老街茶楼", "幸福甜品", "小城书吧"),
    talk=(
        "我来这里好几年了。", "服务员很耐心。", "可惜结账有点慢。", "下次还会再来!", "店不大,选择很多。", "装修有点旧了。",
        "我女儿也很喜欢。", "夏天店里很凉快。", "老板跟每个人打招呼。",
    ),
    between="",
    attributes={
        "出行": (
            Value("开车", ("门口就能停车。", "停车场很大,很方便。", "下了高速五分钟就到。"),
                  ("我哥哥每次都找不到车位。", "很多人开车来。")),
            Value("骑车", ("我把自行车锁在店门口。", "骑车一会儿就到了。", "自行车道正好经过这里。"),
                  ("我同事骑车来这里。", "门口停着很多自行车。")),
            Value("地铁", ("出了地铁站走两分钟。", "地铁口就在对面。", "下了地铁我总会进来坐坐。"),
                  ("坐地铁来的人要走一段路。", "地铁站正在维修。")),
        ),
        "预算": (
            Value("低", ("真的很划算。", "价格特别便宜。", "花不了多少钱。"), ("有人嫌这里太便宜。",), LOW),
            Value("高", ("价格不低,但样样都是一流。", "为了品质我愿意多花钱。", "贵是贵,每分钱都值。"),
                  ("我妈妈嫌这里太贵。",), HIGH),
        ),
        "时间": (
            Value("早上", ("清晨的时候最舒服。", "上班前顺路进来。", "八点钟还没什么人。"), ("早上常有学生排队。",), MORNING),
            Value("晚上", ("下班以后来坐一会儿。", "很晚了还热情招待。", "快打烊的时候很安静。"),
                  ("晚上邻居们在这里聚会。",), EVENING),
        ),
        "方式": (
            Value("堂食", ("我们坐在窗边。", "服务员马上到桌边来。", "坐着很舒服。"), ("桌子常常坐满。",), SERVED),
            Value("外带", ("打包得很好,方便带回家。", "我总是带一份回家。", "装好袋子马上就走。"), ("很多人在这里打包。",), TAKEN),
        ),
    },
)  # fmt: skip
LANGUAGES = {"german": GERMAN, "chinese": CHINESE}


def write_people(folder: Path, language: Language, users: int, seed: int) -> None:
    """Write ``reviews.jsonl``, ``labels.jsonl``, ``shops.yaml`` and ``photos/`` of invented customers."""
    rng = random.Random(seed)
    reviews: list[dict[str, Any]] = []
    labels: list[dict[str, str]] = []
    (folder / "photos").mkdir(parents=True)
    for number in range(users):
        person = {name: rng.choice(values) for name, values in language.attributes.items()}
        labels.append({"user_id": f"u{number}", **{name: value.name for name, value in person.items()}})
        for place in range(rng.randint(*REVIEWS)):
            photo = f"photos/{number}-{place}.jpg"
            shown: dict[str, str] = {}
            for value in person.values():
                shown |= value.cues if rng.random() < SHOWN else {}
            (folder / photo).write_bytes(draw_photo(shown, rng)[0])
            reviews.append({"user_id": f"u{number}", "text": write_review(language, person, rng), "photos": [photo]})
    for name, rows in (("reviews", reviews), ("labels", labels)):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    attributes = [
        {"name": name, "values": [value.name for value in values]} for name, values in language.attributes.items()
    ]
    (folder / "shops.yaml").write_text(
        json.dumps({"name": "shops", "attributes": attributes}, ensure_ascii=False), encoding="utf-8"
    )


def write_review(language: Language, person: Mapping[str, Value], rng: random.Random) -> str:
    """Return a review: a shop, some small talk, some of what the customer is like, some of what others are like."""
    sentences = [rng.choice(language.talk)]
    for name, values in language.attributes.items():
        sentences += [rng.choice(person[name].said)] if rng.random() < SAID else []
        sentences += [rng.choice(rng.choice(values).others)] if rng.random() < OTHERS else []
    rng.shuffle(sentences)
    return language.between.join([f"{rng.choice(language.shops)}:", *sentences])


def train(folder: Path, paradigm: str, seed: int, epochs: int, words: list[str]) -> dict[str, Any]:
    """Train in a folder with :func:`write_people`'s files, and return the scores in ``metrics.json``."""
    name = f"{paradigm}{epochs}-{seed}"
    command = [
        sys.executable, "-m", "mmprofile.train", "data=custom", "data.prepare.source.reviews=reviews.jsonl",
        "data.prepare.source.labels=labels.jsonl", "profile=shops.yaml", f"paradigm={paradigm}", f"seed={seed}",
        f"name={name}", f"trainer.max_epochs={epochs}", f"trainer.patience={epochs}", "trainer.progress=false", *words,
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads((folder / "outputs" / name / "metrics.json").read_text(encoding="utf-8")))


def main() -> None:
    """Print a row of scores for each language, and of the command's further words."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("languages", nargs="+", choices=LANGUAGES)
    arguments.add_argument("--users", type=int, default=300)
    arguments.add_argument("--seeds", type=int, default=3, help="of the training; the customers stay the same")
    arguments.add_argument("--epochs", type=int, default=50)
    arguments.add_argument("--folder", type=Path, default=Path("languages"), help="where the files go; must be new")
    arguments.add_argument("--words", nargs="*", default=[], help="more words of mmprofile.train")
    chosen = arguments.parse_args()
    print("| language | TF-IDF + LR | text | multi |\n| --- | ---: | ---: | ---: |", flush=True)
    for language in chosen.languages:
        folder = chosen.folder / language
        write_people(folder, LANGUAGES[language], chosen.users, seed=0)
        cells = []
        for paradigm in ("text", "multi"):
            metrics = [train(folder, paradigm, seed, chosen.epochs, chosen.words) for seed in range(chosen.seeds)]
            scores = [row["test"]["macro_f1"] for row in metrics]
            cells.append(f"{statistics.mean(scores):.1f} ({', '.join(f'{score:.1f}' for score in scores)})")
        print(
            f"| {language} | {metrics[0]['baselines']['tfidf_lr']['macro_f1']:.1f} | {' | '.join(cells)} |", flush=True
        )


if __name__ == "__main__":
    main()
