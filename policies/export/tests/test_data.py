"""Datasets that must not be trained on are refused, and the message says which file and why."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("torch", reason="the synthetic dataset's helpers need torch: pip install ./policies/export[train,test]")

import synthetic  # noqa: E402

from endplate_export import data as datasets  # noqa: E402
from endplate_export.data import DatasetError  # noqa: E402


@pytest.fixture()
def folder(tmp_path):
    return synthetic.write(tmp_path / "set", frames=60, scenes=40)


def edit(folder, **changes):
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder, message):
    with pytest.raises(DatasetError, match=message):
        datasets.load(folder)


@pytest.mark.parametrize("changes, message", [
    ({"robot": "aloha"}, "meta.json: robot is 'aloha', this policy needs 'so101_sim'"),
    ({"joints": ["shoulder_lift", "shoulder_pan", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]}, "meta.json: joints is"),
    ({"cameras": [{"name": "wrist", "width": 96, "height": 96}, {"name": "front", "width": 96, "height": 96}]}, "meta.json: cameras is"),
    ({"horizon": 50}, "meta.json: horizon is 50"),
    ({"row_period_s": 0.02}, "meta.json: row_period_s is 0.02"),
])
def test_another_robot_is_refused_by_name(folder, changes, message):
    edit(folder, **changes)
    refused(folder, message)


def test_fewer_images_than_frames_are_refused(folder):
    np.save(folder / "images.npy", np.load(folder / "images.npy")[:-1])
    refused(folder, r"images.npy: shape is \[59, 2, 96, 96, 3\], expected \[60,")


def test_an_image_file_that_ends_early_is_refused(folder):
    whole = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(whole[:-1000])
    refused(folder, "images.npy: ")


def test_an_image_file_that_is_missing_is_refused(folder):
    (folder / "images.npy").unlink()
    refused(folder, "images.npy: missing; the dataset is incomplete")


def test_a_frame_that_was_never_written_is_refused_with_its_number_and_camera(folder):
    images = np.load(folder / "images.npy")
    images[17, 1] = 0
    np.save(folder / "images.npy", images)
    refused(folder, "images.npy: frame 17 of camera 'wrist' is empty")


def test_an_episode_with_a_hole_is_refused(folder):
    episode = np.load(folder / "episode.npy")
    episode[20] = episode[0]
    np.save(folder / "episode.npy", episode)
    refused(folder, "episode.npy: frame 20 goes back to episode 0")
    episode[20:] = 30
    np.save(folder / "episode.npy", episode)
    refused(folder, "episode.npy: 5 episodes, meta.json says 12")


@pytest.mark.parametrize("name, value, message", [
    ("state", np.zeros((60, 5), np.float32), "state.npy: shape is"),
    ("state", np.full((60, 6), np.nan, np.float32), "state.npy: holds non-finite values"),
    ("actions", np.zeros((60, 16, 6), np.float64), "actions.npy: dtype is float64"),
])
def test_arrays_of_another_shape_kind_or_value_are_refused(folder, name, value, message):
    np.save(folder / f"{name}.npy", value)
    refused(folder, message)


def test_a_dataset_without_tokens_is_refused(folder):
    (folder / "tokens.npy").unlink()
    refused(folder, "tokens.npy: missing; run the token step")


def test_sets_with_other_statistics_are_not_mixed(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    stats = json.loads((other / "stats.json").read_text())
    stats["action"]["q99"][0] += 0.1
    (other / "stats.json").write_text(json.dumps(stats))
    with pytest.raises(DatasetError, match="stats.json: differs"):
        datasets.load_all([folder, other])
