"""The teacher in this process: a causal model from the hub or a folder, by transformers or vLLM."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from mmprofile.errors import UserError
from mmprofile.llm.teacher.protocol import Question, Reply, typed_settings
from mmprofile.model.checkpoints import choose_dtype, fingerprint, loading, local_name

CHOICES = {"engine": ("transformers", "vllm"), "dtype": ("auto", "float32", "bfloat16", "float16")}
SAMPLING = ("temperature", "top_p", "top_k")  # mean nothing where the likeliest token is taken


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
    batch: int

    def check(self) -> None:
        """Refuses what makes no sense.

        Raises:
            UserError: names the setting.
        """
        if self.batch < 1:
            raise UserError(f"teacher.batch={self.batch}: give 1 or more")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(f"teacher.{name}={getattr(self, name)!r} is not one of {', '.join(known)}")
        temperature, new = (self.parameters.get(name) for name in ("temperature", "max_new_tokens"))
        if not isinstance(temperature, (int, float)) or temperature < 0:
            raise UserError(f"teacher.parameters.temperature={temperature}: give a number, 0 or more")
        if not isinstance(new, int) or new < 1:
            raise UserError(f"teacher.parameters.max_new_tokens={new}: give a whole number, 1 or more")
        if self.engine == "vllm":
            if find_spec("vllm") is None:
                raise UserError("teacher.engine=vllm needs vLLM: pip install vllm, or leave the engine at transformers")
        elif unknown := [name for name in self.parameters if not hasattr(GenerationConfig(), name)]:
            raise UserError(f"teacher.parameters.{unknown[0]}: transformers generates by no such parameter")


class Local:
    """Samples by the model's chat template; a model without one reads the messages, blank lines between them, and ``Answer:``.

    With transformers the random numbers of a batch depend on the users and seeds in it: the same command gives the same
    answers, but a question in another batch, as after a failure, another sample. With vLLM each question has its own seed.

    Args:
        cfg: see ``conf/llm/teacher/local.yaml``. A temperature of 0 takes the likeliest token.

    Raises:
        UserError: a setting makes no sense, or vLLM is asked for and not installed.
    """

    concurrency = 1  # the model is there once

    def __init__(self, cfg: Any) -> None:
        self.cfg = config = typed_settings(LocalConfig, cfg)
        config.check()
        config.parameters["temperature"] = float(config.parameters["temperature"])  # transformers takes no whole number
        self.name, self.batch = config.name, config.batch
        self.settings = {name: getattr(config, name) for name in ("kind", "engine", "dtype", "template", "parameters")}
        self._where = {
            "pretrained_model_name_or_path": local_name(config.name),
            "revision": config.revision or "main",
        }
        self._new: int = config.parameters["max_new_tokens"]
        self._model: Any = None

    def check(self) -> None:
        """Whether there is such a model, whose revision joins ``settings``. Its weights are loaded for the first question.

        Raises:
            UserError: there is none, it has no room for ``max_new_tokens``, or the device is not there.
        """
        with loading("teacher.name", self.name):
            config = AutoConfig.from_pretrained(**self._where)
            # No length of its own, or it would warn: what is too long is said of each person.
            self.tokenizer: Any = AutoTokenizer.from_pretrained(**self._where, model_max_length=sys.maxsize)
        folder = Path(self._where["pretrained_model_name_or_path"])
        self.settings["revision"] = fingerprint(folder) if folder.is_dir() else getattr(config, "_commit_hash", None)
        template = hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()[:16]
        self.settings["chat_template"] = template  # a folder's fingerprint does not know it
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.context: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
        if self.context is not None and self._new >= self.context:
            raise UserError(
                f"teacher.parameters.max_new_tokens={self._new}: {self.name} reads and writes {self.context} tokens in all"
            )
        if self.cfg.engine == "transformers":
            try:
                torch.empty(0, device=self.device)
            except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
                raise UserError(f"teacher.device={self.cfg.device}: {str(error).splitlines()[0]}") from error

    @property
    def device(self) -> str:
        """Where transformers computes."""
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        return automatic if self.cfg.device == "auto" else self.cfg.device

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """A reply to each; that to a prompt which is too long for the model has an error.

        Raises:
            UserError: the model cannot be loaded, a parameter makes no sense, or the batch is too large for the device.
        """
        prompts = [self.prompt(question.messages) for question in questions]
        replies = [Reply("", self._too_long(len(prompt))) for prompt in prompts]
        asked = [i for i, reply in enumerate(replies) if reply.error is None]
        seeds = [seed_of(questions[i].person.user_id, questions[i].seed) for i in asked]
        engine = self._vllm if self.cfg.engine == "vllm" else self._transformers
        try:
            answers = engine([prompts[i] for i in asked], seeds) if asked else []
        except (TypeError, ValueError) as error:
            raise UserError(f"teacher.parameters={self.cfg.parameters}: {error}") from error
        for i, answer in zip(asked, answers, strict=True):
            text = self.tokenizer.decode(answer, skip_special_tokens=True)
            replies[i] = Reply(text, prompt_tokens=len(prompts[i]), completion_tokens=len(answer))
        return replies

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """The tokens of a prompt."""
        if self.tokenizer.chat_template:
            options = {**self.cfg.template, "add_generation_prompt": True, "return_dict": False}
            return list(self.tokenizer.apply_chat_template(messages, **options))
        text = "\n\n".join(message["content"].strip() for message in messages)
        tokens = list(self.tokenizer(f"{text}\n\nAnswer:\n")["input_ids"])
        return tokens[:-1] if tokens[-1] == self.tokenizer.eos_token_id else tokens  # some end every text with it

    def _too_long(self, length: int) -> str | None:
        if self.context is None or length + self._new <= self.context:
            return None
        return (
            f"its prompt has {length} tokens: {self.name} has room for {self.context - self._new} "
            f"beside teacher.parameters.max_new_tokens={self._new}"
        )

    def _transformers(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        if self._model is None:
            dtype = choose_dtype("auto", self.device.split(":")[0]) if self.cfg.dtype == "auto" else self.cfg.dtype
            with loading("teacher.name", self.name):
                model = AutoModelForCausalLM.from_pretrained(**self._where, dtype=getattr(torch, dtype))
            self._model = model.to(self.device)  # type: ignore[arg-type]
        # What is said here goes before what the model's generation_config.json says.
        parameters = {**self.cfg.parameters, "do_sample": self.cfg.parameters["temperature"] > 0}
        if not parameters["do_sample"]:
            parameters = {name: value for name, value in parameters.items() if name not in SAMPLING}
        pad = self.tokenizer.pad_token_id
        batch = self.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(self.device)
        torch.manual_seed(seed_of(*seeds))
        try:
            with torch.inference_mode():
                rows = self._model.generate(**batch, **parameters, pad_token_id=pad).tolist()
        except torch.OutOfMemoryError as error:
            raise UserError(f"teacher.batch={self.batch} is more than the device has memory for: give less") from error
        start = batch["input_ids"].shape[1]
        return [[token for token in row[start:] if token != pad] for row in rows]

    def _vllm(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        from vllm import LLM, SamplingParams

        if self._model is None:
            name, revision = self._where.values()
            with loading("teacher.name", self.name):
                self._model = LLM(name, revision=revision, dtype=self.cfg.dtype)
        parameters = {name: value for name, value in self.cfg.parameters.items() if name != "max_new_tokens"}
        sampling = [SamplingParams(**parameters, max_tokens=self._new, seed=seed) for seed in seeds]
        found = self._model.generate([{"prompt_token_ids": tokens} for tokens in prompts], sampling, use_tqdm=False)
        return [list(one.outputs[0].token_ids) for one in found]


def seed_of(*parts: str | int) -> int:
    """A seed for random numbers, below 2^31."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4]) >> 1
