"""Every form the raw data come in gives the same files and photos; broken ones give one clear line."""

from pathlib import Path

import pytest

from datamodules.raw import RawYelp
from mmprofile.errors import UserError
from tests.support.rawdata import as_tar, as_zip, city, jpeg

pytestmark = pytest.mark.fast

JSON = ["yelp_academic_dataset_business.json", "yelp_academic_dataset_review.json", "yelp_academic_dataset_user.json"]
PHOTOS = ["photos.json", "photos"]


def contents(paths: list[Path], work: Path, ids: set[str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    work.mkdir()
    raw = RawYelp(paths)
    files = {role: path.read_bytes() for role, path in raw.json_files(work).items()}
    photos = {name: data if isinstance(data, bytes) else data.read_bytes() for name, data in raw.photos(ids)}
    return files, photos


def forms(folder: Path, where: Path) -> dict[str, list[Path]]:
    """All raw forms made from one folder."""
    short = city(where / "short", prefix="")
    apart = where / "apart"
    (apart / "json").mkdir(parents=True)
    (apart / "pictures").mkdir()
    for name in JSON:
        (apart / "json" / name).write_bytes((folder / name).read_bytes())
    (apart / "pictures" / "photos.json").write_bytes((folder / "photos.json").read_bytes())
    (apart / "pictures" / "photos").symlink_to(folder / "photos")
    data_tar = as_tar(folder, where / "yelp_dataset.tar", "w:gz", JSON)  # gzipped under a plain name, as downloaded
    photo_tar = as_tar(folder, where / "yelp_photos.tgz", "w:gz", PHOTOS)
    data_zip = as_zip(where / "Yelp-JSON.zip", {"Yelp JSON/yelp_dataset.tar": data_tar})
    photo_zip = as_zip(where / "Yelp-Photos.zip", {"Yelp Photos/yelp_photos.tar": photo_tar})
    downloads = where / "downloads"
    downloads.mkdir()
    for path in (data_zip, photo_zip):
        (downloads / path.name).write_bytes(path.read_bytes())
    everything = {f"top/{path.relative_to(folder)}": path for path in folder.rglob("*") if path.is_file()}
    return {
        "folder": [folder],
        "short names": [short],
        "sub folders": [apart],
        "two folders": [apart / "json", apart / "pictures"],
        "tars": [data_tar, photo_tar],
        "plain tar": [as_tar(folder, where / "all.tar", "w:", JSON + PHOTOS, top="./top/")],
        "zips with tars": [photo_zip, data_zip],
        "zip without a tar": [as_zip(where / "all.zip", everything)],
        "folder of downloads": [downloads],
        "folder and archive": [apart / "json", photo_zip],
    }


def test_all_forms_give_the_same_files_and_photos(tmp_path: Path) -> None:
    folder = city(tmp_path / "raw")
    ids = {"-p1", "p3", "not there", "../photos/p2"}
    expected = contents([folder], tmp_path / "work", ids)
    assert set(expected[0]) == {"business", "review", "photos"}
    assert set(expected[1]) == {"-p1", "p3"}
    for name, paths in forms(folder, tmp_path).items():
        assert contents(paths, tmp_path / f"work {name}", ids) == expected, name


def test_missing_files_are_listed(tmp_path: Path) -> None:
    folder = city(tmp_path / "raw")
    (folder / "yelp_academic_dataset_review.json").unlink()
    with pytest.raises(
        UserError, match=r"looked for yelp_academic_dataset_review\.json or review\.json: check"
    ) as caught:
        RawYelp([folder]).json_files(tmp_path)
    assert str(folder) in str(caught.value)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"business\.json;.*photos\.json.*a folder photos/"):
        RawYelp([empty]).json_files(tmp_path)


def test_folder_that_is_not_there_and_file_that_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist: check data\.prepare.source.path"):
        RawYelp([tmp_path / "nowhere"])
    (tmp_path / "data.rar").touch()
    with pytest.raises(UserError, match=r"neither a folder nor one of \.zip"):
        RawYelp([tmp_path / "data.rar"])


@pytest.mark.parametrize("form", ["zip", "tgz", "tar", "tar in zip", "garbage.tar", "empty.tar"])
def test_truncated_archives_are_named(tmp_path: Path, form: str) -> None:
    photos = {f"p{n}": jpeg((n, 0, 0), (200, 200)) for n in range(20)}
    folder = city(tmp_path / "raw", photos=photos)
    whole = as_tar(folder, tmp_path / "all.tar", "w:gz" if form == "tgz" else "w:", JSON + PHOTOS)
    if form == "zip":
        whole = as_zip(tmp_path / "all.zip", {name: folder / name for name in JSON})
    data = whole.read_bytes()[: int(whole.stat().st_size * 0.45)]
    if form.endswith(".tar"):
        data = b"" if form.startswith("empty") else b"no archive at all" * 100
    broken = tmp_path / ("broken." + form.rsplit(".", maxsplit=1)[-1].replace("tar in zip", "tar"))
    broken.write_bytes(data)
    if form == "tar in zip":
        broken = as_zip(tmp_path / "outer.zip", {"inner.tar": broken})
    with pytest.raises(UserError, match=f"archive .*{broken.name} is truncated or damaged.*download it again"):
        RawYelp([broken]).json_files(tmp_path)


def test_damaged_member_of_a_zip_is_named(tmp_path: Path) -> None:
    folder = city(tmp_path / "raw")
    target = as_zip(
        tmp_path / "all.zip",
        {path.name: path for path in folder.glob("*.json")} | {"photos/p2.jpg": folder / "photos" / "p2.jpg"},
    )
    data = bytearray(target.read_bytes())
    data[data.index(b'{"review_id"') + 30] ^= 0xFF
    target.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"damaged at yelp_academic_dataset_review\.json \(Bad CRC"):
        RawYelp([target]).json_files(tmp_path)
