"""The page against the files it is made from: structure, escaping, languages, what is left out, the numbers shown."""

import json
import re
import shlex
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from yanmo.recipe import KIND_OF, read_recipe
from yanmo.report import write_report
from yanmo.report.findings import count_parameters, read_findings
from yanmo.report.page import render
from yanmo.report.words import NAMES, WORDS, Words

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = '<script>alert("x")</script><img src=https://evil.example/a.png onerror=1>&lt;'


class Page(HTMLParser):
    """Elements with their attributes and text; fails on a tag that is closed wrongly."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for tag, attributes in self.elements if tag in ("section", "details") and "id" in attributes]


def write(path: Path, value: object) -> None:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def page_of(folder: Path) -> tuple[str, Page]:
    text = write_report(folder).read_text(encoding="utf-8")
    return text, Page(text)


def test_every_section_is_there_in_order(run_folder: Path) -> None:
    _, page = page_of(run_folder)
    assert page.sections == [
        "corpus", "tokenizer", "training", "evaluation", "time", "next", "recipe", "environment",
    ]  # fmt: skip
    assert [tag for tag, _ in page.elements].count("h1") == 1
    assert ("html", {"lang": "en"}) in page.elements


def test_numbers_are_those_of_the_files(run_folder: Path) -> None:
    _, page = page_of(run_folder)
    for shown in (
        "3.754", "1.812", "35.2%", "4.3%", "61.020", "42.696", "77.1%", "762 held-out documents",                # evaluation
        "41,236", "35,874", "87.0%", "−2,334", "−1,246", "21.7 MB", "20,933 runs", "12,011",
            "85.8%", "<0.1%", "35,112 are for training",  # corpus
        "40,870", "37.1%", "7,210,332", "158,220", "466 kB", "8,000",                             # tokenizer, shards
        "1,200 steps, 9,830,400 tokens, 4 min 0 s", "4 min 34 s",              # training, time
        "4 layers × 256, 5.26 M parameters", "81.2%", "was not finite or jumped: 1.",
    ):  # fmt: skip
        assert shown in page.text, shown


def test_nothing_is_loaded_from_elsewhere(run_folder: Path) -> None:
    text, page = page_of(run_folder)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "image", "use", "base"}
    assert not [attributes for _, attributes in page.elements if {"src", "href", "srcset", "xlink:href"} & set(attributes)]
    assert not re.search(r"url\(|@import|https?://", text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_data_are_escaped(make_run: Callable[[str], Path], language: str) -> None:
    folder = make_run(language)
    write(folder / "recipe.yaml", f"name: '{HOSTILE}'\nlanguage: {language}\n")
    report = json.loads((folder / "evaluation/report.json").read_text(encoding="utf-8"))
    report["fills"] = [{"text": f"{HOSTILE}[MASK]\x00\ud800\u202e", "answers": [{"token": HOSTILE, "probability": 0.5}]}]
    report["generations"] = [{"prompt": HOSTILE, "text": HOSTILE * 2}]
    report["losses"] = {HOSTILE: 1.0}
    report[HOSTILE] = 1.0
    write(folder / "evaluation/report.json", report)
    write(folder / "environment.json", {HOSTILE: HOSTILE})
    write(folder / "stages.json", {HOSTILE: {"seconds": 3.0}})
    corpus = {
        "funnel": [{"step": HOSTILE, "documents_in": 2, "documents_out": 1, "bytes_in": 2, "bytes_out": 1}],
        "switches": {HOSTILE: {HOSTILE: 1}}, "encodings": {HOSTILE: 1}, "languages": {HOSTILE: 1},
        "scripts": {HOSTILE: 1.0}, "notes": [HOSTILE],
    }  # fmt: skip
    write(folder / "corpus/report.json", corpus)
    write(folder / "tokenizer/report.json", {"kind": HOSTILE, "size": 8, "tokens": 3, "scripts": {HOSTILE: {"tokens": 3}}})
    text, page = page_of(folder)
    assert not {tag for tag, _ in page.elements} & {"script", "img"}
    assert page.text.count(HOSTILE) > 12
    assert "\x00" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_charts_are_well_formed_and_named(make_run: Callable[[str], Path], language: str) -> None:
    text, _ = page_of(make_run(language))
    charts = re.findall(
        r"<figure>.*?<div class=\"(?:plot|bars)\">(<svg.*</svg>)</div></figure>",
        text.replace("</figure>", "</figure>\n"),
    )
    assert len(charts) >= 8
    for chart in charts:
        svg = ElementTree.fromstring(chart)
        assert svg.get("role") == "img"
        assert svg.get("aria-label")
        assert "nan" not in chart.lower()
        for element in svg.iter():
            for name in ("x", "y", "width", "height", "cx", "cy"):
                value = element.get(name)
                assert value is None or re.fullmatch(r"-?[\d.]+%?", value), (name, value)


def test_bars_are_as_long_as_the_numbers(run_folder: Path) -> None:
    text, _ = page_of(run_folder)
    widths = re.findall(r'<rect x="0%" y="\d+" width="([\d.]+)%" height="9" class="bar">', text)
    assert [float(width) for width in widths[:3]] == [100, 100, pytest.approx(100 * 38_902 / 41_236, abs=1e-3)]


def test_chinese_page_has_no_english_sentences(make_run: Callable[[str], Path]) -> None:
    _, page = page_of(make_run("zh"))
    assert ("html", {"lang": "zh-Hans"}) in page.elements
    for chinese in ("语料", "分词器", "训练", "学到了什么", "接下来", "配方", "环境", "汉字", "4 分 34 秒"):
        assert chinese in page.text
    english = {en for en, zh in WORDS.values() if en != zh and len(en) > 12 and "{" not in en}
    assert not [words for words in english if words in page.text]


PARTS = {
    "corpus": ["corpus"],
    "tokenizer": ["tokenizer/report.json", "shards"],
    "training": ["pretrain/metrics.jsonl"],
    "evaluation": ["evaluation"],
    "time": ["stages.json"],
    "recipe": ["recipe.yaml"],
    "environment": ["environment.json"],
}


@pytest.mark.parametrize("section", PARTS)
def test_a_section_without_its_file_is_left_out(run_folder: Path, section: str) -> None:
    _, before = page_of(run_folder)
    for name in PARTS[section]:
        path = run_folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _, page = page_of(run_folder)
    assert page.sections == [name for name in before.sections if name != section]


def test_a_run_of_only_the_corpus(run_folder: Path) -> None:
    for name in ("tokenizer", "shards", "pretrain", "evaluation"):
        shutil.rmtree(run_folder / name)
    _, page = page_of(run_folder)
    assert page.sections == ["corpus", "time", "next", "recipe", "environment"]
    assert "documents kept" in page.text
    assert "yanmo run" in page.text


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    _, page = page_of(tmp_path)
    assert page.sections == []
    assert WORDS["empty"][0] in page.text


def test_broken_files_are_named(run_folder: Path) -> None:
    write(run_folder / "corpus/report.json", '{"funnel": [')
    write(run_folder / "stages.json", "[1, 2]")
    write(run_folder / "pretrain/metrics.jsonl", '7\n{"step": "x"}\n\n{"loss": 1}\n')
    (run_folder / "pretrain/model/model.safetensors").write_bytes(b"\x01")
    _, page = page_of(run_folder)
    assert "corpus/report.json, stages.json" in page.text
    assert "training" not in page.sections


@pytest.mark.parametrize("value", [None, [], {}, "text", 3, [3], {"a": None}, [{"a": "b"}], float("nan")])
def test_values_of_another_shape_do_no_harm(run_folder: Path, value: object) -> None:
    for name in ("corpus", "tokenizer", "shards", "evaluation"):
        tree = {
            key: value
            for key in (
                "funnel",
                "switches",
                "scripts",
                "lengths",
                "notes",
                "losses",
                "fills",
                "generations",
                "splits",
                "size",
            )
        }
        write(run_folder / name / "report.json", tree)
    write(run_folder / "stages.json", {"corpus": value})
    page_of(run_folder)


def test_commands_have_overrides_that_a_recipe_takes(run_folder: Path) -> None:
    text, _ = page_of(run_folder)
    commands = [shlex.split(unescape(command)) for command in re.findall(r"<code>(yanmo run .*?)</code>", text)]
    assert len(commands) == 2
    longer, own = (read_recipe(words[2], words[3:]) for words in commands)
    assert (longer.name, longer.training.minutes) == ("quickstart-30-minutes", 30)
    assert (own.name, [source.path for source in own.corpus.sources]) == ("mine", ["my-texts/*.txt"])


def test_decoder_run(run_folder: Path) -> None:
    write(
        run_folder / "pretrain/model/config.json",
        {"model_type": "gpt2", "n_layer": 4, "n_embd": 256, "vocab_size": 8_000},
    )
    write(run_folder / "pretrain/metrics.jsonl", '{"step": 1, "tokens": 8, "causal": 9.0, "loss": 9.0}\n')
    _, page = page_of(run_folder)
    for shown in ("GPT-2 · 4 layers × 256", "yanmo generate", "AutoModelForCausalLM", "Loss: next token"):
        assert shown in page.text


def test_later_lines_of_a_step_count(run_folder: Path) -> None:
    lines = [{"step": step, "tokens": 8 * step, "seconds": step, "loss": loss} for step, loss in ((1, 9), (2, 8), (2, 7))]
    write(run_folder / "pretrain/metrics.jsonl", "\n".join(map(json.dumps, lines)))
    found = read_findings(run_folder)
    assert [record["losses"]["loss"] for record in found.training] == [9, 7]


def test_parameters_are_those_of_the_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7), "scale": torch.tensor(1.0)}, tmp_path / "model.safetensors")
    assert count_parameters(tmp_path) == 23
    assert count_parameters(tmp_path / "nothing") is None


def test_both_languages_fill_in_the_same_values() -> None:
    def fields(text: str) -> set[str | None]:
        return {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}

    for key, (english, chinese) in (WORDS | NAMES).items():
        assert english.strip(), key
        assert chinese.strip(), key
        assert fields(english) == fields(chinese), key
    assert len(dict.fromkeys(WORDS)) == len(WORDS)


def test_every_word_is_used(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    say, known = Words.__call__, Words.known
    monkeypatch.setattr(Words, "__call__", lambda words, key, **values: seen.add(key) or say(words, key, **values))
    monkeypatch.setattr(Words, "known", lambda words, key: seen.add(key) or known(words, key))
    page_of(run_folder)
    write(run_folder / "evaluation/report.json", {"losses": {"causal": 3.0}, "bits_per_byte": 1.2})
    write(run_folder / "stages.json", {"corpus": {"seconds": 4_000}, "tokenizer": "?"})
    for family in KIND_OF:
        write(run_folder / "pretrain/model/config.json", {"model_type": family})
        page_of(run_folder)
    shutil.rmtree(run_folder / "pretrain")
    write(run_folder / "evaluation/report.json", "broken")
    page_of(run_folder)
    page_of(tmp_path)
    # Looked up by names in the files.
    from_data = ("loss.", "accuracy.", "measure.", "stage.", "environment.", "evaluation.", "figure.bits_per_byte.")
    from_data += ("frontier", "together", "tasks", "next.predict", "next.measure", "next.again")  # their tests are their own
    from_data += ("method.", "metric.")
    assert [key for key in WORDS if key not in seen and not key.startswith(from_data)] == []


def test_fast_and_without_torch(run_folder: Path) -> None:
    program = (
        "import sys, pathlib; from yanmo.report import write_report; write_report(pathlib.Path(sys.argv[1]));"
        "assert not {'torch', 'pandas', 'numpy', 'matplotlib', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(run_folder)], check=True)
    start = time.perf_counter()
    write_report(run_folder)
    assert time.perf_counter() - start < 1


LATENT = {
    "losses": {"reconstruction": 3.9, "kl": 0.21, "kl_per_text": 4.4, "bound": 4.05},
    "perplexity": 57.4,
    "accuracies": {"accuracy": 0.283},
    "figures": {"active_units": 29.0, "mutual_information": 3.217, "perplexity": 57.4},
    "samples": ["a string is <b>returned</b>.", "", "语句用来定义函数。"],
}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_a_latent_run_finds_is_shown(make_run: Callable[[str], Path], language: str) -> None:
    folder = make_run(language)
    write(folder / "evaluation/report.json", LATENT)
    line = {"step": 5, "tokens": 100, "reconstruction": 4.0, "kl": 0.2, "kl_per_text": 4.0, "penalty": 0.1, "loss": 4.2}
    held_out = {"step": 5, "validation": {"bound": 4.1, "active_units": 28.0, "mutual_information": 3.1, "perplexity": 60.3}}
    write(folder / "pretrain/metrics.jsonl", "\n".join(map(json.dumps, (line, {**line, "step": 6}, held_out))))
    _, page = page_of(folder)
    for sample in LATENT["samples"]:
        assert sample in page.texts or not sample
    words = Words(language)
    rows = dict(re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td></tr>', render(read_findings(folder))))
    assert rows[words("evaluation.active_units")] == "29"
    assert rows[words("evaluation.mutual_information")] == "3.217"
    assert rows[words("evaluation.loss", name=words("loss.bound"))] == "4.050"
    assert rows[words("accuracy.accuracy")] == "28.3%"
    assert [name for name in rows if "erplexity" in name or "困惑度" in name] == [words("evaluation.perplexity")]
    assert page.text.count("4.050") == 2                  # the headline's loss is the bound
    assert {words(f"measure.{name}") for name in ("active_units", "kl_per_text")} <= set(page.texts)
    assert words("training.loss.named", name="active_units") not in page.text


def test_every_accuracy_of_a_discriminator_is_shown(run_folder: Path) -> None:
    accuracies = {"masked_accuracy": 0.123, "replaced_accuracy": 0.456, "original_accuracy": 0.789, "prefix_accuracy": 0.321}
    write(run_folder / "evaluation/report.json", {"losses": {"replaced": 0.4}, "perplexity": 1.5, "accuracies": accuracies})
    _, page = page_of(run_folder)
    for name, shown in {
        "Accuracy of the generator": "12.3%",
        "Replaced tokens that were found": "45.6%",
        "Original tokens that were left alone": "78.9%",
        "Accuracy: what follows a prefix": "32.1%",
    }.items():
        assert page.texts[page.texts.index(name) + 1] == shown


def test_what_is_counted_cannot_be_trained_for_longer(run_folder: Path) -> None:
    _, page = page_of(run_folder)
    assert "training.minutes=30" in page.text
    write(run_folder / "recipe.yaml", "name: a\nmodel: {family: ngram}\n")
    _, page = page_of(run_folder)
    assert "training.minutes=30" not in page.text
