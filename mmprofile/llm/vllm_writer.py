"""Answers of a student by vLLM on a GPU. vLLM has a process of its own: when that ends, all memory of the GPU is free again."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, cast

from peft import LoraConfig

from mmprofile.errors import UserError
from mmprofile.llm.adapters import ADAPTER
from mmprofile.llm.people import Person
from mmprofile.llm.student import Student, plain

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM takes as the highest rank of adapters."""
_engine: list[Any] = []  # of vLLM's process


class Write(Protocol):
    """As :meth:`mmprofile.llm.student.Student.write` does."""

    def __call__(
        self,
        people: Sequence[Person],
        samples: int,
        temperature: float,
        seed: int,
        top_p: float = ...,
        label: str | None = ...,
    ) -> list[list[str]]: ...


@contextmanager
def answering(student: Student) -> Iterator[Write]:
    """Give the function by which a student writes: its own, or that of vLLM, which starts with the first answers."""
    if student.settings.engine != "vllm":
        yield student.write
        return
    writer = VllmWriter(student)
    try:
        yield writer.write
    finally:
        writer.close()


class VllmWriter:
    """vLLM with the weights of a student, which waits in the CPU's memory meanwhile.

    Args:
        student: as it is in its folder.
    """

    def __init__(self, student: Student) -> None:
        self.student, self.device = student, student.model.device
        self._process: ProcessPoolExecutor | None = None

    def arguments(self) -> dict[str, Any]:
        """Return what vLLM's ``LLM`` takes. Nothing else of the model's ``generation_config.json`` than its ends counts."""
        adapted, settings = self.student.adapted, self.student.settings
        lora: dict[str, Any] = {}
        if adapted:
            rank = cast(LoraConfig, adapted.peft_config["default"]).r
            lora = {"enable_lora": True, "max_lora_rank": min(most for most in LORA_RANKS if most >= rank)}
        options = {name: value for name, value in plain(settings.vllm).items() if value is not None}
        return (
            {"model": str(self.student.base.folder), "dtype": settings.dtype, "generation_config": "vllm"}
            | lora
            | options
        )

    def sampling(self, samples: int, temperature: float, top_p: float, seed: int) -> dict[str, Any]:
        """Return what vLLM's ``SamplingParams`` takes."""
        ends = self.student.model.generation_config.eos_token_id
        return {
            "n": samples, "temperature": temperature, "top_p": top_p, "seed": seed, "stop_token_ids": ends,
            "max_tokens": self.student.settings.max_new_tokens,
        }  # fmt: skip

    def write(
        self,
        people: Sequence[Person],
        samples: int,
        temperature: float,
        seed: int,
        top_p: float = 1.0,
        label: str | None = None,
    ) -> list[list[str]]:
        """Return ``samples`` answers for each person; none for those whose prompt leaves no room. Shows no bar: see ``Write``.

        Raises:
            UserError: vLLM does not take the model or a setting.
        """
        prompts = [self.student.prompt(person) for person in people]
        read = [i for i, prompt in enumerate(prompts) if len(prompt) <= self.student.room]
        sampling = [self.sampling(samples, temperature, top_p, seed + i) for i in read]
        adapter = str(Path(self.student.name) / ADAPTER) if self.student.adapted else None
        try:
            drawn = self._started().submit(_draw, [prompts[i] for i in read], sampling, adapter).result()
        except (TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"student={self.student.name}: vLLM cannot answer ({reason}); or students.*.engine=transformers"
            ) from error
        answers: list[list[str]] = [[] for _ in people]
        for i, ids in zip(read, drawn, strict=True):
            answers[i] = self.student.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return answers

    def _started(self) -> ProcessPoolExecutor:
        """Return vLLM's process."""
        if self._process is None:
            self.student.model.to("cpu")
            self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
            self._process.submit(_load, self.arguments()).result()
        return self._process

    def close(self) -> None:
        """End vLLM's process; the student comes back."""
        if self._process is not None:
            self._process.shutdown()
            self.student.model.to(self.device)


def _load(arguments: dict[str, Any]) -> None:
    """Start vLLM in this process."""
    from vllm import LLM

    _engine.append(LLM(**arguments))


def _draw(prompts: list[list[int]], sampling: list[dict[str, Any]], adapter: str | None) -> list[list[list[int]]]:
    """Return the tokens of the answers to each prompt."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    outputs = _engine[0].generate(
        [{"prompt_token_ids": prompt} for prompt in prompts],
        [SamplingParams(**parameters) for parameters in sampling],
        lora_request=LoRARequest("student", 1, adapter) if adapter else None,
        use_tqdm=False,
    )
    return [[list(answer.token_ids) for answer in output.outputs] for output in outputs]
