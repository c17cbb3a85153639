"""LoRA and its kinds: what we save is what plain peft loads on transformers' model, and the other way round."""

import json

import pytest
import torch
from tiny_networks import ALL, packed, run, tiny

from yanmo import models
from yanmo.adapt import Lora, add_lora, freeze, load_adapter, merge, remove_lora, save_adapter
from yanmo.adapt.lora import lora_weights, places_of
from yanmo.errors import UserError
from yanmo.models import Seq2Seq, build_head

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
"""peft asks transformers under the old name."""
KINDS = {
    "lora": Lora(4, 8),
    "rslora of attention": Lora(3, 8, rs=True, targets="attention"),
    "dora": Lora(2, 8, dora=True),
    "lora of query and value": Lora(2, 4, targets="query-value"),
}
ADAPTED = [family for family in ALL if family not in ("lstm", "bert with experts")]
BOTH = [(family, kind) for family in ("bert", "gpt2", "t5") for kind in [*KINDS][1:]]
AUTO = {
    "bert": "AutoModelForMaskedLM", "roberta": "AutoModelForMaskedLM", "modernbert": "AutoModelForMaskedLM",
    "electra": "AutoModelForPreTraining", "t5": "AutoModelForSeq2SeqLM", "bart": "AutoModelForSeq2SeqLM",
    "xlnet": "XLNetLMHeadModel",
}  # fmt: skip


def randomised(network, seed=0):
    """Changes that change something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora_weights(network).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network


def logits(network, batch):
    return network.logits(run(network, batch)).detach()


@torch.no_grad()
def theirs(model, batch):
    asked = {"decoder_input_ids": batch.tokens} if model.config.is_encoder_decoder else {}
    return model(input_ids=batch.tokens, attention_mask=torch.ones_like(batch.tokens), **asked).logits.squeeze(-1)


def base_in(folder, family, **settings):
    models.save(tiny(family, **settings), folder)
    return folder


def auto(family):
    return getattr(transformers, AUTO.get(family, "AutoModelForCausalLM"))


@pytest.mark.parametrize(("family", "kind"), [*((family, "lora") for family in ADAPTED), *BOTH])
def test_plain_peft_computes_the_same(tmp_path, family, kind):
    base, network, batch = base_in(tmp_path / "base", family), tiny(family), packed(3, 20, 1)
    before = logits(network, batch)
    add_lora(network, KINDS[kind])
    torch.testing.assert_close(logits(network, batch), before, atol=1e-5, rtol=1e-5)  # it begins at zero
    made = logits(randomised(network), batch)
    assert (made - before).abs().max() > 0.01
    save_adapter(network, tmp_path / "adapter", base)
    model = peft.PeftModel.from_pretrained(auto(family).from_pretrained(base), tmp_path / "adapter").eval()
    torch.testing.assert_close(theirs(model, batch), made, atol=1e-5, rtol=1e-5)
    other, head, _ = load_adapter(tmp_path / "adapter")
    assert head is None
    assert torch.equal(logits(other.eval(), batch), made)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["use_rslora"], config["use_dora"]) == (KINDS[kind].rank, KINDS[kind].rs, KINDS[kind].dora)
    if family == "bert" and kind == "lora of query and value":
        assert sorted(config["target_modules"]) == ["attention.self.query", "attention.self.value"]


@pytest.mark.parametrize(("family", "kind"), [*((family, "lora") for family in (*ADAPTED, "bert with experts")), *BOTH])
def test_removed_it_is_what_it_was_and_merged_it_is_plain(family, kind):
    network = tiny(family)
    state, before = {name: tensor.clone() for name, tensor in network.state_dict().items()}, run(network)
    parts = {name: getattr(parameter, "parts", None) for name, parameter in network.named_parameters()}
    touched = add_lora(network, KINDS[kind])
    assert touched.learned == sum(parameter.numel() for parameter in lora_weights(randomised(network)).values())
    assert {name for name, parameter in network.named_parameters() if parameter.requires_grad} == {
        name for name, _ in network.named_parameters() if "lora_" in name
    }
    remove_lora(network)
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert {name: getattr(parameter, "parts", None) for name, parameter in network.named_parameters()} == parts
    assert torch.equal(run(network), before)
    add_lora(network, KINDS[kind])
    merged = merge(randomised(network), packed())
    assert network.state_dict().keys() == state.keys()
    assert merged.difference < 1e-5 < merged.change
    assert not torch.allclose(run(network), before, atol=1e-3)


TASKS = [
    ("bert", "sequence"), ("bert", "token"), ("bert", "span"), ("roberta", "sequence"), ("electra", "sequence"),
    ("modernbert", "sequence"), ("modernbert", "token"), ("xlnet", "sequence"), ("llama", "sequence"), ("gpt2", "token"),
    ("t5", "sequence"), ("t5", "token"), ("t5", "span"), ("bart", "sequence"),
]  # fmt: skip
CLASSES = {"sequence": "SequenceClassification", "token": "TokenClassification", "span": "QuestionAnswering"}


@pytest.mark.parametrize(("family", "kind"), TASKS)
@torch.no_grad()
def test_the_head_is_in_the_adapter(tmp_path, family, kind):
    """Read by plain peft on the pretrained folder, which has no head, or only one that was never learned."""
    base, outputs = base_in(tmp_path / "base", family), 2 if kind == "span" else 5
    network = models.load(base).eval().keep_for(kind)
    head = build_head(network, kind, outputs).eval()
    for parameter in head.parameters():
        parameter.normal_(0, 0.3)
    batch = one_text_a_row(network)
    add_lora(network, Lora(4))
    made = head(randomised(network).states(batch, kind), batch)
    about = {"labels": ["good", "bad"]}
    save_adapter(network, tmp_path / "adapter", base, head, about)
    labels = {} if kind == "span" else {"num_labels": outputs}
    model = getattr(transformers, f"AutoModelFor{CLASSES[kind]}").from_pretrained(base, **labels)
    model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    assert type(model).__name__ == f"PeftModelFor{CLASSES[kind]}"
    given = model(input_ids=batch.tokens, attention_mask=torch.ones_like(batch.tokens))
    found = torch.stack([given.start_logits, given.end_logits], -1) if kind == "span" else given.logits
    torch.testing.assert_close(found, made, atol=1e-5, rtol=1e-5)
    other, its_head, adapter = load_adapter(tmp_path / "adapter")
    assert adapter.about == about
    assert torch.equal(its_head.eval()(other.eval().states(batch, kind), batch), made)


def one_text_a_row(network):
    """With an end-of-text token at the end and nowhere else, at which some families read a text."""
    batch = packed(3, 20, 1)
    end = network.config.settings.get("eos_token_id")
    if end is not None:
        batch.tokens[:, -1] = end
    return batch


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "bart"])
def test_what_peft_has_learned_is_loaded(tmp_path, family):
    base, batch = base_in(tmp_path / "base", family), packed(3, 20, 1)
    targets = {"bert": ["query", "value"], "gpt2": ["c_attn"], "llama": "all-linear", "bart": ["q_proj", "fc1"]}[family]
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=targets, fan_in_fan_out=family == "gpt2")
    model = peft.get_peft_model(auto(family).from_pretrained(base), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.warns(UserWarning, match="without the hash of its base"):
        network, *_ = load_adapter(tmp_path / "adapter", base)
    torch.testing.assert_close(logits(network.eval(), batch), theirs(model, batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' is not implemented; only True, False, 'gaussian'"),
        ({"target_parameters": ["w"]}, "target_parameters: .* is not implemented"),
    ],
)
def test_what_peft_computes_otherwise_is_refused(tmp_path, settings, message):
    base = base_in(tmp_path / "base", "bert")
    config = peft.LoraConfig(r=4, target_modules=["query"])
    peft.get_peft_model(auto("bert").from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written, **settings}))
    with pytest.raises(UserError, match=message):
        load_adapter(tmp_path / "adapter", base)
    older = {name: value for name, value in written.items() if name not in ("use_rslora", "use_dora")}
    file.write_text(json.dumps(older))
    with pytest.warns(UserWarning, match="without the hash of its base"):
        load_adapter(tmp_path / "adapter", base)


def test_a_head_that_nobody_knows_the_labels_of_is_not_dropped(tmp_path):
    base = base_in(tmp_path / "base", "bert")
    config = peft.LoraConfig(r=4, target_modules=["query"], task_type="SEQ_CLS")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"classifier.* is a head that nobody here knows the labels of"):
        load_adapter(tmp_path / "adapter", base)


def test_another_base_is_refused(tmp_path):
    base, other = base_in(tmp_path / "base", "bert"), tmp_path / "other"
    network = tiny("bert")
    add_lora(network, Lora(8))
    save_adapter(network, tmp_path / "adapter", base)
    changed = tiny("bert")
    torch.nn.init.ones_(changed.embed.norm.bias)
    models.save(changed, other)
    with pytest.raises(UserError, match=r"adapter: this adapter was learned on another base than .*other: .* sha256"):
        load_adapter(tmp_path / "adapter", other)
    with pytest.raises(UserError, match=r"its base .*nowhere is not there"):
        load_adapter(tmp_path / "adapter", tmp_path / "nowhere")
    with pytest.raises(UserError, match="no adapter here"):
        load_adapter(other)


def test_what_cannot_be_is_refused(tmp_path):
    network = tiny("bert")
    with pytest.raises(UserError, match="has no LoRA"):
        remove_lora(network)
    with pytest.raises(UserError, match="nothing was added"):
        save_adapter(network, tmp_path / "adapter", base_in(tmp_path / "base", "bert"))
    with pytest.raises(UserError, match="rank 0"):
        Lora(0)
    with pytest.raises(UserError, match=r"a xlnet has no such layers in transformers; set lora.targets to all"):
        add_lora(tiny("xlnet"), Lora(8, targets="attention"))
    with pytest.raises(UserError, match="a lstm has no such layers in transformers; use an adapter"):
        add_lora(tiny("lstm"), Lora(8))
    add_lora(network, Lora(8))
    with pytest.raises(UserError, match="has LoRA already"):
        add_lora(network, Lora(8))


def test_places_are_what_transformers_has():
    """Every linear layer of a block in transformers is a place, but for those of XLNet's attention and of experts."""
    for family, name in (("bert", "BertModel"), ("gpt2", "GPT2Model"), ("llama", "LlamaModel"), ("bart", "BartModel")):
        network = tiny(family)
        settings = {key: value for key, value in network.config.settings.items() if key != "model_type"}
        config = transformers.AutoConfig.for_model(family, **settings)
        model = getattr(transformers, name)(config)
        kinds = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
        linear = {key for key, module in model.named_modules() if isinstance(module, kinds) and "pooler" not in key}
        prefix = {"bert": "bert.", "gpt2": "transformer.", "llama": "model.", "bart": "model."}[family]
        assert {place.theirs.removeprefix(prefix) for place in places_of(network)} == linear
    assert isinstance(tiny("bart"), Seq2Seq)


def test_a_step_moves_changes_only():
    network = tiny("gpt2").train()
    freeze(network)
    add_lora(network, Lora(4, dropout=0.1))
    run(network).square().mean().backward()
    learned = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, _ in network.named_parameters() if "lora_" in name}
