"""What vLLM is asked for. vLLM itself runs where it is installed only."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm.stage import open_schema
from mmprofile.llm.vllm_writer import VllmWriter, answering
from tests.support.tinystudent import adapt, open_student, save_as

ENGINE, LORA = "students.other.engine=vllm", "students.other.lora=2"


@pytest.mark.parametrize("words", [["reinforce.vllm=true"], [ENGINE]])
@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is there")
def test_vllm_is_named_where_it_is_missing(words: list[str]) -> None:
    with pytest.raises(UserError, match=f"^{words[0]} needs vLLM, which needs an NVIDIA GPU: pip install vllm"):
        open_schema(load_config("llm", words))


def test_without_vllm_a_student_writes_itself(random_student: Path) -> None:
    pupil, _ = open_student(random_student)
    with answering(pupil) as write:
        assert write == pupil.write


def test_vllm_gets_the_students_weights_and_settings(random_student: Path, tmp_path: Path) -> None:
    pupil, _ = open_student(random_student, ENGINE, "vllm.quantization=fp8", "vllm.max_model_len=2000")
    expected = {
        "model": str(random_student), "dtype": "float32", "generation_config": "vllm", "gpu_memory_utilization": 0.9,
        "max_model_len": 2000, "quantization": "fp8",
    }  # fmt: skip
    assert VllmWriter(pupil).arguments() == expected
    assert pupil.room == 2000 - 100
    sampling = VllmWriter(pupil).sampling(4, 0.6, 0.95, seed=7)
    assert sampling["stop_token_ids"] == [pupil.tokenizer.eos_token_id]
    assert {name: sampling[name] for name in ("n", "temperature", "top_p", "seed", "max_tokens")} == {
        "n": 4, "temperature": 0.6, "top_p": 0.95, "seed": 7, "max_tokens": 100,
    }  # fmt: skip
    trained, _ = open_student(random_student, LORA)
    adapt(trained)
    save_as(trained, tmp_path / "student")
    adapted, _ = open_student(tmp_path / "student", LORA, ENGINE)
    arguments = VllmWriter(adapted).arguments()
    assert (arguments["model"], arguments["enable_lora"], arguments["max_lora_rank"]) == (str(random_student), True, 8)
