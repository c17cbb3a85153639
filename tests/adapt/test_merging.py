"""Merging, and the folders of adapters: what comes back is what went in, and what would go wrong silently is refused."""

import pytest
import torch
from tiny_networks import packed, run, tiny
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from yanmo import models as networks
from yanmo.adapt import OURS, Lora, add_bottlenecks, add_lora, load_adapter, merge, merge_adapter, probes_of, save_adapter
from yanmo.adapt.bottleneck import bottlenecks_of
from yanmo.adapt.lora import lora_layers, lora_weights
from yanmo.errors import UserError
from yanmo.loading import load
from yanmo.models import build_head, load_task
from yanmo.tasks.folder import merge_task
from yanmo.tokenizer import Tokens, save_tokenizer


def tokens():
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{number}" for number in range(100))]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.add_special_tokens(names[:4])
    return Tokens.from_json(tokenizer.to_str().encode())


@pytest.fixture
def base(tmp_path):
    networks.save(tiny("bert"), tmp_path / "base")
    save_tokenizer(tokens(), tmp_path / "base")
    return tmp_path / "base"


def changed(network, std=0.1):
    with torch.no_grad():
        for parameter in (*lora_weights(network).values(), *bottlenecks_of(network).values()):
            parameter.add_(torch.randn_like(parameter) * std)
    return network


def test_probes_are_of_the_tokenizer():
    probes = probes_of(tokens())
    assert probes.tokens.shape == (4, 32)
    assert set(probes.tokens[:, 0].tolist()) == {1}
    assert set(probes.tokens[:, -1].tolist()) == {2}
    assert int(probes.tokens[:, 1:-1].min()) == 4
    assert probes_of(tokens(), 10).tokens.shape == (4, 10)


@pytest.mark.parametrize("lora", [Lora(4), Lora(4, rs=True), Lora(4, dora=True)])
def test_a_merged_folder_is_a_plain_one(tmp_path, base, lora):
    network = networks.load(base).eval()
    add_lora(network, lora)
    save_adapter(changed(network), tmp_path / "adapter", base)
    found = merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    assert found.difference < 1e-5 < found.change
    merged, with_tokens = load(tmp_path / "merged")
    assert with_tokens.hash == tokens().hash
    torch.testing.assert_close(run(merged), run(network).detach(), atol=1e-4, rtol=1e-4)


def test_a_merged_task_has_its_head(tmp_path, base):
    network = networks.load(base).eval().keep_for("token")
    head = build_head(network, "token", 3).eval()
    add_lora(network, Lora(4))
    save_adapter(changed(network), tmp_path / "adapter", base, head)
    merge_adapter(tmp_path / "adapter", tmp_path / "merged", settings={"id2label": {0: "O", 1: "B-X", 2: "I-X"}})
    other, its_head, settings = load_task(tmp_path / "merged")
    made, batch = head(run(network), packed()), packed()
    torch.testing.assert_close(its_head.eval()(other.eval().states(batch, "token"), batch), made, atol=1e-4, rtol=1e-4)
    assert settings["id2label"] == {0: "O", 1: "B-X", 2: "I-X"}


def test_a_folder_of_peft_alone_is_merged_as_what_it_is(tmp_path, base):
    network = networks.load(base).eval()
    add_lora(network, Lora(4))
    save_adapter(changed(network), tmp_path / "adapter", base)
    (tmp_path / "adapter" / OURS).unlink()
    with pytest.warns(UserWarning, match="without the hash of its base"):
        merge_task(tmp_path / "adapter", tmp_path / "merged", base)
    torch.testing.assert_close(run(load(tmp_path / "merged")[0]), run(network).detach(), atol=1e-4, rtol=1e-4)


def test_an_adapter_that_changes_nothing_is_refused(tmp_path, base):
    network = networks.load(base).eval()
    add_lora(network, Lora(4))
    save_adapter(network, tmp_path / "adapter", base)
    with pytest.raises(UserError, match="the merged model is its base: this adapter changes nothing"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_difference_above_the_tolerance_is_refused():
    network = tiny("bert")
    add_lora(network, Lora(4))
    layer = next(iter(lora_layers(changed(network)).values()))
    layer.scaling["default"] *= 1.5
    whole = layer.get_delta_weight
    layer.get_delta_weight = lambda name: whole(name) / 1.5  # a merge that forgets the scale
    with pytest.raises(UserError, match=r"merged and unmerged outputs differ by \d\.\d\de-0\d of the greatest, more than 1e-04"):
        merge(network, packed())


def test_what_cannot_be_merged_is_refused(tmp_path, base):
    network = networks.load(base).eval()
    with pytest.raises(UserError, match="no LoRA to merge"):
        merge(network, packed())
    add_bottlenecks(network)
    save_adapter(changed(network), tmp_path / "adapter", base)
    with pytest.raises(UserError, match="bottleneck adapters cannot be merged"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged")


@pytest.mark.parametrize("kind", ["parallel", "houlsby", "pfeiffer"])
def test_a_bottleneck_adapter_is_saved_with_its_head(tmp_path, base, kind):
    network = networks.load(base).eval().keep_for("sequence")
    head = build_head(network, "sequence", 2).eval()
    add_bottlenecks(network, kind, 8)
    save_adapter(changed(network), tmp_path / "adapter", base, head, {"labels": ["a", "b"]})
    other, its_head, adapter = load_adapter(tmp_path / "adapter")
    batch = packed()
    assert torch.equal(its_head.eval()(run(other.eval()), batch), head(run(network), batch))
    assert (adapter.kind, adapter.width, adapter.about) == (kind, 8, {"labels": ["a", "b"]})
    networks.save(tiny("bert", layers=1), tmp_path / "other")
    with pytest.raises(UserError, match="was learned on another base"):
        load_adapter(tmp_path / "adapter", tmp_path / "other")


def test_nothing_is_merged_into_what_is_there(tmp_path, base):
    network = networks.load(base).eval()
    add_lora(network, Lora(4))
    save_adapter(changed(network), tmp_path / "adapter", base)
    before = (tmp_path / "adapter" / "adapter.json").read_bytes()
    for place in (tmp_path / "adapter", base):
        with pytest.raises(UserError, match="is there already; name a new folder"):
            merge_task(tmp_path / "adapter", place, base)
    assert (tmp_path / "adapter" / "adapter.json").read_bytes() == before
