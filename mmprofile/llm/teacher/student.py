"""A student as a teacher: the tiny one of the package, or one that the stage has trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from mmprofile.config.llm_settings import StudentConfig
from mmprofile.errors import UserError
from mmprofile.llm.student import Student
from mmprofile.llm.teacher.local import seed_of
from mmprofile.llm.teacher.protocol import Question
from mmprofile.profile.schema import Schema
from mmprofile.systems.journal import ChatReply


@dataclass
class StudentTeacherConfig:
    """``conf/llm/teacher/tiny.yaml``."""

    kind: str
    name: str
    temperature: float
    batch: int
    student: StudentConfig = field(default_factory=StudentConfig)

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UserError: names the setting.
        """
        if self.batch < 1:
            raise UserError(f"teacher.batch={self.batch}: give 1 or more")
        if not self.temperature >= 0:
            raise UserError(f"teacher.temperature={self.temperature}: give a number, 0 or more")


class StudentTeacher:
    """Draw answers from a student.

    The random numbers of an answer depend on its user and seed alone, so that a question gets the same answer in whatever
    batch it comes.

    Args:
        config: typed settings.
        schema: the attributes that are asked for.

    Raises:
        UserError: a setting makes no sense.
    """

    concurrency = 1  # the model is there once

    def __init__(self, config: StudentTeacherConfig, schema: Schema) -> None:
        config.check()
        self.name, self.batch, self.temperature = config.name, config.batch, config.temperature
        self.settings = {"kind": config.kind, "temperature": config.temperature}
        self._config, self._schema = OmegaConf.structured(config.student), schema

    def check(self) -> None:
        """Load the student; its fingerprint joins ``settings``.

        Raises:
            UserError: it cannot be loaded.
        """
        self.student = Student(self.name, self._config, self._schema)
        self.settings["student"] = self.student.fingerprint()

    def ask(self, questions: Sequence[Question]) -> list[ChatReply]:
        """Return a reply to each question; a person of whom there is too much to read gets an error."""
        people = {question.person.user_id: question.person for question in questions}
        prompts = {user_id: self.student.prompt(person) for user_id, person in people.items()}
        room = self.student.room
        short = [question for question in questions if len(prompts[question.person.user_id]) <= room]
        answers = iter(self._write([prompts[q.person.user_id] for q in short], short) if short else [])
        return [
            next(answers)
            if (length := len(prompts[question.person.user_id])) <= room
            else ChatReply("", f"its prompt has {length} tokens: {self.name} has room for {room} beside its answer")
            for question in questions
        ]

    @torch.inference_mode()
    def _write(self, prompts: list[list[int]], questions: Sequence[Question]) -> list[ChatReply]:
        model, tokenizer = self.student.model, self.student.tokenizer
        seeds = [seed_of(question.person.user_id, question.seed) for question in questions]
        batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(model.device)
        rows = model.generate(
            **batch,
            do_sample=False,
            logits_processor=LogitsProcessorList([GumbelDraw(seeds, self.temperature)] if self.temperature else []),
            max_new_tokens=self.student.settings.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )[:, batch.input_ids.shape[1] :].tolist()
        return [self._reply(len(prompt), row) for prompt, row in zip(prompts, rows, strict=True)]

    def _reply(self, read: int, row: list[int]) -> ChatReply:
        """Return the reply that a row of tokens is; what follows its end token is padding."""
        ends = self.student.model.generation_config.eos_token_id
        written = next((place for place, token in enumerate(row, start=1) if token in ends), len(row))
        text = self.student.tokenizer.decode(row[:written], skip_special_tokens=True)
        return ChatReply(text, prompt_tokens=read, completion_tokens=written, cut=row[written - 1] not in ends)


class GumbelDraw(LogitsProcessor):
    """Make the likeliest token a draw: the largest of logits plus Gumbel noise is a sample of their softmax.

    Args:
        seeds: of each row's own random numbers.
        temperature: that the logits are divided by, above 0.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self.generators = [np.random.default_rng(seed) for seed in seeds]
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the noisy logits (R, V) of R rows; ``input_ids`` (R, T) do not matter."""
        noise = np.stack([generator.gumbel(size=scores.shape[1]) for generator in self.generators])
        return scores / self.temperature + torch.from_numpy(noise).to(scores)
