"""The student: a causal model that reads a person and writes the answer. The tiny one is a Qwen3 of a million parameters."""

import ctypes
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from peft import LoraConfig
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mmprofile.errors import UserError
from mmprofile.llm.people import Person
from mmprofile.llm.stage import digest, messages
from mmprofile.model.checkpoints import cache_name, loading
from mmprofile.paths import ASSETS
from mmprofile.profile.schema import Schema

TINY = ASSETS / "tiny" / "student"
READS = ("first_person", "all")
PAD, END, ANSWER = "<pad>", "<|end|>", "<|answer|>"
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}" + END + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + ANSWER + "{% endif %}"
)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
PLAIN = (
    "{% for message in messages %}{{ message['content'] | trim }}\n\n{% endfor %}Answer:\n"  # of a model without one
)
_FIRST_PERSON = re.compile(r"\b(i|my|me|mine|myself|we|us|our|ours|ourselves)\b", re.I)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def condense(person: Person, reads: str) -> str:
    """What a student reads of a person.

    Args:
        person: who.
        reads: ``all``, or ``first_person``: of reviews only the sentences in which the writer speaks of themselves, or of
            themselves and others; half of the words of a restaurant review, and all that is said of the writer.

    Raises:
        UserError: an unknown ``reads``.
    """
    if reads not in READS:
        raise UserError(f"student.reads={reads!r} is not one of {', '.join(READS)}")
    if reads == "all":
        return person.text()
    sentences = (s for review in person.reviews for s in _SENTENCE.split(" ".join(review.split())))
    lines = Person(person.user_id, (), person.cues).text().splitlines()
    return "\n".join([*lines, " ".join(s for s in sentences if _FIRST_PERSON.search(s))])


def build_tokenizer(texts: Iterable[str], schema: Schema, size: int = 3072) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a token for each fixed piece of an answer, so that an answer is short.

    Args:
        texts: what people and answers are like.
        schema: whose answers.
        size: of the vocabulary, without the pieces.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, END, ANSWER], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in answer_pieces(schema)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, additional_special_tokens=[ANSWER],
        padding_side="left", chat_template=TEMPLATE, clean_up_tokenization_spaces=False, model_max_length=4096,
    )  # fmt: skip


def answer_pieces(schema: Schema) -> Iterator[str]:
    """What stands in every answer, as :func:`mmprofile.llm.answers.render_answer` writes it."""
    for place, name in enumerate(schema.names):
        yield ("}, " if place else "{") + f'"{name}": {{"rationale": "'
    yield from ('", "value": "', '", "confidence": ', "}}")


def build_model(tokenizer: PreTrainedTokenizerFast, width: int = 128, layers: int = 4) -> Qwen3ForCausalLM:
    """A new, random Qwen3 for a tokenizer."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
            num_attention_heads=width // 32, num_key_value_heads=max(1, width // 64), head_dim=32,
            max_position_embeddings=4096, tie_word_embeddings=True, attention_dropout=0.0,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        )
    )  # fmt: skip


class Student:
    """A model, its tokenizer, and how it is asked.

    Args:
        name: ``tiny``, a hub id or a folder.
        settings: of ``students`` in ``conf/llm.yaml``.
        schema: what it is asked for.

    Raises:
        UserError: the model cannot be had.
    """

    def __init__(self, name: str, settings: Any, schema: Schema) -> None:
        keep_memory()
        where = str(TINY) if name == "tiny" else name
        if name == "tiny" and not TINY.is_dir():
            raise UserError(
                "student=tiny: its weights are not there; python scripts/pretrain_student.py makes them, or give "
                "student=HUB_ID_OR_FOLDER"
            )
        with loading("student", where):
            self.tokenizer = AutoTokenizer.from_pretrained(where, padding_side="left")
            model = AutoModelForCausalLM.from_pretrained(where, dtype=settings.dtype)
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
        self.name, self.settings, self.schema = name, settings, schema
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.tokenizer.chat_template is None:
            self.tokenizer.chat_template = PLAIN

    @property
    def room(self) -> int:
        """Tokens of a prompt that leave room for an answer."""
        limit = getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        return int(min(limit, self.tokenizer.model_max_length)) - int(self.settings.max_new_tokens)

    def fingerprint(self) -> str:
        """A hash of the weights' sums, the settings and the schema: what decides its answers besides the draw."""
        sums = {n: [p.double().sum().item(), p.double().abs().sum().item()] for n, p in self.model.named_parameters()}
        return digest(sums, OmegaConf.to_container(self.settings), self.schema.to_dict())

    def prompt(self, person: Person) -> list[int]:
        """Tokens of what it reads of a person."""
        asked = messages(condense(person, self.settings.reads), self.schema, self.settings.prompt)
        template = {**self.settings.template, "add_generation_prompt": True, "return_dict": False}
        return list(self.tokenizer.apply_chat_template(asked, **template))

    def answer(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of an answer with its end, and the characters (from, to) that each stands for."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        end = len(text)
        return [*found.input_ids, self.tokenizer.eos_token_id], [*found.offset_mapping, (end, end)]

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
        """``samples`` answers of each person; of those whose prompt leaves no room, none.

        Args:
            people: any number.
            samples: of each.
            temperature: 0: the likeliest token each time.
            seed: of the draws; the same people, samples and seed give the same answers.
            top_p: share of the probability that tokens are drawn from.
            label: of a progress bar; None shows none.
        """
        model, pad = self.model.eval(), self.tokenizer.pad_token_id
        prompts = [self.prompt(person) for person in people]
        fitting = sorted((len(ids), i) for i, ids in enumerate(prompts) if len(ids) <= self.room)
        written: list[list[str]] = [[] for _ in people]
        torch.manual_seed(seed)
        size = max(1, self.settings.rollout_batch // samples)
        how = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
            if temperature
            else {"do_sample": False}
        )
        pause = 0.2 if sys.stderr.isatty() else 10
        with tqdm(
            total=len(fitting), desc=label, unit="person", mininterval=pause, disable=label is None, leave=False
        ) as bar:
            for start in range(0, len(fitting), size):
                chosen = [i for _, i in fitting[start : start + size]]
                padded = self.tokenizer.pad({"input_ids": [prompts[i] for i in chosen]}, return_tensors="pt").to(
                    model.device
                )
                ids = model.generate(
                    **self._read_once(padded, samples),
                    **how,
                    max_new_tokens=self.settings.max_new_tokens,
                    pad_token_id=pad,
                )[:, padded.input_ids.shape[1] :]
                texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
                for place, i in enumerate(chosen):
                    written[i] = texts[place * samples : (place + 1) * samples]
                bar.update(len(chosen))
        return written

    @torch.no_grad()
    def log_probabilities(self, answers: Sequence[tuple[Person, str]]) -> list[Tensor]:
        """Of each token (T,) of each person's answer, its end among them, the log-probability in nats."""
        model, found = self.model.eval(), []
        for person, text in answers:
            read, written = self.prompt(person), self.answer(text)[0]
            ids = torch.tensor([read + written], device=model.device)
            logits = model(ids, logits_to_keep=len(written) + 1).logits[0, :-1].float()
            found.append(logits.log_softmax(-1).gather(1, ids[0, len(read) :, None])[:, 0].cpu())
        return found

    def _read_once(self, padded: Any, samples: int) -> dict[str, Any]:
        """Prompts, each ``samples`` times, and the states of all but their last tokens, computed once."""
        mask, name, states = padded.attention_mask, cache_name(self.model), DynamicCache(config=self.model.config)
        self.model(
            padded.input_ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True, logits_to_keep=1,
            position_ids=(mask.cumsum(1) - 1).clamp_min(0)[:, :-1], **{name: states},
        )  # fmt: skip
        states.batch_repeat_interleave(samples)
        return {name: states, **{key: some.repeat_interleave(samples, 0) for key, some in padded.items()}}

    def adapter(self) -> Any:
        """The low-rank adapter that is trained in place of all weights, None where its rank is 0."""
        rank = self.settings.lora
        return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear") if rank else None

    def keep(self, trained: Any) -> None:
        """Takes over what was trained; an adapter becomes part of the weights."""
        self.model = trained.merge_and_unload() if self.settings.lora else trained

    def save(self, folder: Path) -> None:
        """Model and tokenizer in hub layout."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def keep_memory() -> None:
    """Has this process keep the memory that it frees: glibc would hand large blocks back and fetch them anew in every step,
    which costs a small model a quarter of its time on CPUs. Elsewhere it does nothing."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
