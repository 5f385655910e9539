"""Benchmarks of profiles in the layouts in which they are published; the rows are invented."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SEED = {
    "username": "QuietHarbour",
    "age": 46,
    "sex": "female",
    "city_country": "Ghent, Belgium",
    "birth_city_country": "Ghent, Belgium",
    "education": "Masters in Marine Biology",
    "occupation": "aquarium keeper",
    "income": "48 thousand euros",
    "income_level": "middle",
    "relationship_status": "divorced",
    "style": "short and dry",
}
"""A profile of SynthPAI, from which its author's comments were generated."""
FEATURES = (
    "age", "sex", "relationship_status", "education", "occupation", "city_country", "birth_city_country", "income_level",
)  # fmt: skip


def label(estimate: Any = "", hardness: Any = 0, certainty: Any = 0) -> dict[str, Any]:
    """A human's label of SynthPAI; by default nobody could tell."""
    return {"estimate": estimate, "hardness": hardness, "certainty": certainty}


def labels(given: Mapping[str, Any]) -> dict[str, Any]:
    """A human's labels of all features."""
    return {feature: given.get(feature, label()) for feature in FEATURES}


def synthpai_comment(author: str, text: Any, number: int = 0, seed: Any = None, **given: Any) -> dict[str, Any]:
    """A line of ``synthpai.jsonl``; ``given``: feature -> label."""
    return {
        "author": author, "username": "QuietHarbour", "profile": SEED if seed is None else seed, "text": text,
        "guesses": [{"feature": "sex", "hardness": "direct", "certainty": 5, "guesses": ["Male", "Male", "Male"]}],
        "reviews": {"human": labels(given) | {"timestamp": 1.5, "time": 0.5}}, "id": f"c{number}", "parent_id": None,
        "thread_id": "thread_age_1", "children": [],
    }  # fmt: skip


def synthpai_person(username: str, texts: Sequence[Any], human: Mapping[str, Any], **revised: Any) -> dict[str, Any]:
    """A line of ``comments_eval_revised.jsonl``; ``revised``: what the revision left."""
    evaluated = {feature: value | {"acc_gt": 1} for feature, value in labels(revised).items()}
    if "education_category" in revised:
        evaluated["education_category"] = revised["education_category"] | {"acc_gt": 1}
    return {
        "username": username, "comments": [{"text": text, "username": username, "pii": {}} for text in texts],
        "num_comments": len(texts), "reviews": {"human": labels(human) | {"timestamp": 0, "time": 0},
        "human_evaluated": evaluated}, "predictions": {}, "evaluations": {},
    }  # fmt: skip


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """Write a line a row, a text as it is."""
    path.write_bytes("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode())
    return path


def write_object(path: Path, content: Any) -> Path:
    """Write indented JSON with all characters as they are, as PRISM and PersonaMem-v2 have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(content, indent=4, ensure_ascii=False).encode())
    return path


PRISM_POSTS = {
    "posts": {"post1": "Third coat of varnish today 🎻", "post2": "The valley was grey, I was not."},
    "topics": {"Instruments": ["How to Tune a Lute"], "Hiking": ["Boots That Last", "Maps"]},
    "img_urls": ["./images/1.jpg", "./images/2.jpg"],
}
PRISM_TARGET = {
    "age": 29, "education": "associate degree", "sex": "female", "occupation": "data analyst", "income": "60000-90000",
    "relationship state": "widowed", "location": {"place of birth": "Peru", "travel history": ["Chile"]},
    "appearance": {"height": "170 cm", "weight": "60 kg", "hair color": "red", "eye color": "green"},
    "shopping habits": "asks for a receipt", "hobbies": ["lutes"], "health status": "good", "religious belief": "agnostic",
}  # fmt: skip


def prism(folder: Path, posts: Mapping[str, Any], targets: Mapping[str, Any]) -> Path:
    """A folder of PRISM."""
    write_object(folder / "posts.json", posts)
    write_object(folder / "target.json", targets)
    (folder / "images").mkdir(exist_ok=True)
    return folder


PERSONA = {
    "short_persona": "A keeper of a lighthouse museum",
    "name": "Inés Vidal",
    "age": 51,
    "gender": "Woman (she/her)",
    "race_ethnicity": "Catalan",
    "education": {"highest_degree": "Master’s Degree in Heritage Studies", "undergraduate_degree": "B.A. in History"},
    "occupation": {"job_title": "Museum keeper"},
    "demographics": {"marital_status": "Married", "children": 2},
}
CHAT = [
    {"role": "system", "content": f"You are helping a user with this persona: {json.dumps(PERSONA)}"},
    {"role": "user", "content": "Could you polish this note to the harbour office?"},
    {"role": "assistant", "content": "Gladly, Inés."},
    {"role": "user", "content": [{"type": "text", "text": "What is on this photo of mine?"},
     {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,photobook/1.jpg"}}]},
    {"role": "user", "content": "Please forget that I fear storms."},
]  # fmt: skip
COLUMNS = (
    "persona_id", "chat_history_32k_link", "chat_history_128k_link", "raw_persona_file", "short_persona",
    "expanded_persona", "user_query", "correct_answer", "incorrect_answers", "topic_query", "preference",
    "topic_preference", "conversation_scenario", "pref_type", "related_conversation_snippet", "who", "updated",
    "prev_pref", "sensitive_info", "total_tokens_in_chat_history_32k",
)  # fmt: skip


def personamem_row(number: Any, persona: Any = PERSONA, **cells: str) -> dict[str, Any]:
    """A row of PersonaMem-v2's ``benchmark.csv``."""
    return {
        "persona_id": number, "chat_history_32k_link": f"data/chat_history_32k/chat_history_1_persona{number}.json",
        "chat_history_128k_link": f"data/chat_history_128k/chat_history_2_persona{number}.json",
        "raw_persona_file": f"data/raw_data/raw_data_1_persona{number}.json", "short_persona": "A keeper",
        "expanded_persona": persona if isinstance(persona, str) else json.dumps(persona, indent=2, ensure_ascii=False),
        "user_query": "{'role': 'user', 'content': 'What shall I read?'}", "correct_answer": "A logbook",
        "incorrect_answers": '["A", "B", "C"]', "who": "self", "updated": "False", "sensitive_info": "False",
    } | cells  # fmt: skip


def personamem(folder: Path, rows: Sequence[Mapping[str, Any]], chats: Mapping[Any, Any]) -> Path:
    """A folder of PersonaMem-v2; ``chats``: persona -> chat history."""
    table = folder / "benchmark" / "text" / "benchmark.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    for number, history in chats.items():
        chat = {"metadata": {"total_messages": len(history), "persona_id": number}, "chat_history": history}
        write_object(folder / "data" / "chat_history_32k" / f"chat_history_1_persona{number}.json", chat)
    return folder


def routine(time: Any = None, **actions: Any) -> dict[str, Any]:
    """A routine of EdgeWisePersona; ``actions``: device -> settings."""
    devices = ("tv", "ac", "lights", "speaker", "security")
    return {
        "triggers": {"time_of_day": time, "day_of_week": "weekend", "sun_phase": None, "weather": None, "outdoor_temp": None},
        "actions": {device: actions.get(device) for device in devices},
    }  # fmt: skip


def talk(*texts: Any) -> dict[str, Any]:
    """A session of EdgeWisePersona with messages of the user, each answered."""
    messages = [
        {"role": role, "text": text} for text in texts for role, text in (("user", text), ("assistant", "Warm it is."))
    ]
    meta = {
        "time_of_day": "night",
        "day_of_week": "weekday",
        "sun_phase": "daylight",
        "weather": "rainy",
        "outdoor_temp": "cold",
    }
    return {
        "session_id": 0, "meta": meta, "messages": messages, "applied_routines": [0],
        "session_summarization": "The user sleeps early.",
    }  # fmt: skip


def edgewise(folder: Path, routines: Sequence[Any], sessions: Sequence[Any]) -> Path:
    """A folder of EdgeWisePersona: a list of routines and one of sessions for each user."""
    write_lines(folder / "characters.jsonl", [{"character": "An early riser."} for _ in routines])
    write_lines(folder / "routines.jsonl", [{"routines": each} for each in routines])
    write_lines(folder / "sessions.jsonl", [{"sessions": each} for each in sessions])
    return folder


def write_benchmarks(folder: Path) -> None:
    """Write two good people of each benchmark, in a file or folder that is called as its ``input_format``."""
    comments = [synthpai_comment(f"pers{n % 2}", "hello", n, sex=label("female", 1, 5)) for n in range(4)]
    write_lines(folder / "synthpai_seed.jsonl", comments)
    people = [
        synthpai_person(f"name{n}", ["hello"], {"sex": label("male", 2, 4)}, sex=label("male", 2, 4)) for n in "ab"
    ]
    write_lines(folder / "synthpai.jsonl", people)
    prism(folder / "prism", dict.fromkeys("ab", PRISM_POSTS), dict.fromkeys("ab", PRISM_TARGET))
    personamem(folder / "personamem_v2", [personamem_row(n) for n in (0, 0, 1)], dict.fromkeys((0, 1), CHAT))
    (folder / "edgewise").mkdir()
    edgewise(folder / "edgewise", [[routine("evening", ac={"mode": "cool"})]] * 2, [[talk("Too hot.")]] * 2)
