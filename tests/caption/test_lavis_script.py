"""What LAVIS's script does without LAVIS."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image

from mmprofile.caption.lavis_script import LavisPhotos, write

pytestmark = pytest.mark.fast


class Small:
    """A device that holds three photos."""

    def generate(self, samples: dict[str, Any], **decoding: Any) -> list[str]:
        if len(samples["image"]) > 3:
            raise torch.OutOfMemoryError
        return [f"{samples['prompt']} {int(image)} {decoding['num_beams']}" for image in samples["image"]]


def test_a_photo_that_fails_is_recorded(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(jpeg, "JPEG")
    photos = pa.table({"photo_id": ["good", "cut", "other"], "jpeg": [jpeg.getvalue(), jpeg.getvalue()[:300], b""]})
    with (
        pa.OSFile(str(tmp_path / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, photos.schema) as out,
    ):
        out.write_table(photos)
    items = LavisPhotos(tmp_path, None, lambda image: image.size)
    assert items[0] == ("good", (40, 30))
    assert items[1][1].startswith("cannot be decoded: ")
    assert LavisPhotos(tmp_path, ["other"], None)[0][1].startswith("cannot be decoded: ")


def test_a_batch_too_large_for_memory_is_halved() -> None:
    assert write(Small(), torch.arange(13), "photo", {"num_beams": 2}) == [f"photo {i} 2" for i in range(13)]
