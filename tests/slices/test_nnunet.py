"""Data sets of nnU-Net v2: what is read of them, and what is refused in one line."""

import json

import pytest

from common.errors import InputError
from common.slices.nnunet import is_nnunet, join_channels, read_nnunet


def write_layout(root, names=("a", "b"), channels=1, ending=".png", labels=None, **fields):
    """Empty files in the layout of nnU-Net."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        for channel in range(channels):
            (root / "imagesTr" / f"{name}_{channel:04d}{ending}").touch()
        (root / "labelsTr" / f"{name}{ending}").touch()
    about = {
        "channel_names": {str(number): f"c{number}" for number in range(channels)},
        "labels": {"background": 0, "liver": 1, "tumor": 2} if labels is None else labels,
        "file_ending": ending,
    } | fields
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def test_cases_channels_and_labels(tmp_path):
    root = write_layout(tmp_path, ("p10", "p9", "a_0001"), channels=2, ending=".nii.gz")
    data = read_nnunet(root)
    assert is_nnunet(root) and not is_nnunet(tmp_path / "imagesTr") and not data.is_2d
    assert list(data.cases) == ["a_0001", "p9", "p10"] and data.channels == ["c0", "c1"] and data.files_per_case == 2
    images, label = data.cases["a_0001"]
    assert [path.name for path in images] == ["a_0001_0000.nii.gz", "a_0001_0001.nii.gz"]
    assert label == root / "labelsTr" / "a_0001.nii.gz" and data.labels == {1: "liver", 2: "tumor"}


def test_files_that_dataset_json_lists_and_colors_in_one_file(tmp_path):
    root = write_layout(tmp_path, channel_names={"0": "R", "1": "G", "2": "B"})
    assert read_nnunet(root).files_per_case == 1 and read_nnunet(root).is_2d
    listed = {"x": {"images": ["imagesTr/a_0000.png"], "label": "labelsTr/b.png"}}
    data = read_nnunet(write_layout(tmp_path, dataset=listed))
    assert data.cases == {"x": ([root / "imagesTr" / "a_0000.png"], root / "labelsTr" / "b.png")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "ignore": 3}}, "labels to ignore are not supported (found 3)"),
        ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, "labels to ignore are not supported (found 2)"),
        ({"labels": {"background": 0, "liver": 2}}, "expected the background 0, then 1, 2, ... without gaps"),
        ({"labels": {"0": "background", "1": "liver"}}, "not in the format of nnU-Net v2 (labels"),
        ({"channel_names": {"0": "a", "1": "b", "2": "c"}, "ending": ".nrrd"}, "(1 files, 3)"),
        ({"file_ending": ".tif"}, "no training cases; expected files such as imagesTr/NAME_0000.tif"),
        ({"file_ending": "/../x"}, "not in the format of nnU-Net v2 (file_ending"),
        ({"dataset": {"x": {"images": ["../a.png"], "label": "b.png"}}}, "expected a path inside the folder"),
        ({"dataset": {"x": {"images": ["gone.png"], "label": "labelsTr/a.png"}}}, "gone.png: file is missing"),
    ],
)
def test_what_is_refused(tmp_path, change, said):
    write_layout(tmp_path, **change)
    with pytest.raises(InputError) as error:
        read_nnunet(tmp_path)
    assert said in str(error.value) and len(str(error.value).splitlines()) == 1
    if "not supported" in said:
        assert len(read_nnunet(tmp_path, {1: 1}).cases) == 2


def test_files_without_a_partner_or_number(tmp_path):
    write_layout(tmp_path, channels=2, ending=".nii.gz")
    (tmp_path / "imagesTr" / "a_0000.nii.gz").unlink()
    (tmp_path / "imagesTr" / "c.nii.gz").touch()
    with pytest.raises(InputError, match=r"channels of a are missing \(found 0001") as error:
        read_nnunet(tmp_path)
    assert "c.nii.gz: no channel number in its name" in str(error.value)
    write_layout(tmp_path / "other")
    (tmp_path / "other" / "labelsTr" / "a.png").unlink()
    with pytest.raises(InputError, match=r"labelsTr/a.png: file is missing"):
        read_nnunet(tmp_path / "other")


def test_channels_of_a_case_to_predict(tmp_path):
    folder = write_layout(tmp_path, ("a", "b"), channels=2, ending=".nii.gz") / "imagesTr"
    volumes = {path.name.removesuffix(".nii.gz"): path for path in sorted(folder.iterdir())}
    first, further = join_channels(folder, volumes)
    assert first == {"a": volumes["a_0000"], "b": volumes["b_0000"]}
    assert further == {volumes["a_0000"]: [volumes["a_0001"]], volumes["b_0000"]: [volumes["b_0001"]]}
    named = volumes | {"notes": folder / "notes.nii.gz"}
    assert join_channels(folder, named) == (named, {}) and join_channels(tmp_path, volumes) == (volumes, {})
    del volumes["b_0000"]
    with pytest.raises(InputError, match=r"channels of b are missing \(found 0001\)"):
        join_channels(folder, volumes)
