"""Upload a model directory to the Hugging Face hub; it is a repository in the hub's form already.

nanogpt push models:/nanogpt-shakespeare@champion --repo user/name --dry-run
nanogpt push data/shakespeare/model --repo user/name --public
"""

import re
import sys
from contextlib import suppress
from glob import escape
from pathlib import Path

import yaml

from nanogpt.commands.export import shared_files
from nanogpt.common.errors import NotNow, UserError
from nanogpt.formats.weights import load_model
from nanogpt.sources.fetch import fault
from nanogpt.sources.hub import LOGIN


def upload(folder: Path, repo: str, public: bool, dry_run: bool) -> None:
    """Check that a model directory loads and has a card; then upload it, or say what would be.

    Args:
        repo: `user/name`; it is created if it is not there.
        public: whether a new repository is for everyone to see; one that is there and is so
            already wants this as well.

    Raises:
        UserError: the model or its card is of no use, nobody is logged in, or the hub refuses.
        NotNow: the hub does not answer.
    """
    import huggingface_hub as hub  # it costs half a second
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"--repo {repo!r} is not of the form user/name")
    try:
        card = hub.ModelCard.load(folder / "README.md")
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"the model card, {folder}/README.md, is of no use: {error}") from None
    load_model(folder)
    names = shared_files(folder)
    print(f"{repo}, {'public' if public else 'private'} if it is new:")
    for name in names:
        print(f"{(folder / name).stat().st_size:>15,}  {name}")
    print(f"---\n{card.data.to_yaml()}\n---")
    if dry_run:
        print("nothing was uploaded: this was a dry run")
        return
    if hub.get_token() is None:
        raise UserError(f"nobody is logged in to the Hugging Face hub: {LOGIN}")
    if not sys.stderr.isatty():
        disable_progress_bars()  # they would fill a log
    try:
        api = hub.HfApi()
        with suppress(RepositoryNotFoundError):
            if not public and api.model_info(repo).private is False:
                raise UserError(
                    f"{repo} is there, and for everyone to read; push with --public (PUBLIC=1) if"
                    " the model is to be, or name another --repo"
                )
        url = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id,
            folder_path=folder,
            allow_patterns=[escape(name) for name in names],
            commit_message="Upload the model",
        )
    except UserError:
        raise
    except Exception as error:  # the library raises many unrelated kinds
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        if status in (401, 403):
            raise UserError(
                f"the hub does not let you write to {repo}: {LOGIN} with a token that may write"
            ) from None
        why = fault(error)
        kind = NotNow if why.passing else UserError
        raise kind(f"{repo} was not uploaded: {why}") from None
    print(url)
