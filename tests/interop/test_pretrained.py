"""Folders in the manner of the Hugging Face hub: the same bits again, whole or not at all, honest cards."""

import json
import os

import pytest
import torch
from exported_policies import KINDS, make_critic, make_policy

from dtag_fast.interop import from_pretrained, save_pretrained
from dtag_fast.interop.export.acting import Acting
from dtag_fast.interop.export.verification import expected_outputs, random_inputs
from dtag_fast.training import load_critic, load_policy
from dtag_fast.training.checkpoint import save_checkpoint


def card_head(folder) -> dict[str, list[str]]:
    """The YAML block of README.md by the names at its left margin; each a list of its lines."""
    text = (folder / "README.md").read_text()
    opening, block, _ = text.split("---\n", 2)
    assert opening == ""
    found: dict[str, list[str]] = {}
    for line in block.splitlines():
        if line[0] not in " -":
            name, _, value = line.partition(":")
            found[name] = [value.strip()] if value.strip() else []
        else:
            found[name].append(line.strip())
    return found


def evaluation(policy, path, **about):
    """A file as `dtag evaluate --json` writes it, of two settings, the second without an episode."""
    info = policy.info
    normalized = {"mean": 41.25, "std": 3.5, "ref_min": 0.0, "ref_max": 3000.0, "source": "D4RL", "note": ""}
    one = {"label": "AG n=10 lr=0.03", "seeds": [0, 1], "mean": 1234.5, "std": 10.0, "normalized": normalized}
    none = {"label": "plain policy", "seeds": [], "mean": None, "std": None, "normalized": None}
    of = {"algorithm": info.algorithm, "step": info.step, "seed": info.seed, "dataset_id": info.dataset_id}
    result = {"env_id": "Hopper-v5", "seed": 0, "settings": [one, none], "policy": of | about}
    result["critic"] = {"algorithm": "iql", "step": 70_000}
    path.write_text(json.dumps({"checkpoints": [result]}))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_comes_back_to_the_bit(kind, tmp_path):
    policy = make_policy(kind)
    folder = save_pretrained(policy, tmp_path / "policy")
    loaded, critic = from_pretrained(folder)
    assert critic is None and loaded.info == policy.info and not loaded.model.training
    for name, tensor in policy.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    inputs = random_inputs(Acting(policy), 9, seed=0)
    for ours, theirs in zip(
        expected_outputs(Acting(loaded), inputs), expected_outputs(Acting(policy), inputs), strict=True
    ):
        assert (ours == theirs).all()


def test_critic_says_its_own(tmp_path):
    """Its reward scale is not the policy's, and is not multiplied twice."""
    policy = make_policy("dt", reward_scale=0.5)
    saved = make_critic(reward_scale=3.0, reward_shift=1.0, config={"critic_reward_scale": 2.0, "gamma": 0.9})
    run = tmp_path / "run"
    save_checkpoint(run, saved.info, {"critic": saved.critic}, {})
    once = load_critic(run)
    assert once.info.reward_scale == 6.0
    for given in (run, once):
        folder = save_pretrained(policy, tmp_path / "both", critic=given, overwrite=True)
        loaded, critic = from_pretrained(folder)
        assert (critic.info.reward_scale, critic.info.reward_shift) == (6.0, 2.0)
        assert loaded.info.reward_scale == 0.5 and critic.info.algorithm == "iql"
        states, actions = torch.randn(5, 3), torch.rand(5, 2)
        for ours, theirs in zip(critic.critic(states, actions), saved.critic(states, actions), strict=True):
            assert torch.equal(ours, theirs)
        again = from_pretrained(save_pretrained(loaded, tmp_path / "again", critic=critic, overwrite=True))
        assert again.critic.info == critic.info and again.policy.info == policy.info


def test_is_a_checkpoint_folder_too(tmp_path):
    policy, critic = make_policy("reinformer"), make_critic()
    folder = save_pretrained(policy, tmp_path / "both", critic=critic)
    assert load_policy(folder).info == policy.info and load_critic(folder).info == critic.info
    content = json.loads((folder / "config.json").read_text())
    assert content["library_name"] == "dtag_fast" and content["info"]["state_mean"] == policy.info.state_mean
    names = {"config.json", "model.safetensors", "critic.safetensors", "README.md"}
    assert {path.name for path in folder.iterdir()} == names


def test_card_holds_what_is_known_and_no_more(tmp_path):
    policy = make_policy("dt", dataset_id="mujoco/hopper/medium-v0")
    plain = save_pretrained(policy, tmp_path / "plain")
    head = card_head(plain)
    assert head["library_name"] == ["dtag_fast"] and '- "Hopper-v5"' in head["tags"]
    assert "model-index" not in head and "## Evaluation" not in (plain / "README.md").read_text()
    text = (plain / "README.md").read_text()
    assert "mujoco/hopper/medium-v0" in text and "5 updates" in text and "from_pretrained" in text
    assert "--critic" not in text

    file = evaluation(policy, tmp_path / "scores.json")
    measured = save_pretrained(policy, tmp_path / "measured", critic=make_critic(), evaluation=file)
    lines = card_head(measured)["model-index"]
    assert "value: 1234.5" in lines and "value: 41.25" in lines
    assert sum(line.startswith("value:") for line in lines) == 2  # nothing for the setting without episodes
    text = (measured / "README.md").read_text()
    assert "| AG n=10 lr=0.03 | 2 | 1234.5 ± 10.0 | 41.2 ± 3.5 |" in text and "plain policy" not in text
    assert "dtag evaluate FOLDER --critic FOLDER" in text and "critic of `iql`, step 70,000" in text


@pytest.mark.parametrize("about", [{"step": 6}, {"algorithm": "odt"}, {"seed": 3}, {"dataset_id": "other"}])
def test_scores_of_another_policy_are_refused(about, tmp_path):
    policy = make_policy("dt")
    file = evaluation(policy, tmp_path / "scores.json", **about)
    with pytest.raises(ValueError, match="expected an evaluation of dt at step 5"):
        save_pretrained(policy, tmp_path / "p", evaluation=file)
    assert not (tmp_path / "p").exists()


def test_other_files_are_no_evaluation(tmp_path):
    (tmp_path / "a.json").write_text('{"checkpoints": [1]}')
    (tmp_path / "b.json").write_text("[]")
    for name in ("a.json", "b.json"):
        with pytest.raises(ValueError, match="dtag evaluate --json"):
            save_pretrained(make_policy("dt"), tmp_path / "p", evaluation=tmp_path / name)


def test_nothing_is_lost(tmp_path):
    policy = make_policy("dt")
    folder = tmp_path / "p"
    folder.mkdir()
    save_pretrained(policy, folder)  # an empty one
    with pytest.raises(ValueError, match="overwrite=True"):
        save_pretrained(policy, folder)
    save_pretrained(make_policy("reinformer"), folder, overwrite=True)
    assert from_pretrained(folder).policy.info.algorithm == "reinformer"
    other = tmp_path / "notes"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="choose another name"):
            save_pretrained(policy, other, overwrite=overwrite)
    assert (other / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "p"]


@pytest.mark.parametrize("when", ["write_tensors", "write_json", "write_text", "_take_the_place"])
def test_whole_or_not_at_all(when, tmp_path, monkeypatch):
    """Whatever fails, no folder of that name is there, and one that was there before is as it was."""
    from dtag_fast.interop import pretrained

    before = save_pretrained(make_policy("bc"), tmp_path / "old")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(pretrained, when, full)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(make_policy("dt"), tmp_path / "new")
    with pytest.raises(OSError, match="No space"):
        save_pretrained(make_policy("dt"), before, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
    assert from_pretrained(before).policy.info.algorithm == "bc"


def test_parts_are_not_taken_for_the_whole(tmp_path):
    folder = save_pretrained(make_policy("dt"), tmp_path / "p", critic=make_critic())
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("config.json", "model.safetensors", "critic.safetensors"):
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            from_pretrained(folder)
        for part in (0, len(whole[name]) // 2, len(whole[name]) - 2):
            (folder / name).write_bytes(whole[name][:part])
            with pytest.raises(ValueError, match=r"damaged|truncated"):
                from_pretrained(folder)
        (folder / name).write_bytes(whole[name])
    from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        from_pretrained(tmp_path / "none")


def test_a_critic_of_another_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="state_dim"):
        save_pretrained(make_policy("dt"), tmp_path / "p", critic=make_critic(state_dim=9))
    with pytest.raises(ValueError, match="Linear"):
        save_pretrained(make_policy("dt"), tmp_path / "p", critic=torch.nn.Linear(5, 1))
    assert os.listdir(tmp_path) == []
