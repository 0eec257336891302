"""Upload a model directory to the Hugging Face hub; it is a repository in the hub's form already.

python -m nanogpt.push --model models:/nanogpt-shakespeare@champion --repo user/name --dry-run
python -m nanogpt.push --model data/shakespeare/model --repo user/name --public
"""

import argparse
import re
import sys
from pathlib import Path

import yaml

from nanogpt.errors import UserError
from nanogpt.export import one_line, open_model
from nanogpt.hub import LOGIN
from nanogpt.sources import fault
from nanogpt.weights import load_model


def push(folder: Path, repo: str, public: bool, dry_run: bool) -> None:
    """Check that a model directory loads and has a card; then upload it, or say what would be.

    Args:
        repo: `user/name`; it is created if it is not there.
        public: whether a new repository is for everyone to see.

    Raises:
        UserError: the model or its card is of no use, nobody is logged in, or the hub refuses.
    """
    import huggingface_hub as hub  # it costs half a second
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"--repo {repo!r} is not of the form user/name")
    try:
        card = hub.ModelCard.load(folder / "README.md")
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"the model card, {folder}/README.md, is of no use: {error}") from None
    load_model(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    print(f"{repo}, {'public' if public else 'private'} if it is new:")
    for path in files:
        print(f"{path.stat().st_size:>15,}  {path.relative_to(folder)}")
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
        url = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id, folder_path=folder, commit_message="Upload the model"
        )
    except Exception as error:  # the library raises many unrelated kinds
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        if status in (401, 403):
            raise UserError(
                f"the hub does not let you write to {repo}: {LOGIN} with a token that may write"
            ) from None
        raise UserError(f"{repo} was not uploaded: {fault(error)}") from None
    print(url)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="a model directory, or models:/name@alias")
    parser.add_argument("--repo", required=True, help="user/name")
    parser.add_argument("--public", action="store_true", help="a new repository is for everyone")
    parser.add_argument("--dry-run", action="store_true", help="say what would be uploaded")
    args = parser.parse_args()
    with open_model(args.model) as (_, folder):
        push(folder, args.repo, args.public, args.dry_run)


if __name__ == "__main__":
    with one_line("push"):
        main()
