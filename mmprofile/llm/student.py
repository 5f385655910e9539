"""The student: a causal model that reads a person and writes the answer. The tiny one is a Qwen3 of a million parameters."""

import ctypes
import hashlib
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from peft import LoraConfig, PeftModel
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, BatchEncoding, DynamicCache

from mmprofile.config.llm_settings import LlmConfig, StudentConfig
from mmprofile.errors import UserError
from mmprofile.llm.adapters import ADAPTER, base_of, check_bits, four_bits, open_adapter, save_adapter
from mmprofile.llm.chats import has_system_role, without_system
from mmprofile.llm.checks import READS
from mmprofile.llm.endings import first_tokens, plain_generation
from mmprofile.llm.people import Person
from mmprofile.llm.stage import digest, messages
from mmprofile.model.checkpoints import (
    Checkpoint,
    cache_name,
    check_bfloat16,
    load_config,
    load_model,
    load_tokenizer,
)
from mmprofile.model.hub import fetch
from mmprofile.paths import ASSETS
from mmprofile.profile.schema import Schema

TINY = ASSETS / "tiny" / "student"
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] | trim }}\n\n{% endfor %}{{ 'Answer:\\n' }}"
"""The chat template of a model that comes without one, behind its first tokens."""
MEANS = ("micro_batch_size", "gradient_checkpointing", "engine", "vllm")
"""Settings that may change at any time: they decide what the work takes, and its result only within rounding and the draw."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_FIRST_PERSON = re.compile(r"\b(i|my|me|mine|myself|we|us|our|ours|ourselves)\b", re.I)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def student_settings(cfg: LlmConfig) -> StudentConfig:
    """Return the entry of ``students`` for the chosen student: its own, or ``other``."""
    return cfg.students[cfg.student if cfg.student in cfg.students else "other"]


def plain(settings: Any) -> dict[str, Any]:
    """Return a part of the configuration as plain data."""
    return cast(dict[str, Any], OmegaConf.to_container(settings))


def decisive(settings: StudentConfig) -> dict[str, Any]:
    """Return the settings that decide what a student becomes, as plain data."""
    return {key: value for key, value in plain(settings).items() if key not in MEANS and (key, value) != ("bits", None)}


def condense(person: Person, reads: str) -> str:
    """Return the text that a student reads about a person.

    Args:
        person: who.
        reads: ``all``, or ``first_person``: of reviews only the sentences in which the writer speaks of themselves, or of
            themselves and others; half of the words of a restaurant review, and all that is said of the writer.

    Raises:
        UserError: ``reads`` is unknown.
    """
    if reads not in READS:
        raise UserError(f"student.reads={reads!r} is not one of {', '.join(READS)}")
    if reads == "all":
        return person.text()
    sentences = (s for review in person.reviews for s in _SENTENCE.split(" ".join(review.split())))
    cues = Person(person.user_id, (), person.cues).text().splitlines()
    return "\n".join([*cues, " ".join(s for s in sentences if _FIRST_PERSON.search(s))])


class Student:
    """A model, its tokenizer, and how it is asked.

    Attributes:
        model: of transformers; the maps of an adapter are inside.
        base: where its weights come from; those of an adapter are in its own folder.
        adapted: the peft model around ``model``; None where it has no adapter.

    Args:
        name: ``tiny``, a hub id or a folder.
        settings: of ``students`` in ``conf/llm.yaml``.
        schema: the attributes that it is asked for.
        revision: branch, tag or commit of a hub id; None: its main branch.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(self, name: str, settings: StudentConfig, schema: Schema, revision: str | None = None) -> None:
        keep_freed_memory()
        source = str(TINY) if name == "tiny" else name
        if name == "tiny" and not TINY.is_dir():
            raise UserError(
                "student=tiny: its weights are not there; python scripts/pretrain_student.py makes them, or give "
                "student=HUB_ID_OR_FOLDER"
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        check_bits(settings)
        folder = Path(source).expanduser()
        adapter = (folder / ADAPTER).is_dir()
        if adapter and not settings.lora:
            raise UserError(
                f"student={name}: an adapter, and lora=0 trains and reads whole weights; python -m mmprofile.llm.export "
                f"student={name} makes them"
            )
        self.base = checkpoint = base_of(folder / ADAPTER) if adapter else fetch(source, "student", revision)
        config = load_config(checkpoint)
        dtype = str(config.dtype) if settings.dtype == "auto" else settings.dtype
        check_bfloat16("students.*.dtype", dtype, device, "float32")
        tokenizer = Checkpoint("student", name, folder, None) if adapter else checkpoint
        self.tokenizer = load_tokenizer(tokenizer, config, padding_side="left")
        options: dict[str, Any] = (
            {"quantization_config": four_bits(), "device_map": {"": device}} if settings.bits else {}
        )
        model, _ = load_model(AutoModelForCausalLM, checkpoint, config=config, dtype=settings.dtype, **options)
        self.model = model if settings.bits else model.to(device)
        self.adapted = open_adapter(self.model, checkpoint, folder) if adapter else None
        self.name, self.settings, self.schema = name, settings, schema
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.tokenizer.chat_template is None:
            self.tokenizer.chat_template = first_tokens(self.tokenizer) + PLAIN_TEMPLATE
        self.system_role = has_system_role(self.tokenizer, settings.template)
        self.model.generation_config = plain_generation(self.model, self.tokenizer)

    @property
    def room(self) -> int:
        """Tokens of a prompt that leave room for an answer."""
        limit = getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        limit = min(limit, self.tokenizer.model_max_length)
        if self.settings.engine == "vllm" and self.settings.vllm.max_model_len:
            limit = min(limit, self.settings.vllm.max_model_len)
        return int(limit) - int(self.settings.max_new_tokens)

    def fingerprint(self) -> str:
        """Return a hash of the weights, the settings and the schema: all that decides its answers besides the draw."""
        weights = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            weights.update(name.encode())
            weights.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest(weights.hexdigest(), decisive(self.settings), self.schema.to_dict())

    def prompt(self, person: Person) -> list[int]:
        """Return the tokens that it reads about a person."""
        template = {**self.settings.template, "add_generation_prompt": True, "return_dict": False}
        return list(self.tokenizer.apply_chat_template(self.chat(person), **template))

    def chat(self, person: Person) -> list[dict[str, str]]:
        """Return the messages that ask it about a person, in the roles that its chat template knows."""
        chat = messages(condense(person, self.settings.reads), self.schema, self.settings.prompt)
        return chat if self.system_role else without_system(chat)

    def answer(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens of an answer with its end token, and the characters (from, to) that each stands for."""
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        end = len(text)
        return [*encoding.input_ids, self.tokenizer.eos_token_id], [*encoding.offset_mapping, (end, end)]

    @torch.no_grad()
    def write(
        self,
        people: Sequence[Person],
        samples: int,
        temperature: float,
        seed: int,
        top_p: float = 1.0,
        label: str | None = None,
    ) -> list[list[str]]:
        """Return ``samples`` answers for each person; none for those whose prompt leaves no room.

        Args:
            people: any number.
            samples: answers for each.
            temperature: 0: the likeliest token each time.
            seed: of the draws; the same people, samples and seed give the same answers.
            top_p: share of the probability that tokens are drawn from.
            label: of a progress bar; None shows none.
        """
        self.model.eval()
        prompts = [self.prompt(person) for person in people]
        by_length = sorted((len(ids), i) for i, ids in enumerate(prompts) if len(ids) <= self.room)
        answers: list[list[str]] = [[] for _ in people]
        torch.manual_seed(seed)
        size = max(1, self.settings.rollout_batch // samples)
        interval = 0.2 if sys.stderr.isatty() else 10
        with tqdm(
            total=len(by_length), desc=label, unit="person", mininterval=interval, disable=label is None, leave=False
        ) as bar:
            for start in range(0, len(by_length), size):
                rows = [i for _, i in by_length[start : start + size]]
                texts = self._generate([prompts[i] for i in rows], samples, temperature, top_p)
                for place, i in enumerate(rows):
                    answers[i] = texts[place * samples : (place + 1) * samples]
                bar.update(len(rows))
        return answers

    def _generate(self, prompts: list[list[int]], samples: int, temperature: float, top_p: float) -> list[str]:
        """Return ``samples`` answers to the first prompt, then those to the next."""
        padded = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.model.device)
        sampling: dict[str, Any] = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
            if temperature
            else {"do_sample": False}
        )
        ids = self.model.generate(
            **self._read_once(padded, samples),
            **sampling,
            max_new_tokens=self.settings.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
        )[:, padded.input_ids.shape[1] :]
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _read_once(self, padded: BatchEncoding, samples: int) -> dict[str, Any]:
        """Repeat R prompts of N tokens ``samples`` times, with the states of all but their last tokens computed once.

        Args:
            padded: ``input_ids`` and ``attention_mask``, (R, N) each, padded on the left.
            samples: S, answers to each.

        Returns:
            What ``generate`` takes: both as (R * samples, N), and the states.
        """
        mask, name, states = padded.attention_mask, cache_name(self.model), DynamicCache(config=self.model.config)
        self.model(
            padded.input_ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True, logits_to_keep=1,
            position_ids=(mask.cumsum(1) - 1).clamp_min(0)[:, :-1], **{name: states},
        )  # fmt: skip
        states.batch_repeat_interleave(samples)
        return {name: states, **{key: tensor.repeat_interleave(samples, 0) for key, tensor in padded.items()}}

    @torch.no_grad()
    def log_probabilities(self, answers: Sequence[tuple[Person, str]]) -> list[Tensor]:
        """Return for each person's answer the log-probability in nats of each of its T tokens, (T,), the end token among them."""
        model, of_answers = self.model.eval(), []
        for person, text in answers:
            prompt, answer = self.prompt(person), self.answer(text)[0]
            ids = torch.tensor([prompt + answer], device=model.device)
            logits = model(ids, logits_to_keep=len(answer) + 1).logits[0, :-1].float()
            of_answers.append(logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0].cpu())
        return of_answers

    def trainable(self) -> dict[str, Any]:
        """Return what a trainer takes: the model, and the adapter to put around it where it is to have one and has none yet."""
        rank = self.settings.lora if self.adapted is None else 0
        lora = (
            LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
            if rank
            else None
        )
        return {"model": self.adapted or self.model, "peft_config": lora}

    def adopt(self, trained: Any) -> None:
        """Take over the adapter of a trained model, if it has one; the weights were trained in place."""
        self.adapted = trained if isinstance(trained, PeftModel) else None

    def merge(self) -> None:
        """Put the adapter into the weights, which rounds them to their own precision."""
        if self.adapted is not None:
            self.model, self.adapted = self.adapted.merge_and_unload(), None

    def save(self, folder: Path) -> None:
        """Save the model, or its adapter alone, and the tokenizer, in the hub's layout."""
        if self.adapted is None:
            shutil.rmtree(folder / ADAPTER, ignore_errors=True)  # of the student that was here before
            self.model.save_pretrained(folder)
        else:
            for weights in folder.glob("*.safetensors*"):
                weights.unlink()
            save_adapter(self.adapted, self.base, folder)
        self.tokenizer.save_pretrained(folder)


def keep_freed_memory() -> None:
    """Make this process keep the memory that it frees. Does nothing but on Linux.

    glibc would hand large blocks back and fetch them anew in every step, which costs a small model a quarter of its time on CPUs.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
