"""Checkpoints: whole or refused, the right ones kept, a full disk survived."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from toy_training import ToyRows, objective, trainer, training

from yanmo import checkpoint, files
from yanmo.checkpoint import State, differences, flatten, latest, listed, load, load_weights, prune, save, verify
from yanmo.errors import UserError
from yanmo.train import Trainer

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(())}
MOMENTS = {"first.a": torch.zeros(2, 3), "steps.0": torch.tensor(3.0)}


def test_what_is_saved_is_read(tmp_path):
    state = State(step=3, steps=9, best_loss=0.1 + 0.2, recent_losses={"model": [1 / 3]}, identity={"seed": 0})
    folder = save(tmp_path, state, WEIGHTS, MOMENTS)
    assert folder.name == "step-00000003"
    saved = load(folder)
    assert saved.state == state
    assert all(torch.equal(saved.weights[name], tensor) for name, tensor in WEIGHTS.items())
    assert all(torch.equal(saved.optimizer[name], tensor) for name, tensor in MOMENTS.items())
    assert load_weights(folder).keys() == WEIGHTS.keys()
    assert verify(folder) == []
    (folder / "optimizer.safetensors").unlink()
    with pytest.raises(UserError, match=r"optimizer\.safetensors is missing"):
        load_weights(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "trainer.json", "manifest.json"])
def test_a_flipped_byte_is_refused_and_the_file_named(tmp_path, name):
    folder = save(tmp_path, State(step=1), WEIGHTS, MOMENTS)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert verify(folder)
    with pytest.raises(UserError, match=r"is not whole.*delete that folder to go on from an older one"):
        load(folder)
    assert name == "manifest.json" or name in verify(folder)[0]


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "trainer.json", "manifest.json"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = save(tmp_path, State(step=1), WEIGHTS, MOMENTS)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load(folder)


def test_half_written_folders_are_not_seen(tmp_path):
    save(tmp_path, State(step=1), WEIGHTS, MOMENTS)
    (tmp_path / "step-00000002").mkdir()
    (tmp_path / "step-00000002" / "weights.safetensors").write_bytes(b"half")
    (tmp_path / ".step-00000003.partial-1").mkdir()
    assert latest(tmp_path) == tmp_path / "step-00000001"
    assert latest(tmp_path / "nothing") is None


def test_the_last_and_the_best_are_kept(tmp_path):
    for step in range(6):
        save(tmp_path, State(step=step), WEIGHTS, MOMENTS)
    (tmp_path / "step-00000007").mkdir()  # deleted halfway by a process that was killed
    (tmp_path / ".step-00000008.partial-1").mkdir()  # and half written by one
    prune(tmp_path, keep=2, best=1)
    assert [step for step, _ in listed(tmp_path)] == [1, 4, 5]
    assert len(os.listdir(tmp_path)) == 3


def test_a_run_keeps_the_last_and_the_best(tmp_path):
    outcome = trainer(tmp_path, steps=8, save_every=1, keep=3, validate_every=2, learning_rate=0.3).fit()
    assert outcome.best is not None
    steps = {step for step, _ in listed(tmp_path / "checkpoints")}
    assert steps == {6, 7, 8, int(outcome.best.name.split("-")[1])}
    assert load(outcome.best).state.best_loss == outcome.best_loss


def test_a_full_disk_stops_with_a_sentence_and_the_run_goes_on_later(tmp_path, monkeypatch):
    full = False

    def fsync(handle):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fsync)
    made = trainer(tmp_path, save_every=1)
    inner = made._gradients

    def gradients(batches, player):
        nonlocal full
        full = made.state.step == 3
        return inner(batches, player)

    made._gradients = gradients
    with pytest.raises(UserError, match="step-00000004 cannot be written: the disk is full"):
        made.fit()
    full = False
    newest = latest(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-00000003"
    assert verify(newest) == []
    assert trainer(tmp_path, save_every=1).fit().step == 6


def test_a_read_only_disk_is_said_before_any_time_is_spent(tmp_path, monkeypatch):
    def refuse(self, *rest, **named):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match="mounted read-only"):
        trainer(tmp_path / "runs").fit()


def test_an_altered_checkpoint_is_not_gone_on_with(tmp_path):
    trainer(tmp_path).fit()
    newest = latest(tmp_path / "checkpoints")
    assert newest is not None
    data = bytearray((newest / "optimizer.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "optimizer.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"optimizer\.safetensors has been altered"):
        trainer(tmp_path).fit()


def test_buffers_that_last_are_part_of_a_checkpoint(tmp_path):
    toy = objective()
    Trainer(toy, ToyRows(), None, training(), tmp_path, say=print).fit()
    newest = latest(tmp_path / "checkpoints")
    assert newest is not None
    assert load(newest).weights["network.calls"] == toy.network.calls == 6
    assert "network.head.weight" not in load(newest).weights  # tied: saved once


def test_a_checkpoint_of_another_version_is_named(tmp_path):
    folder = save(tmp_path, State(step=1), WEIGHTS, MOMENTS)
    tree = json.loads((folder / "trainer.json").read_text())
    del tree["shift"]
    (folder / "trainer.json").write_text(json.dumps(tree))
    files.write_manifest(folder)
    with pytest.raises(UserError, match="another version of yanmo: shift"):
        load(folder)


def test_differences():
    before, now = flatten({"a": {"b": 1, "c": (1, 2)}, "d": None}), flatten({"a": {"b": 2, "c": [1, 2]}, "e": 1})
    assert differences(before, now) == ["a.b was 1 and is 2", "e was None and is 1"]
    assert differences(before, now, free=["a.b"]) == ["e was None and is 1"]
    assert checkpoint.folder_of(Path("x"), 12).name == "step-00000012"
