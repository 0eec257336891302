"""What is done with a model: sample, talk, serve, score, hand on."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nanogpt.commands.typed.options import Model, Recipe
from nanogpt.common.errors import UserError
from nanogpt.common.recipe import find_recipe

app = typer.Typer()
Asked = Annotated[
    str | None, typer.Option(help="A directory or models:/<name>@<alias>; else the recipe's.")
]


@app.command()
def sample(
    prompt: Annotated[str | None, typer.Option(help="What to go on from.")] = None,
    model: Asked = None,
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
    model: Asked = None,
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
