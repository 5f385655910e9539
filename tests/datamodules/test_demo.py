"""The demo city: same seed same bytes, Yelp's format and quirks, evidence as the table says, texts and photos."""

import ast
import hashlib
import io
import json
import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.demo import EVIDENCE, write_city
from datamodules.demo.captions import PHRASES, write_caption
from datamodules.demo.city import business_lines, user_lines
from datamodules.demo.cuewords import CUES, DISTRACTORS
from datamodules.demo.drawing import SIZES, draw_photo
from datamodules.demo.language import WORDS, cue_sentence, fill, sentiment, write_review
from datamodules.demo.people import TEXT_ONLY, UNKNOWN_RATE, make_person
from datamodules.demo.smalltalk import CLOSERS, NEUTRAL, OPENERS, SLOTS
from datamodules.demo.town import CATEGORIES, MEALS, Town, business_count, make_business
from mmprofile.errors import UserError

USERS = 60
BUSINESS, REVIEW, USER = (f"yelp_academic_dataset_{name}.json" for name in ("business", "review", "user"))
OWN = {"dish": ("soup",), "side": ("curry",), "friend": ("cousin",)}
VALUES = {"Favorite Category": CATEGORIES, **{name: tuple(values) for name, values in CUES.items()}}


@pytest.fixture(scope="session")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("city")
    write_city(folder, users=USERS, seed=1, progress=False)
    return folder


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_whatever_the_workers(city: Path, tmp_path: Path) -> None:
    for name, workers in (("a", 1), ("b", 2)):
        write_city(tmp_path / name, users=4, seed=5, progress=False, workers=workers)
    first, second, other = digest(tmp_path / "a"), digest(tmp_path / "b"), digest(city)
    assert first == second
    assert not set(first.values()) & set(other.values())


def test_entities_depend_on_seed_and_index_alone() -> None:
    assert make_business(3, 7) == make_business(3, 7) != make_business(4, 7)
    assert [business_count(users) for users in (1, 100, 1500)] == [60, 60, 900]
    assert business_count(10**6) < 0.35 * 10**6


def test_progress_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_city(tmp_path, users=1, progress=True, workers=1)
    output = capsys.readouterr()
    assert "demo city" in output.err
    assert output.out == ""


BAD = [
    {"users": 0},
    {"workers": 0},
    {"words": (30, 20)},
    {"words": (0, 20)},
    {"photographed": 1.1},
    {"indirect": -0.1},
]


@pytest.mark.parametrize("arguments", BAD)
def test_bad_numbers_are_one_line_errors(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"at least 1|must be \(least, most\) .* a share|indirect=.* is not a share"):
        write_city(tmp_path, progress=False, **arguments)


def test_longer_reviews_and_fewer_photographed_businesses(city: Path, tmp_path: Path) -> None:
    """For benchmarks: the users, their visits and the businesses are those of the usual city of the seed."""
    write_city(tmp_path, users=USERS, seed=1, progress=False, workers=1, words=(80, 120), photographed=0.25)
    usual, other = read(city, REVIEW), read(tmp_path, REVIEW)
    assert [(row["review_id"], row["user_id"], row["business_id"], row["stars"]) for row in usual] == [
        (row["review_id"], row["user_id"], row["business_id"], row["stars"]) for row in other
    ]
    lengths = [sorted(len(row["text"].split()) for row in rows)[len(rows) // 2] for rows in (usual, other)]
    assert lengths[0] < 35
    assert 80 <= lengths[1] <= 130
    assert (city / BUSINESS).read_bytes() == (tmp_path / BUSINESS).read_bytes()
    photographed = [{row["business_id"] for row in read(folder, "photos.json")} for folder in (city, tmp_path)]
    assert photographed[1] < photographed[0]
    assert len(photographed[1]) < 0.5 * len(photographed[0])
    assert {path.stem for path in (tmp_path / "photos").iterdir()} < {path.stem for path in (city / "photos").iterdir()}


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        write_city(tmp_path / "taken", progress=False)


def test_rows_have_yelps_fields(city: Path) -> None:
    assert set(read(city, BUSINESS)[0]) == {
        *("business_id", "name", "address", "city", "state", "postal_code", "latitude", "longitude"),
        *("stars", "review_count", "is_open", "attributes", "categories", "hours"),
    }
    reviews = read(city, REVIEW)
    assert list(reviews[0]) == [
        "review_id",
        "user_id",
        "business_id",
        "stars",
        "useful",
        "funny",
        "cool",
        "text",
        "date",
    ]
    assert all(isinstance(row["stars"], float) and row["stars"] in (1, 2, 3, 4, 5) for row in reviews)
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", row["date"]) for row in reviews)
    assert all(set(row) == {"photo_id", "business_id", "caption", "label"} for row in read(city, "photos.json"))
    assert {row["label"] for row in read(city, "photos.json")} == {"food", "inside", "outside", "drink", "menu"}
    ids = [
        row[f"{kind}_id"]
        for kind, name in (("business", BUSINESS), ("review", REVIEW), ("user", USER))
        for row in read(city, name)
    ]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[\w-]{22}", entry) for entry in ids)


def test_every_regular_user_keeps_30_ordinary_reviews(city: Path) -> None:
    ordinary = Counter(row["user_id"] for row in read(city, REVIEW) if 10 <= len(row["text"].split()) <= 300)
    assert sum(count >= 30 for count in ordinary.values()) == USERS
    assert len(ordinary) == USERS + 5  # 8 % occasional ones on top


def test_attribute_quirks(city: Path) -> None:
    rows = read(city, BUSINESS)
    assert any(row["attributes"] is None for row in rows)
    assert any(row["categories"] is None for row in rows)
    known = [row["attributes"] for row in rows if row["attributes"]]
    literals = [value for attributes in known for value in attributes.values()]
    assert all(isinstance(value, str) for value in literals)
    parsed = [ast.literal_eval(value) for value in literals]
    assert None in parsed
    assert any(value.startswith("u'") for value in literals)
    assert any(value.startswith("'") for value in literals)
    meals = [ast.literal_eval(row["GoodForMeal"]) for row in known if row.get("GoodForMeal", "None") != "None"]
    assert {flag for row in meals for flag in row.values()} == {True, False, None}
    assert any("{u'" in row.get("GoodForMeal", "") for row in known)
    rare = [index for index, row in enumerate(rows) if "RestaurantsCounterService" in (row["attributes"] or {})]
    assert rare == [len(rows) - 2]
    for key in ("GoodForMeal", "RestaurantsPriceRange2", "HappyHour", "Caters"):
        share = sum(row.get(key, "None") != "None" for row in known) / len(rows)
        assert 0.8 < share < 1.0


def test_photo_quirks(city: Path) -> None:
    ids = [row["photo_id"] for row in read(city, "photos.json")]
    assert sum(count == 2 for count in Counter(ids).values()) == 2
    assert len(set(ids)) == len(ids) - 2
    files = {path.stem for path in (city / "photos").iterdir()}
    assert len(set(ids) - files) == 2
    assert files <= set(ids)
    broken = [photo_id for photo_id in files if not decodes(city / "photos" / f"{photo_id}.jpg")]
    assert len(broken) == 1
    assert any(photo_id.startswith("-") for photo_id in ids)
    counts = Counter(row["business_id"] for row in read(city, "photos.json"))
    assert max(counts.values()) <= 6
    assert len(counts) < business_count(USERS)  # some have none


def decodes(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
            return image.size in SIZES and image.mode == "RGB"
    except OSError:
        return False


def test_review_quirks(city: Path) -> None:
    rows = read(city, REVIEW)
    texts = [row["text"] for row in rows]
    assert any("\n" in text for text in texts)
    assert any(ord(character) > 0x1F000 for text in texts for character in text)
    words = [len(text.split()) for text in texts]
    assert any(count < 10 for count in words)
    assert any(count > 300 for count in words)
    assert WORDS[0] <= sorted(words)[len(words) // 2] <= WORDS[1]
    assert max(Counter((row["user_id"], row["business_id"]) for row in rows).values()) > 1
    strangers = {row["user_id"] for row in rows} - {row["user_id"] for row in read(city, USER)}
    assert len(strangers) == 2
    for key in ("review_id", "user_id", "business_id"):
        assert any(row[key].startswith("-") for row in rows)


def test_evidence_is_true_and_as_frequent_as_the_table_says(city: Path) -> None:
    business = {row["business_id"]: row for row in read(city, BUSINESS)}
    source = {row["review_id"]: row for row in read(city, REVIEW)} | {
        row["photo_id"]: row for row in read(city, "photos.json")
    }
    shown: dict[str, Counter[str]] = defaultdict(Counter)
    for row in read(city, "cues.jsonl"):
        shown[row["kind"]].update(row["cues"].keys())
        shown[row["kind"]]["all"] += 1
        if "Stars" in row["cues"]:
            assert float(row["cues"]["Stars"]) == source[row["id"]]["stars"]
        check_business_cues(row["cues"], business[source[row["id"]]["business_id"]])
    for name, rates in EVIDENCE.items():
        for kind, rate, tolerance in zip(("review", "photo"), rates, (0.05, 0.13), strict=True):
            assert shown[kind][name] / shown[kind]["all"] == pytest.approx(rate, abs=tolerance)
    assert shown["review"]["all"] == len(read(city, REVIEW))


def check_business_cues(cues: dict[str, str], business: dict[str, Any]) -> None:
    if "Favorite Category" in cues and business["categories"]:
        assert cues["Favorite Category"] in business["categories"].split(", ")
    known = {key: ast.literal_eval(value) for key, value in (business["attributes"] or {}).items() if value != "None"}
    if "Preferred Meal" in cues and "GoodForMeal" in known:
        assert known["GoodForMeal"][cues["Preferred Meal"].lower()] is True
    if "Budget Range" in cues and "RestaurantsPriceRange2" in known:
        assert cues["Budget Range"] == ("High" if known["RestaurantsPriceRange2"] >= 3 else "Low")
    for name, key in (("Discount Preference", "HappyHour"), ("Service Preference", "Caters")):
        if name in cues and key in known:
            assert cues[name] == str(known[key])


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_evidence_table_is_obeyed_at_its_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rate: float) -> None:
    for name in EVIDENCE:
        monkeypatch.setitem(EVIDENCE, name, (rate, rate))
    (tmp_path / "photos").mkdir()
    photos = [json.loads(line)["cues"] for line in business_lines(str(tmp_path), 4, 0, 0, 6)["cue"]]
    lines = user_lines(str(tmp_path), 4, 0, 0, 2)
    texts = {row["review_id"]: row["text"] for row in map(json.loads, lines["review"])}
    reviews = [row["cues"] for row in map(json.loads, lines["cue"]) if len(texts[row["id"]].split()) >= 10]
    assert all(set(cues) == (set(EVIDENCE) if rate else set()) for cues in reviews)
    assert all(set(cues) == (set(EVIDENCE) - {"Stars"} if rate else set()) for cues in photos)


def test_captions_cover_the_usable_photos(city: Path) -> None:
    header, *rows = read(city, "captions.jsonl")
    assert header["synthetic"] is True
    assert header["backend"] == "demo-city"
    usable = {path.stem for path in (city / "photos").iterdir() if decodes(path)}
    assert {row["photo_id"] for row in rows} == usable
    assert len(rows) == len(usable)
    assert all(3 <= len(row["caption"].split()) <= 45 for row in rows)


def test_captions_miss_and_misread_at_the_set_rates() -> None:
    rng = random.Random(0)
    captions = [write_caption({"Discount Preference": "menu"}, rng) for _ in range(4000)]
    right, other = (
        sum(any(phrase in text for phrase in pool) for text in captions) / 4000
        for pool in (
            PHRASES["Discount Preference"]["menu"],
            PHRASES["Discount Preference"]["happy hour"] + PHRASES["Discount Preference"]["two for one"],
        )
    )
    assert right == pytest.approx(0.75 * 0.94, abs=0.03)
    assert other == pytest.approx(0.75 * 0.06, abs=0.02)
    assert min(len(phrases) for table in PHRASES.values() for phrases in table.values()) >= 4


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in VALUES.items() for value in values])
def test_every_cue_can_be_said_in_many_ways_and_drawn(name: str, value: str) -> None:
    rng = random.Random(0)
    said = {cue_sentence(name, value, rng, OWN) for _ in range(400)}
    assert len(said) >= 25
    assert not any("{" in sentence for sentence in said)
    jpeg, shown = draw_photo({name: value}, rng)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.size in SIZES
    assert set(shown) == {name}
    assert shown[name] in PHRASES[name]


def test_sentiment_has_many_wordings_that_neighbours_share_rarely() -> None:
    rng = random.Random(0)
    said = {level: Counter(text for _ in range(600) for text in sentiment(level, rng, OWN)) for level in "12345"}
    assert min(len(wordings) for wordings in said.values()) >= 60
    assert not set(said["1"]) & set(said["3"])
    shared = sum(count for text, count in said["4"].items() if text in said["5"]) / said["4"].total()
    assert 0.03 < shared < 0.15


def test_neutral_sentences_give_no_cue_away() -> None:
    rng = random.Random(0)
    templates = [*OPENERS, *CLOSERS, *(sentence for _, sentences in NEUTRAL.values() for sentence in sentences)]
    text = " ".join(
        fill(template, rng, {**OWN, "dish": (dish,)}) for template in templates for dish in SLOTS["dish"]
    ).lower()
    for word in (
        "breakfast",
        "brunch",
        "lunch",
        "dinner",
        "pizza",
        "coffee",
        "cheap",
        "expensive",
        "happy hour",
        "cater",
        "discount",
    ):
        assert word not in text
    assert all("{" not in fill(template, rng, OWN) for template in DISTRACTORS)
    assert len(templates) + sum(len(sentences) for values in CUES.values() for sentences in values.values()) > 350


@pytest.mark.parametrize(
    ("length", "low", "high"), [("short", 1, 9), ("usual", WORDS[0], WORDS[1] + 80), ("long", 301, 450)]
)
def test_review_lengths(length: str, low: int, high: int) -> None:
    rng = random.Random(0)
    cues = {"Stars": "2", "Favorite Category": "Pizza", "Budget Range": "Low"}
    counts = [len(write_review(cues, ["My old knees were glad of the ramp."], rng, length).split()) for _ in range(200)]
    assert low <= min(counts)
    assert max(counts) <= high


def test_text_only_gold_is_consistent_and_leaks(city: Path) -> None:
    people = read(city, "gold_text_only.jsonl")
    assert {row["user_id"] for row in people} == {row["user_id"] for row in read(city, REVIEW)}
    assert all(list(row) == ["user_id", *TEXT_ONLY] for row in people)
    crowd = [make_person(0, index) for index in range(600)]
    for person in crowd:
        assert (person["Industry"] == "Unknown") == (person["Occupation"] == "Unknown")
        if person["Occupation"] == "Retired":
            assert person["Age"] in ("65+", "Unknown")
        if person["Occupation"] == "Lawyer":
            assert person["Education Level"] in ("Postgraduate", "Unknown")
    for name in ("Gender", "Age", "Education Level", "Life Stage"):
        assert sum(person[name] == "Unknown" for person in crowd) / 600 == pytest.approx(UNKNOWN_RATE, abs=0.05)


def test_users_visit_by_taste() -> None:
    town = Town(seed=0, users=400)
    matches: dict[str, list[bool]] = defaultdict(list)
    for index in range(60):
        user = town.user(index)
        for place in town.visits(user):
            business = make_business(0, place)
            matches["category"].append(bool(set(user.favourites) & set(business.categories)))
            matches["meal"].append(user.meal == business.meals[0])
            matches["budget"].append(user.dear == (business.price >= 3))
            matches["happy hour"].append(user.happy_hour == business.happy_hour)
            matches["catering"].append(user.caters == business.caters)
    assert all(0.78 < sum(hits) / len(hits) < 0.95 for hits in matches.values())
    assert set(MEALS) == {town.user(index).meal for index in range(60)}
