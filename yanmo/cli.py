"""The verbs. Each one reads a recipe or a model folder and calls one function; nothing heavy is imported before it is needed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yanmo import __version__
from yanmo.errors import UserError

if TYPE_CHECKING:
    from yanmo.models import Network
    from yanmo.tokenizer import Tokens

app = typer.Typer(
    name="yanmo",
    help="Yanmo (研墨): your own text into your own language model.",
    epilog="Begin with: yanmo run recipes/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that win over the recipe: training.minutes=10")
]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, such as runs/quickstart/pretrain/model.")]
RUNNING, USING, LOOKING = "Make a model", "Use a model", "Look things up"


@app.command(rich_help_panel=RUNNING)
def run(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Do all that a recipe says: corpus, tokenizer, shards, pretraining, evaluation, report. What is done is not done again."""
    _carry_out(recipe, overrides, "report")


@app.command(rich_help_panel=RUNNING)
def corpus(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Read, clean, filter, deduplicate and split the text."""
    _carry_out(recipe, overrides, "corpus")


@app.command(rich_help_panel=RUNNING)
def tokenizer(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Train a tokenizer on the clean text, or take the one that the recipe names."""
    _carry_out(recipe, overrides, "tokenizer")


@app.command(rich_help_panel=RUNNING)
def shards(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Turn the clean text into token shards: all that can be done before training."""
    _carry_out(recipe, overrides, "shards")


@app.command(rich_help_panel=RUNNING)
def pretrain(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Pretrain the network, or go on where it stopped. With several processes: torchrun --nproc_per_node=N -m yanmo pretrain."""
    _carry_out(recipe, overrides, "pretrain")


@app.command(rich_help_panel=RUNNING)
def evaluate(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Measure the pretrained model on the held-out documents."""
    _carry_out(recipe, overrides, "evaluation")


@app.command(rich_help_panel=RUNNING)
def compare(
    comparison: Annotated[Path, typer.Argument(help="A comparison, such as recipes/compare-zh.yaml.")],
    overrides: Overrides = None,
) -> None:
    """Run several recipes on the same text with the same budget, over several seeds, and put them into one table."""
    from yanmo.compare import compare as carry_out

    table, folder = carry_out(comparison, overrides or [])
    print(table)
    print(f"\n{folder / 'results.md'}")


@app.command(rich_help_panel=USING)
def fill(
    model: ModelFolder,
    text: Annotated[str, typer.Argument(help="A sentence with [MASK] where something is to be filled in.")],
    best: Annotated[int, typer.Option("--best", "-k", min=1, help="How many candidates for each gap.")] = 5,
) -> None:
    """Fill in the gaps of a sentence (encoders)."""
    import yanmo
    from yanmo import display

    network, tokens = _load(model)
    for number, candidates in enumerate(yanmo.fill(network, tokens, text, k=best), 1):
        rows = [(candidate.token, f"{candidate.probability:6.1%}   {candidate.text}") for candidate in candidates]
        display.table(f"gap {number}", rows)


@app.command(rich_help_panel=USING)
def generate(
    model: ModelFolder,
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="A beginning, or a text to rewrite; may be repeated.")],
    tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens.")] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token every time.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from so many likeliest tokens; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Draw from the likeliest that make up this probability.")] = 0.95,
    repetition_penalty: Annotated[float, typer.Option(min=0.01, help="Above 1: what was said before is less likely.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
) -> None:
    """Go on from a beginning (decoders), or write what a text becomes (encoder-decoders); it appears as it is made."""
    import yanmo
    from yanmo.models import Seq2Seq

    network, vocabulary = _load(model)
    becomes = " → " if isinstance(network, Seq2Seq) else ""

    def show(index: int, text: str) -> None:
        if len(prompt) == 1:
            print(text, end="", flush=True)

    if len(prompt) == 1:
        print(prompt[0], end=becomes, flush=True)
    written = yanmo.generate(
        network,
        vocabulary,
        prompt,
        max_new_tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        on_text=show,
    )
    if len(prompt) == 1:
        print()
    for one in written if len(prompt) > 1 else []:
        print(f"— {one.prompt}{becomes}{one.text}")


@app.command(rich_help_panel=USING)
def sample(
    model: ModelFolder,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many texts.")] = 5,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token every time.")] = 0.8,
    tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens a text.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same texts.")] = 0,
) -> None:
    """Write texts from nothing (decoders, recurrent networks, n-grams, latent models)."""
    import yanmo

    network, vocabulary = _load(model)
    for one in yanmo.sample(network, vocabulary, count, temperature=temperature, seed=seed, max_tokens=tokens):
        print(one.text)


@app.command(rich_help_panel=USING)
def interpolate(
    model: ModelFolder,
    first: Annotated[str, typer.Argument(help="The text to begin with.")],
    second: Annotated[str, typer.Argument(help="The text to arrive at.")],
    steps: Annotated[int, typer.Option(min=2, help="How many texts, both ends included.")] = 7,
    linear: Annotated[bool, typer.Option("--linear", help="On the straight line, not on the arc.")] = False,
) -> None:
    """Write the texts between two texts (latent models)."""
    import yanmo

    network, tokens = _load(model)
    path = "linear" if linear else "spherical"
    for one in yanmo.interpolate(network, tokens, first, second, steps, path=path):
        print(one.text)


@app.command(rich_help_panel=USING)
def score(
    model: ModelFolder,
    texts: Annotated[list[str] | None, typer.Argument(help="Sentences; by default the lines of standard input.")] = None,
) -> None:
    """Log-probabilities of sentences, in nats: exact for decoders, pseudo-log-likelihood for encoders."""
    import yanmo

    network, tokens = _load(model)
    lines = texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    for line, nats in zip(lines, yanmo.score(network, tokens, lines), strict=True):
        print(f"{nats:.3f}\t{line}")


@app.command(rich_help_panel=LOOKING)
def verify(path: Annotated[Path, typer.Argument(help="A run, corpus, shard, checkpoint or model folder.")]) -> None:
    """Say whether what lies there is whole, and what is broken."""
    from yanmo.verify import verify as look

    looked, broken = look(path)
    for line in looked:
        print(f"looked at {line}")
    for line in broken:
        print(f"BROKEN: {line}")
    print(f"{len(broken)} broken" if broken else "all whole")
    if broken:
        raise typer.Exit(1)


@app.command(rich_help_panel=LOOKING)
def samples() -> None:
    """The sample corpora that come with installed packages."""
    from yanmo import display
    from yanmo.corpus.samples import PREFIX, SAMPLES

    rows = [(PREFIX + name, f"{one.language} · {one.licence} · {one.description}") for name, one in SAMPLES.items()]
    display.table("samples", rows)


@app.command(rich_help_panel=LOOKING)
def schema() -> None:
    """Print the recipe's JSON schema, for editors."""
    import json

    from yanmo.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2, ensure_ascii=False))


@app.command(rich_help_panel=LOOKING)
def env() -> None:
    """Print versions and what the processor can do, for bug reports."""
    from yanmo.environment import as_text, environment

    print(as_text(environment()))


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        print(f"yanmo {__version__}")
        raise typer.Exit


def _load(model: Path) -> tuple[Network, Tokens]:
    """A model folder's network, on the best device there is, and its tokenizer."""
    import yanmo
    from yanmo.parallel import choose_device

    network, tokens = yanmo.load(model)
    return network.to(choose_device()), tokens


def _carry_out(path: Path, overrides: list[str] | None, until: str) -> None:
    from yanmo import display, run
    from yanmo.recipe import read_recipe
    from yanmo.summary import summary

    recipe = read_recipe(path, overrides or [])
    try:
        done = run.carry_out(recipe, until)
    except run.Interrupted:
        again = "the same torchrun command" if run.are_several() else shlex.join(["yanmo", *sys.argv[1:]])
        if run.is_first():
            display.note(f"Stopped, and nothing is lost. To go on: {again}", "bold")
        raise typer.Exit(130) from None
    if run.is_first():
        display.table(recipe.name, summary(done.recipe, done.folder, until))


def main() -> None:
    """The command line; a person's mistake ends with one clear message and status 2, without a traceback."""
    try:
        app()
    except UserError as error:
        from rich.console import Console

        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"yanmo: {error}", style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        print("yanmo: stopped; finished stages are kept, the same command goes on", file=sys.stderr)
        sys.exit(130)
