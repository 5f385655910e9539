"""The teacher in this process: a causal model from the hub or a folder, by transformers or vLLM."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from mmprofile.errors import UserError
from mmprofile.files import size
from mmprofile.llm.answer_schema import answer_schema
from mmprofile.llm.chats import has_system_role, without_system
from mmprofile.llm.endings import plain_generation
from mmprofile.llm.teacher.guiding import LONGEST, Guide
from mmprofile.llm.teacher.protocol import Question
from mmprofile.model.checkpoints import (
    DTYPES,
    WEIGHTS,
    Checkpoint,
    choose_dtype,
    fingerprint,
    in_proportion,
    load_config,
    load_model,
    load_tokenizer,
    loading,
)
from mmprofile.model.hub import fetch
from mmprofile.model.memory import answering_memory, memory
from mmprofile.profile.schema import Schema
from mmprofile.systems.journal import ChatReply

CHOICES = {"engine": ("transformers", "vllm"), "dtype": ("auto", "float32", "bfloat16", "float16")}
VLLM_GUIDED: dict[str, Any] = {"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}}
"""Blanks between the parts of an answer are allowed otherwise, and some models write nothing else any more."""
SAMPLING = ("temperature", "top_p", "top_k")  # no use where the likeliest token is taken


@dataclass
class LocalConfig:
    """``conf/llm/teacher/local.yaml``."""

    kind: str
    name: str
    revision: str | None
    engine: str
    dtype: str
    device: str
    parameters: dict[str, Any]
    template: dict[str, Any]
    guided: bool
    batch: int
    vllm: dict[str, Any]

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UserError: names the setting.
        """
        if self.batch < 1:
            raise UserError(f"teacher.batch={self.batch}: give 1 or more")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"teacher.{name}={getattr(self, name)!r} is not one of {', '.join(choices)}")
        temperature, length = self.parameters.get("temperature"), self.parameters.get("max_new_tokens")
        if not isinstance(temperature, (int, float)) or temperature < 0:
            raise UserError(f"teacher.parameters.temperature={temperature}: give a number, 0 or more")
        if not isinstance(length, int) or length < 1:
            raise UserError(f"teacher.parameters.max_new_tokens={length}: give a whole number, 1 or more")
        if self.engine == "vllm":
            if find_spec("vllm") is None:
                raise UserError("teacher.engine=vllm needs vLLM: pip install vllm, or leave the engine at transformers")
        elif self.guided and find_spec("xgrammar") is None:
            raise UserError(
                "teacher.guided=true needs xgrammar: pip install 'mmprofile[guided]', or teacher.guided=false"
            )
        elif unknown := [name for name in self.parameters if not hasattr(GenerationConfig(), name)]:
            raise UserError(f"teacher.parameters.{unknown[0]}: transformers has no such parameter of generation")


class Local:
    """Draw answers by the model's chat template.

    A model without a template reads the messages, blank lines between them, and ``Answer:``. With transformers the random
    numbers of a batch depend on the users and seeds in it. The same command gives the same answers, but a question that comes
    in another batch, as after a failure, gets another sample. With vLLM each question has its own seed.

    Args:
        config: typed settings. A temperature of 0 takes the likeliest token; ``guided`` allows only tokens that fit the
            JSON schema of an answer.
        schema: the attributes that are asked for.

    Raises:
        UserError: a setting makes no sense, or vLLM is asked for and not installed.
    """

    concurrency = 1  # the model is there once
    one_person = False

    def __init__(self, config: LocalConfig, schema: Schema) -> None:
        config.check()
        self.config, self.schema = config, schema
        config.parameters["temperature"] = float(config.parameters["temperature"])  # transformers takes no whole number
        self.name, self.batch = config.name, config.batch
        self.settings = {name: getattr(config, name) for name in ("kind", "engine", "dtype", "template", "parameters")}
        if config.guided:
            self.settings["guided"] = answer_schema(schema, LONGEST)
        if config.engine == "vllm" and config.vllm["quantization"]:
            self.settings["quantization"] = config.vllm["quantization"]  # it changes the answers
        self._revision = config.revision
        self.longest: int = config.parameters["max_new_tokens"]
        self._model: Any = None
        self._guide: Guide | None = None

    def check(self) -> None:
        """Check that there is such a model; its revision joins ``settings``. The first question loads its weights.

        Raises:
            UserError: there is none, it has no room for ``max_new_tokens``, it cannot be guided, or the device is not there.
        """
        checkpoint = self._fetch(weights=False)
        self._revision = checkpoint.commit or self._revision  # so that the weights are of the same commit
        config = load_config(checkpoint)
        # Without a length of its own the tokenizer does not warn: each prompt that is too long gets an error.
        self.tokenizer: Any = load_tokenizer(checkpoint, config, model_max_length=sys.maxsize)
        self.settings["revision"] = checkpoint.commit or fingerprint(checkpoint.folder)
        template = hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()[:16]
        self.settings["chat_template"] = template  # a folder's fingerprint does not cover it
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._checkpoint, self._architecture = checkpoint, config
        self.context: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
        if self.config.engine == "vllm":
            self.context = self.config.vllm["max_model_len"] or self.context
        if self.context is not None and self.longest >= self.context:
            raise UserError(
                f"teacher.parameters.max_new_tokens={self.longest}: {self.name} reads and writes {self.context} tokens in all"
            )
        if self.config.engine == "transformers":
            if self.config.guided:
                self._guide = Guide(self.tokenizer, config.get_text_config().vocab_size, self.schema, self.name)
            if self.config.dtype != "auto":
                choose_dtype(self.config.dtype, self.device.split(":")[0], "teacher.dtype")
            try:
                torch.empty(0, device=self.device)
            except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
                raise UserError(f"teacher.device={self.config.device}: {str(error).splitlines()[0]}") from error

    def _fetch(self, weights: bool) -> Checkpoint:
        """Return the model on this machine."""
        return fetch(self.config.name, "teacher.name", self._revision, weights=weights)

    @property
    def device(self) -> str:
        """Return the device on which transformers computes."""
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        return automatic if self.config.device == "auto" else self.config.device

    def requirements(self, longest: int) -> list[str]:
        """Return a line about the memory that the weights and the longest answers take, and what the device has.

        With vLLM, which answers as many together as there is room for, it is that of one answer.
        """
        if not longest:
            return []
        rows = self.batch if self.config.engine == "transformers" else 1
        tokens = min(longest + self.longest, self.context or sys.maxsize)
        dtype = choose_dtype(self.config.dtype, self.device.split(":")[0], "teacher.dtype")
        weights = [path for path in self._checkpoint.folder.iterdir() if path.suffix in WEIGHTS]
        with loading(self._checkpoint), in_proportion(weights):
            held, cache = answering_memory(self._architecture, DTYPES[dtype], rows, tokens)
        total = torch.cuda.mem_get_info(self.device)[1] if self.device.startswith("cuda") else memory()[0]
        there = "" if total is None else f"; the device has {size(total)}"
        if total is not None and held + cache > total:
            there += ": too little; take a smaller model, fewer teacher.parameters.max_new_tokens, or a smaller teacher.batch"
        return [f"  memory: {size(held)} for the weights, {size(cache)} for {rows} answers at {tokens:,} tokens{there}"]

    def tokens(self, messages: list[dict[str, str]]) -> int:
        """Return the number of a prompt's tokens."""
        return len(self.prompt(messages))

    def ask(self, questions: Sequence[Question]) -> list[ChatReply]:
        """Return a reply to each question; a prompt that is too long for the model gets an error.

        Raises:
            UserError: the model cannot be loaded, a parameter makes no sense, or the batch is too large for the device.
        """
        prompts = [self.prompt(question.messages) for question in questions]
        replies = [ChatReply("", self._too_long(len(prompt))) for prompt in prompts]
        short = [i for i, reply in enumerate(replies) if reply.error is None]
        seeds = [seed_of(questions[i].person.user_id, questions[i].seed) for i in short]
        engine = self._vllm if self.config.engine == "vllm" else self._transformers
        try:
            answers = engine([prompts[i] for i in short], seeds) if short else []
        except (TypeError, ValueError) as error:
            raise UserError(f"teacher.parameters={self.config.parameters}: {error}") from error
        for i, answer in zip(short, answers, strict=True):
            text = self.tokenizer.decode(answer, skip_special_tokens=True)
            cut = len(answer) >= self.longest and answer[-1] != self.tokenizer.eos_token_id
            replies[i] = ChatReply(text, prompt_tokens=len(prompts[i]), completion_tokens=len(answer), cut=cut)
        return replies

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the tokens of a prompt."""
        if self.tokenizer.chat_template:
            if not has_system_role(self.tokenizer, self.config.template):
                messages = without_system(messages)
            options = {**self.config.template, "add_generation_prompt": True, "return_dict": False}
            return list(self.tokenizer.apply_chat_template(messages, **options))
        text = "\n\n".join(message["content"].strip() for message in messages)
        tokens = list(self.tokenizer(f"{text}\n\nAnswer:\n")["input_ids"])
        ended = tokens[-1] == self.tokenizer.eos_token_id  # some tokenizers end every text
        return tokens[:-1] if ended else tokens

    def _too_long(self, length: int) -> str | None:
        if self.context is None or length + self.longest <= self.context:
            return None
        return (
            f"its prompt has {length} tokens: {self.name} has room for {self.context - self.longest} "
            f"beside teacher.parameters.max_new_tokens={self.longest}"
        )

    def _transformers(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        if self._model is None:
            dtype = self.config.dtype
            if dtype == "auto":
                dtype = choose_dtype("auto", self.device.split(":")[0])
            model, _ = load_model(AutoModelForCausalLM, self._fetch(weights=True), dtype=getattr(torch, dtype))
            model.generation_config = plain_generation(model, self.tokenizer)
            self._model = model.to(self.device)
        parameters = {**self.config.parameters, "do_sample": self.config.parameters["temperature"] > 0}
        if not parameters["do_sample"]:
            parameters = {name: value for name, value in parameters.items() if name not in SAMPLING}
        pad = self.tokenizer.pad_token_id
        batch = self.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(self.device)
        torch.manual_seed(seed_of(*seeds))
        try:
            with torch.inference_mode():
                guided = {"logits_processor": self._guide.processors()} if self._guide else {}
                rows = self._model.generate(**batch, **parameters, **guided, pad_token_id=pad).tolist()
        except torch.OutOfMemoryError as error:
            raise UserError(f"teacher.batch={self.batch} is more than the device has memory for: give less") from error
        start = batch["input_ids"].shape[1]
        return [[token for token in row[start:] if token != pad] for row in rows]

    def _vllm(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        from vllm import LLM, SamplingParams

        if self._model is None:
            checkpoint = self._fetch(weights=True)
            with loading(checkpoint):
                options = {name: value for name, value in self.config.vllm.items() if value is not None}
                options |= VLLM_GUIDED if self.config.guided else {}
                self._model = LLM(str(checkpoint.folder), dtype=self.config.dtype, **options)
        parameters = {name: value for name, value in self.config.parameters.items() if name != "max_new_tokens"}
        if self.config.guided:
            from vllm.sampling_params import StructuredOutputsParams

            parameters["structured_outputs"] = StructuredOutputsParams(json=self.settings["guided"])
        sampling = [SamplingParams(**parameters, max_tokens=self.longest, seed=seed) for seed in seeds]
        prompted = [{"prompt_token_ids": tokens} for tokens in prompts]
        outputs = self._model.generate(prompted, sampling, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


def seed_of(*parts: str | int) -> int:
    """Return a seed for random numbers, below 2^31."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4]) >> 1
