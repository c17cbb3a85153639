"""The page: header, figures, sections, how to go on, appendix."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import datetime
from importlib import resources
from pathlib import Path
from xml.etree.ElementTree import Element

from yanmo import __version__
from yanmo.card import command_of
from yanmo.files import write_atomically
from yanmo.recipe import KIND_OF, USES, Use, unread
from yanmo.report.charts import Bar, bar_chart
from yanmo.report.findings import Findings, dig, mapping, read_findings
from yanmo.report.layout import section, table
from yanmo.report.model_sections import evaluation_section, main_loss, speed, training_section
from yanmo.report.numbers import count, decimal, percent, real, short, size
from yanmo.report.tags import html, tag
from yanmo.report.tasks_section import shown_best, tasks_section
from yanmo.report.text_sections import corpus_section, corpus_totals, tokenizer_section
from yanmo.report.together_section import together_section
from yanmo.report.words import Words

FAMILIES = {
    "bert": "BERT",
    "roberta": "RoBERTa",
    "modernbert": "ModernBERT",
    "gpt2": "GPT-2",
    "llama": "Llama",
    "qwen3": "Qwen3",
    "mixtral": "Mixtral",
    "t5": "T5",
    "bart": "BART",
    "electra": "ELECTRA",
    "xlnet": "XLNet",
    "vae": "VAE",
    "lstm": "LSTM",
    "ngram": "n-gram",
}


def write_report(run_folder: Path) -> Path:
    """Write report.html into the run folder from the files that are there: one file that loads nothing else."""
    path = run_folder / "report.html"
    write_atomically(path, render(read_findings(run_folder)))
    return path


def render(findings: Findings) -> str:
    """The report as HTML, in the recipe's language."""
    words = Words("zh" if findings.recipe.get("language") == "zh" else "en")
    name = str(findings.recipe.get("name") or findings.folder.resolve().name)
    sections = [
        corpus_section(findings, words),
        tokenizer_section(findings, words),
        training_section(findings, words),
        evaluation_section(findings, words),
        tasks_section(findings, words),
        together_section(findings, words),
        _time(findings, words),
    ]
    nothing = None if any(part is not None for part in sections) else tag("p", words("empty"), class_="aside")
    style = resources.files("yanmo.report").joinpath("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", words("title", name=name)),
        tag("style", style),
    )
    main = tag("main", _figures(findings, words), nothing, sections, _next(findings, words), _appendix(findings, words))
    body = tag("body", _masthead(name, findings, words), main, _foot(words))
    return f"<!doctype html>\n{html(tag('html', head, body, lang='zh-Hans' if words.language == 'zh' else 'en'))}\n"


def _masthead(name: str, findings: Findings, words: Words) -> Element:
    config, pieces = findings.model, [f"{task.name} ({words.name(str(task.results.get('task')))})" for task in findings.tasks]
    if pretrains(findings) and (family := config.get("model_type") or dig(findings.recipe, "model", "family")):
        pieces.append(FAMILIES.get(str(family).removeprefix("yanmo-"), str(family)))
    layers = real(config.get("num_hidden_layers", config.get("n_layer")))
    width = real(config.get("hidden_size", config.get("n_embd")))
    if layers and width and (parameters := findings.parameters):
        pieces.append(words("model.line", layers=count(layers), width=count(width), parameters=short(parameters)))
    if vocabulary := real(findings.tokenizer.get("size", config.get("vocab_size"))):  # the network's may be padded
        pieces.append(words("vocabulary.line", size=count(vocabulary)))
    signs = [tag("text", sign, x=24, y=y, class_="middle") for sign, y in (("研", 22), ("墨", 42))]
    square = tag("rect", x=1.5, y=1.5, width=45, height=45, rx=5)
    box = {"view_box": "0 0 48 48", "width": 56, "height": 56}
    seal = tag("svg", square, signs, **box, role="img", aria_label="研墨", lang="zh-Hans")
    title = tag("div", tag("h1", name), tag("p", " · ".join(pieces) or words("motto")))
    return tag("header", seal, title, class_="masthead")


def _figures(findings: Findings, words: Words) -> Element | None:
    """The line of the most important figures; of a run that pretrains nothing those of its tasks, of one without a model those of
    its corpus."""
    tasks = [shown for task in findings.tasks if (shown := shown_best(task, words))]
    shown = _model_figures(findings, words) or tasks or _corpus_figures(findings, words)
    if seconds := sum(findings.seconds.values()):
        shown.append((words("figure.minutes"), words.duration(seconds), ""))
    cells = [tag("div", tag("dt", label), tag("dd", value, tag("small", note) if note else None)) for label, value, note in shown]
    return tag("dl", cells, class_="figures") if cells else None


def _model_figures(findings: Findings, words: Words) -> list[tuple[str, str, str]]:
    report, shown = findings.evaluation, []
    losses = mapping(report.get("losses")) or (findings.validation[-1]["losses"] if findings.validation else {})
    if name := main_loss(losses):
        perplexity = real(report.get("perplexity"))
        note = words("figure.perplexity.note", value=decimal(perplexity, 1)) if perplexity else words("figure.loss.note")
        shown.append((words("figure.loss"), decimal(losses[name]), note))
    if (bits := real(report.get("bits_per_byte"))) is not None:
        note = words.known(f"figure.bits_per_byte.{report.get('bits_per_byte_by')}") or words("figure.bits_per_byte.note")
        shown.append((words("figure.bits_per_byte"), decimal(bits), note))
    if (accuracy := real(report.get("masked_accuracy"))) is not None:
        baseline = real(report.get("baseline_accuracy"))
        note = "" if baseline is None else words("figure.accuracy.note", value=percent(baseline))
        shown.append((words("figure.accuracy"), percent(accuracy), note))
    if rate := speed(findings):
        share = real(findings.speed.get("share_of_matrix_rate"))
        note = words("figure.speed.note", share=percent(share)) if share else ""
        shown.append((words("figure.speed"), count(rate), note))
    return shown


def _corpus_figures(findings: Findings, words: Words) -> list[tuple[str, str, str]]:
    read, kept, kept_bytes = corpus_totals(findings.corpus)
    if not read:
        return []
    return [
        (words("figure.documents"), count(kept), words("figure.documents.note", total=count(read))),
        (words("figure.bytes"), size(kept_bytes), ""),
    ]


def _time(findings: Findings, words: Words) -> Element | None:
    seconds = findings.seconds
    longest = max(seconds.values(), default=0.0) or 1.0
    bars = [
        Bar(words.known(f"stage.{stage}") or stage, words.duration(spent), spent / longest) for stage, spent in seconds.items()
    ]
    lead = words("time.lead", time=words.duration(sum(seconds.values())))
    return section("time", words("time"), lead, bar_chart(words("time.stages"), bars) if bars else None)


def pretrains(findings: Findings) -> bool:
    """Whether the run has text of its own; one of tasks alone begins with models that are there."""
    return bool(findings.model or dig(findings.recipe, "corpus", "sources")) or not mapping(findings.recipe.get("tasks"))


def _loading(use: Use, path: str) -> str:
    """Python that loads the model: transformers' where it knows the network."""
    if use.auto is None:
        return f"import yanmo\nmodel, tokenizer = yanmo.load({path!r})"
    return (
        f"from transformers import AutoTokenizer, {use.auto}\n"
        f"tokenizer = AutoTokenizer.from_pretrained({path!r})\n"
        f"model = {use.auto}.from_pretrained({path!r})"
    )


def _next(findings: Findings, words: Words) -> Element | None:
    """The commands that go on from here, with this run's own paths."""
    folder = shlex.quote(str(findings.folder))
    recipe, model = f"{folder}/recipe.yaml", f"{folder}/pretrain/model"
    commands: dict[str, str] = {}
    if findings.model:
        family = str(findings.model.get("model_type"))
        use = USES[KIND_OF[family.removeprefix("yanmo-")]]
        use = replace(use, auto=None) if family.startswith("yanmo-") else use
        if use.verb == "generate":
            commands["next.generate"] = f"yanmo generate {model} --prompt {shlex.quote(words('next.prompt'))}"
        elif use.verb == "fill":
            commands["next.fill"] = f"yanmo fill {model} {shlex.quote(words('next.gap'))}"
        elif use.verb == "sample":
            commands["next.sample"] = f"yanmo sample {model}"
        else:
            commands["next.score"] = f"yanmo score {model} {shlex.quote(words('next.prompt'))}"
        commands["next.load" if use.auto else "next.own"] = _loading(use, str(findings.folder / "pretrain" / "model"))
    for task in findings.tasks[:1]:
        adapted = shlex.quote(str(task.folder / "model"))
        commands["next.predict"] = command_of(str(task.results.get("task")), adapted)
        commands["next.measure"] = f"yanmo evaluate {adapted} my-test.jsonl"
    if findings.recipe and not pretrains(findings):
        commands["next.again"] = f"yanmo run {recipe}"
        commands["next.verify"] = f"yanmo verify {folder}"
    elif findings.recipe:
        name = str(findings.recipe.get("name") or "run")
        if findings.model:
            longer = shlex.quote(f"name={name}-30-minutes")
            family, version = (dig(findings.recipe, "model", key) for key in ("family", "version"))
            if "training.minutes" not in unread(family, version):
                commands["next.longer"] = f"yanmo run {recipe} {longer} training.minutes=30"
            commands["next.text"] = f"yanmo run {recipe} name=mine 'corpus.sources=[my-texts/*.txt]'"
        else:
            commands["next.train"] = f"yanmo run {recipe}"
        commands["next.verify"] = f"yanmo verify {folder}"
    first = findings.tasks[0].name if findings.tasks else ""
    said = {key: words(key, task=first) if key == "next.predict" else words(key) for key in commands}
    shown = [tag("div", tag("p", said[key]), _code(command), class_="command") for key, command in commands.items()]
    return section("next", words("next"), "", *shown)


def _appendix(findings: Findings, words: Words) -> list[Element]:
    """The recipe and the environment, folded; and what could not be read."""
    rows = [(words.known(f"environment.{name}") or name, str(value)) for name, value in findings.environment.items()]
    contents = {
        "recipe": _code(findings.recipe_text) if findings.recipe_text.strip() else None,
        "environment": table("", ["", ""], rows),
    }
    parts = []
    for name, content in contents.items():
        if content is not None:
            summary = tag("summary", words(name), tag("small", words(f"{name}.note")))
            parts.append(tag("details", summary, content, id=name))
    if findings.unreadable:
        parts.append(tag("p", words("unreadable", files=", ".join(findings.unreadable)), class_="aside"))
    return parts


def _code(text: str) -> Element:
    return tag("pre", tag("code", text))


def _foot(words: Words) -> Element:
    when = datetime.now().strftime("%Y-%m-%d %H:%M")
    return tag("footer", tag("span", words("written", when=when, version=__version__)), tag("span", words("motto")))
