"""Where the repository is, and whose code runs."""

from pathlib import Path

from nanogpt.common.errors import UserError

CODE = Path(__file__).parents[2]  # the checkout that this code lies in


def root() -> Path:
    """The repository: the first folder upwards that DVC was initialised in, or the current one.

    An experiment that DVC runs in a copy under `.dvc/tmp/exps` belongs to the repository itself.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir():
            return Path(folder.as_posix().partition("/.dvc/tmp/exps/")[0])
    return here


def check_code() -> None:
    """Refuse to run the code of one checkout in another, whose `dvc.lock` would record its own.

    Raises:
        UserError: the current folder is not that of this code.
    """
    if Path.cwd() != CODE and not Path.cwd().samefile(CODE):
        raise UserError(
            f"the code that runs is that of {CODE}, and the current folder is {Path.cwd()};"
            " run a stage at the root of its own checkout, without -P and PYTHONSAFEPATH"
        )


def checkout() -> Path | None:
    """The copy of this project that the current folder is in, a DVC experiment's own among them."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir() and (folder / "nanogpt" / "commands").is_dir():
            return folder
    return None
