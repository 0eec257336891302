"""What a person types: `nanogpt <command>`, which the make targets are shortcuts of.

    nanogpt --help
    python -m nanogpt.commands --help           # the same, of the current folder's own code

The command of one checkout, typed in another, runs the other's code. Each command imports what it
needs when it runs, so that `--help` answers at once.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from nanogpt.common.command import one_line
from nanogpt.common.errors import UserError
from nanogpt.common.place import CODE, checkout
from nanogpt.common.ready import check
from nanogpt.common.recipe import find_recipe

SENT = "NANOGPT_SENT_TO"  # set while the command of one checkout runs another's code

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Argument(help="A model directory, or models:/<name>@<alias>.")]
Recipe = Annotated[
    Path,
    typer.Option(help="A recipe, by its folder or its name.", parser=find_recipe, metavar="RECIPE"),
]
Registered = Annotated[
    str | None, typer.Option(help="models:/<name>, else the recipe's.", metavar="MODEL")
]
Reason = Annotated[str, typer.Option(help="Why, in a sentence; the history keeps it.")]


@app.callback()
def everywhere(context: typer.Context) -> None:
    """Train, sample and hand on small GPTs; what takes stages is run by `dvc repro`."""
    if checkout() is None:
        raise UserError(
            f"this command belongs to the checkout {CODE}, and {Path.cwd()} is in none; change into"
            " a checkout"
        )
    if context.invoked_subcommand != "clean":  # which makes the room that may be wanting
        check(None)


@app.command()
def sample(
    prompt: Annotated[str | None, typer.Option(help="What to go on from.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A directory or models:/<name>@<alias>; else the recipe's.")
    ] = None,
    recipe: Recipe = Path(),
    chat: Annotated[
        bool | None, typer.Option(help="The prompt is a question; else if it learned from talk.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="How many texts.")] = None,
    tokens: Annotated[int | None, typer.Option(help="New tokens of each.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: the likeliest token.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep this share of probability.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Keep tokens this many times as likely as the likeliest.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: what the text has is less likely.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="A text ends before it; may be given several times.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed, other texts.")] = None,
) -> None:
    """Have a model go on from a prompt, or answer it.

    What is not given stands in the recipe's params.yaml.
    """
    from nanogpt.commands.sample import play

    options: dict[str, Any] = {
        "samples": samples,
        "tokens": tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": stop or None,
        "seed": seed,
    }
    given = {key: value for key, value in options.items() if value is not None}
    play(recipe, model, prompt, chat, given)


@app.command()
def chat(
    model: Annotated[
        str | None, typer.Option(help="A directory or models:/<name>@<alias>; else the recipe's.")
    ] = None,
    recipe: Recipe = Path(),
    chat: Annotated[
        bool | None, typer.Option(help="Answer, or go on with the text; else if it learned to.")
    ] = None,
) -> None:
    """Talk with a model; what can be set meanwhile, /help says.

    How it draws stands in the recipe's params.yaml.
    """
    from nanogpt.commands.chat import chat as talk

    talk(recipe, model, chat)


@app.command()
def export(
    model: Model,
    format: Annotated[str, typer.Option(help="hf, gguf, or peft: the adapters alone.")] = "hf",
    dtype: Annotated[
        str | None, typer.Option(help="hf: F32, F16, BF16; gguf: F16, F32, Q8_0.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder; exports/<name>/<format> at the root if left out.")
    ] = None,
) -> None:
    """Write a model as a Hugging Face repository, GGUF or adapters."""
    from nanogpt.commands.export import write

    print(write(model, format, dtype, out))


@app.command()
def compare(
    a: Model,
    b: Model,
    text: Annotated[
        Path | None, typer.Option(help="A text; else the held-out one of the first's recipe.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Whose text and prompt; else the first's own.",
            parser=find_recipe,
            metavar="RECIPE",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file for the page, in Markdown.")] = None,
) -> None:
    """Show how far two models differ on one text, how sure that is, and where."""
    from nanogpt.commands.compare import compare

    compare(a, b, text, recipe, out)


@app.command()
def push(
    model: Model,
    repo: Annotated[str, typer.Option(help="user/name")],
    public: Annotated[
        bool, typer.Option("--public", help="The repository is for everyone to read.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
) -> None:
    """Upload a model to the Hugging Face hub."""
    from nanogpt.commands.export import open_model
    from nanogpt.commands.push import upload

    with open_model(model) as (_, folder):
        upload(folder, repo, public, dry_run)


@app.command()
def attest(
    model: Annotated[str, typer.Argument(help="models:/<name>@<alias>, or /<version>.")],
    key: Annotated[Path | None, typer.Option(help="A private key, PEM, that signs.")] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Sigstore signs, for whom a login names.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="A folder; attested/<name>-<version> if left out.")
    ] = None,
) -> None:
    """Sign a registered version, with a statement of what it was made of."""
    from nanogpt.commands.attest import attest

    if (key is None) != keyless:
        raise UserError("say who signs: --key private.pem (KEY=), or --keyless")
    print(attest(model, key.expanduser() if key else None, out))


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="A signed folder, or models:/<name>@<alias>.")],
    key: Annotated[Path | None, typer.Option(help="The public key, PEM, of who signed.")] = None,
    identity: Annotated[str | None, typer.Option(help="Without a key: who signed.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Without a key: who says so, a URL.")] = None,
) -> None:
    """Check that each file of a model is as it was signed, and say what it was made of."""
    from nanogpt.commands.verify import verifier, verify

    verify(model, verifier(key, identity, issuer))


@app.command("check")
def check_recipe(recipe: Recipe = Path()) -> None:
    """Refuse what a recipe asks for and can never get, before anything is fetched."""
    from nanogpt.settings import load
    from nanogpt.sizing.ahead import before_download

    settings = load(recipe / "params.yaml")
    os.chdir(recipe / settings.root)  # from where a recipe names its files
    if note := before_download(settings):
        print(note)


@app.command()
def report(
    recipe: Recipe = Path(),
    as_json: Annotated[
        bool, typer.Option("--json", help="What MLflow knows of the model, and its pages.")
    ] = False,
) -> None:
    """Show what came out of a recipe's last run."""
    from nanogpt.commands.report import as_known, show

    if as_json:
        print(json.dumps(as_known(recipe), indent=1))
    else:
        show(recipe)


@app.command()
def tokens(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="A recipe, by its folder or its name.", parser=find_recipe, metavar="[RECIPE]"
        ),
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what a vocabulary made of a recipe's text, and what the text is."""
    from nanogpt.commands.tokens import show

    show(recipe, as_json)


@app.command()
def size(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="A recipe, by its folder or its name.", parser=find_recipe, metavar="[RECIPE]"
        ),
    ] = Path(),
    depth: Annotated[
        int | None,
        typer.Option(help="Layers, which set the rest; else it is sized as it is.", min=1),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="Tokens a weight; 20, or what 4 epochs give, if left out.", min=1e-3, max=1e6
        ),
    ] = None,
    aspect: Annotated[
        float | None,
        typer.Option(help="Width a layer; the recipe's own if left out.", min=1, max=1e6),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Write it, as pipelines/<name>.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time ten real steps here.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what a training will take: parameters, operations, memory, time; at another depth too."""
    from nanogpt.commands.size import size

    size(recipe, depth, ratio, aspect, name, measure, as_json)


@app.command()
def scaling(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="A recipe, by its folder or its name.", parser=find_recipe, metavar="[RECIPE]"
        ),
    ] = Path(),
    depths: Annotated[
        str | None, typer.Option(help="Such as 2,3,4; from half the recipe's own if left out.")
    ] = None,
    largest: Annotated[
        float | None,
        typer.Option(
            help="Operations of the largest; 1/4 of the recipe's if left out.", min=1, max=1e30
        ),
    ] = None,
    budgets: Annotated[int, typer.Option(help="Each half of the next.", min=1, max=30)] = 5,
    seeds: Annotated[int, typer.Option(help="Trainings of each.", min=1, max=100)] = 2,
    hours: Annotated[float, typer.Option(help="To promise a loss for.", min=1e-3, max=1e6)] = 8.0,
    check: Annotated[
        float | None,
        typer.Option(
            help="Train so many times more than the largest, and compare.", min=1, max=1e6
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Train a ladder of small models, fit their scaling law, and promise what more time brings."""
    from nanogpt.commands.scaling import scale

    try:
        chosen = [int(depth) for depth in depths.split(",")] if depths else []
    except ValueError:
        chosen = [0]
    if any(depth < 1 for depth in chosen):
        raise UserError(f"--depths {depths}: should be numbers of layers, such as 2,3,4")
    scale(recipe, chosen, largest, budgets, seeds, hours, check, as_json)


@app.command()
def lineage(
    model: Annotated[
        str | None, typer.Argument(help="models:/<name>@<alias>, a model directory or a run's id.")
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(help="What was made from it: a file, folder, digest, corpus or base."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the record, settings, lock and diff.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show where a model comes from, or all that was made from something."""
    from nanogpt.commands.lineage import show, show_made_of

    if (model is None) == (of is None) or (of is not None and out is not None):
        raise UserError("say a model, to see where it comes from, or --of what was made from it")
    if of is not None:
        show_made_of(of, as_json)
    elif model is not None:
        show(model, out, as_json)


@app.command()
def history(
    recipe: Recipe = Path(),
    model: Registered = None,
    as_json: Annotated[bool, typer.Option("--json", help="With the evidence of each.")] = False,
) -> None:
    """Show every move of a model's aliases: when, from, to, why, by whom."""
    from nanogpt.commands.history import show

    show(recipe, model, as_json)


@app.command()
def promote(
    model: Annotated[
        str, typer.Argument(help="models:/<name>/<version> or models:/<name>@<alias>")
    ],
    reason: Reason,
) -> None:
    """Make a version champion, whatever it scores."""
    from nanogpt.commands.history import promote

    promote(model, reason)


@app.command()
def rollback(reason: Reason, recipe: Recipe = Path(), model: Registered = None) -> None:
    """Make the champion before the present one champion again; twice, the one before that."""
    from nanogpt.commands.history import rollback

    rollback(recipe, model, reason)


@app.command()
def differ(
    model: Model,
    other: Model,
    tokens: Annotated[
        Path | None, typer.Option(help="Of a recipe: both are scored on its split val.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens in a window; the model's own if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say how far two models are apart: files, weights, loss."""
    from nanogpt.commands.differ import as_text, compare

    found = compare(model, other, tokens, context)
    print(json.dumps(found, indent=1) if as_json else as_text(found))


@app.command()
def reproduced(
    model: Model,
    verdict: Annotated[str | None, typer.Option(help="One more, to be kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what `make reproduce` found of a version; the newest first."""
    from nanogpt.tracking.versions.reproduced import about, keep

    if verdict:
        keep(model, verdict)
        return
    known = about(model)
    if as_json:
        print(json.dumps(asdict(known), indent=1))
    else:
        print("\n".join(known.verdicts) or f"{known.model} was not built again yet")


@app.command()
def machine() -> None:
    """Print what decides the bytes of a training on this machine, as JSON."""
    from nanogpt.commands.machine import about

    print(json.dumps(about(), indent=1))


@app.command()
def sync() -> None:
    """Send MLflow what waits because its server did not answer."""
    from nanogpt.tracking.outbox import send_all

    sys.exit(send_all())


@app.command("upgrade-mlflow")
def upgrade_mlflow() -> None:
    """Upgrade the local database of an older MLflow, and keep a copy of it as it was."""
    from nanogpt.tracking.upgrade import upgrade

    print(upgrade())


@app.command()
def clean(
    names: Annotated[list[Path] | None, typer.Argument(help="Some of them; else all.")] = None,
    states: Annotated[bool, typer.Option("--states", help="What trainings resume from.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove, and not only list.")] = False,
) -> None:
    """List what trainings that were stopped have left, or remove it."""
    from nanogpt.commands.clean import clean

    if not states:
        raise UserError("say what: --states lists what trainings resume from, --remove removes it")
    clean(names or [], remove)


@app.command()
def serve(
    models: Annotated[list[str], typer.Argument(help="Directories, or models:/<name>@<alias>.")],
    host: Annotated[str, typer.Option(help="Whose address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="What clients have to show; on the command line every user here can read it.",
            envvar="NANOGPT_API_KEY",
            show_envvar=True,
        ),
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="A file that holds it.")] = None,
    slots: Annotated[int, typer.Option(help="Texts of a model that run at once.", min=1)] = 16,
    queue: Annotated[int, typer.Option(help="Texts of a model that wait.", min=0)] = 64,
    max_n: Annotated[int, typer.Option(help="Texts of one request.", min=1)] = 16,
    max_tokens: Annotated[int, typer.Option(help="New tokens of a text.", min=1)] = 4096,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.", min=1)] = 1 << 20,
    seconds: Annotated[float, typer.Option(help="Of an answer, with its wait.", min=0.1)] = 600,
    patience: Annotated[
        float, typer.Option(help="Seconds for a client to send a request, or to read on.", min=0.1)
    ] = 20,
    grace: Annotated[
        float, typer.Option(help="Seconds for running answers after SIGTERM or Ctrl-C.", min=0)
    ] = 30,
    follow: Annotated[
        float, typer.Option(help="Seconds between looks whether an alias moved.", min=0.1)
    ] = 5,
) -> None:
    """Serve models as OpenAI's clients know it, with a page to play, until Ctrl-C."""
    from nanogpt.commands.serve import serve
    from nanogpt.serving.models import Limits

    if api_key_file:
        if api_key is not None:
            raise UserError("say --api-key (or NANOGPT_API_KEY), or --api-key-file, and not both")
        try:
            api_key = api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--api-key-file {api_key_file} cannot be read: {error}") from None
    limits = Limits(slots, queue, max_n, max_tokens, max_body, seconds, patience, grace)
    serve(models, host, port, api_key, limits, follow)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Of the pages, on this machine alone.")] = 5000,
    links: Annotated[bool, typer.Option("--links", help="Say where they are, and end.")] = False,
) -> None:
    """Show the runs and the registry: MLflow's own pages, until Ctrl-C."""
    from nanogpt.commands.ui import addresses, serve

    if not links:
        serve(port)
        return
    for what, address in addresses(port).items():
        print(f"{what}\t{address}")


def main() -> None:
    """The command `nanogpt`."""
    here = checkout()
    if here and not here.samefile(CODE):
        if os.environ.get(SENT) == str(here):
            sys.exit(
                f"nanogpt: cannot run the code of {here} from here: that of {CODE} is in its way"
            )
        paths = os.environ.get("PYTHONPATH")
        environment = os.environ | {SENT: str(here)}
        environment["PYTHONPATH"] = os.pathsep.join([str(here), *([paths] if paths else [])])
        command = [sys.executable, "-m", "nanogpt.commands", *sys.argv[1:]]
        os.execve(sys.executable, command, environment)
    name = next((word for word in sys.argv[1:] if not word.startswith("-")), "nanogpt")
    with one_line(name):
        app(prog_name="nanogpt")
