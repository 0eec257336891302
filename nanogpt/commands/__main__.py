"""`python -m nanogpt.commands`: the command of the code in the current folder."""

import os
import sys
from pathlib import Path

import typer

from nanogpt.commands.typed import models, recipes, registry, upkeep
from nanogpt.common.command import one_line
from nanogpt.common.errors import UserError
from nanogpt.common.place import CODE, checkout
from nanogpt.common.ready import check

SENT = "NANOGPT_SENT_TO"  # set while the command of one checkout runs another's code

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (models, recipes, registry, upkeep):
    app.add_typer(part.app)


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
        try:
            app(prog_name="nanogpt")
        except SystemExit as end:
            # typer makes a bare exit code of Ctrl-C; who ends so himself has said why
            if end.__context__ and isinstance(end.__context__.__cause__, KeyboardInterrupt):
                print(f"{name}: stopped", file=sys.stderr, flush=True)
            raise


if __name__ == "__main__":
    main()
