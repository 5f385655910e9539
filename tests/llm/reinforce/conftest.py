"""What the tests of reinforcement share: a student to start from."""

import random
from pathlib import Path

import pytest
import torch

from mmprofile.inputs.batch import IGNORE
from mmprofile.llm.fine_tuning import AnswerCollator
from tests.support.tinystudent import save_random_student
from tests.support.toyreinforce import TOY, TOY_PEOPLE, random_answer, toy_student


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that writes answers, any answers, of whomever."""
    folder, rng = tmp_path_factory.mktemp("start"), random.Random(0)
    texts = [random_answer(rng) for _ in range(200)]
    save_random_student(folder, [*texts, *(person.reviews[0] for person in TOY_PEOPLE)], TOY, size=300)
    pupil = toy_student(folder)
    adam, collate = torch.optim.Adam(pupil.model.parameters(), lr=1e-2), AnswerCollator(pupil.tokenizer.pad_token_id)
    for _ in range(80):
        rows = []
        for person in TOY_PEOPLE:
            read, written = pupil.prompt(person), pupil.answer(random_answer(rng))[0]
            rows.append(
                {
                    "input_ids": read + written,
                    "labels": [IGNORE] * len(read) + written,
                    "weights": [1.0] * len(read + written),
                }
            )
        batch = collate(rows)
        adam.zero_grad()
        pupil.model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss.backward()
        adam.step()
    pupil.save(folder)
    return folder
