"""Models of the Hugging Face hub.

    HubModel("openai-community/gpt2", commit).fetch(Path("base"))

A `sources.fetch.Source`, through the user's ordinary cache of the hub: a model that is in there at
the commit asked for needs no network.
"""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from errno import EDQUOT, ENOSPC, EROFS
from pathlib import Path
from typing import TYPE_CHECKING

from nanogpt.common.errors import UserError
from nanogpt.common.progress import bar, filling
from nanogpt.sources.fetch import SourceError, check, fault

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

TIMEOUT = 10  # seconds that the hub may take to say anything at all

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # which tensor is in which file, if they are in several
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
ABOUT = ("config.json", "generation_config.json", *TOKENIZER)
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
HERE = ENOSPC, EDQUOT, EROFS  # the fault is this machine's
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class HubModel:
    """A model's configuration, tokenizer and weights, compared with what its commit says."""

    id: str
    revision: str  # a commit, a tag or a branch
    sha256: str | None = None  # of model.safetensors, where we know it ourselves

    @property
    def name(self) -> str:
        return f"hf:{self.id}@{self.revision}"

    def fetch(self, folder: Path) -> str:
        print(f"asking the Hugging Face hub for {self.name} ...", file=sys.stderr, flush=True)
        from huggingface_hub import HfApi, errors
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # ours is shown, in a log as well
        if re.fullmatch("[0-9a-f]{40}", self.revision):
            with suppress(errors.LocalEntryNotFoundError, errors.CachedRepoTreeNotFoundError):
                return self._copy(folder, self.revision, cached=True)
        try:
            # first, as it fails at once: asked for files, the library tries for half a minute
            info = HfApi().model_info(self.id, revision=self.revision, timeout=TIMEOUT)
        except (errors.HfHubHTTPError, ValueError) as error:
            raise explain(error, "model", self.revision) from error
        except Exception as error:
            reason = f"the Hugging Face hub cannot be reached ({fault(error)})"
            offline = isinstance(error, errors.OfflineModeIsEnabled)
            # another source may do, and at once: this one took its time
            raise SourceError(reason, passing=not offline, at_once=False) from error
        try:
            return self._copy(folder, str(info.sha), cached=False)
        except (SourceError, UserError):
            raise
        except Exception as error:
            if getattr(error, "errno", None) in HERE:
                raise  # no other attempt, and no other source, makes room
            raise explain(error, "model", self.revision) from error

    def _copy(self, folder: Path, commit: str, cached: bool) -> str:
        """Copy from the user's cache what makes the model; what is missing there is fetched.

        Raises:
            LocalEntryNotFoundError, CachedRepoTreeNotFoundError: something is, and is not to be.
        """
        from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
        from huggingface_hub.file_download import repo_folder_name

        def get(names: Collection[str]) -> Path:
            return Path(
                snapshot_download(
                    self.id, revision=commit, allow_patterns=list(names), local_files_only=cached
                )
            )

        snapshot = get([*ABOUT, WEIGHTS, INDEX])
        tree = get_cached_repo_tree(self.id, revision=commit)
        files = {file.path: file for file in tree if "/" not in file.path}
        names = model_files(snapshot, files)
        size = sum(files[name].size for name in names)
        cache = repo_folder_name(repo_id=self.id, repo_type="model")
        with filling(Path(constants.HF_HUB_CACHE) / cache, size, "download"):
            get(names)
        with bar(size, "copy", "B") as progress:
            for name in names:
                shutil.copyfile(snapshot / name, folder / name)
                sha256 = check_blob(folder / name, files[name], f"model/{self.id}")
                check(name, sha256, self.sha256 if name == WEIGHTS else None)
                progress.update(files[name].size)
        return replace(self, revision=commit).name


def explain(error: Exception, kind: str, revision: str) -> SourceError:
    """What the hub said of a `kind` of repository: a model, a data set."""
    from huggingface_hub import errors

    if not isinstance(error, errors.HfHubHTTPError):
        return fault(error)
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return SourceError(f"it is gated: accept its licence on its page, and {LOGIN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(f"the {kind} has no revision {revision!r}")
    if isinstance(error, errors.RepositoryNotFoundError):
        private = f", or it is private: {LOGIN}" if status == 401 else ""
        return SourceError(f"the hub has no such {kind} (check the spelling){private}")
    if status in (401, 403):
        return SourceError(f"the hub does not accept your token: {LOGIN}")
    return fault(error)


def model_files(folder: Path, names: Collection[str]) -> list[str]:
    """Which of the files of a repository make a model that this project reads.

    Args:
        folder: has the index of the shards, if there is one.
        names: of all files in the repository.

    Raises:
        UserError: it has no safetensors, or not all of them, no config.json or no tokenizer.json.
    """
    if WEIGHTS in names:
        weights = [WEIGHTS]
    elif INDEX in names:
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            shards = {str(Path(shard)) for shard in index["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{INDEX} is damaged; fetch it again") from None
        if missing := sorted(shards.difference(names)):
            raise UserError(
                f"{INDEX} names {', '.join(missing)}, which is not there; fetch that too"
            )
        weights = [INDEX, *sorted(shards)]
    else:
        raise UserError(f"it has no {WEIGHTS}{_instead(names)}")
    if "config.json" not in names:
        raise UserError("it has no config.json, so it is not a model in Hugging Face format")
    if "tokenizer.json" not in names:
        raise UserError(
            "it has no tokenizer.json; load the tokenizer with transformers' AutoTokenizer, save it"
            " beside the model with `save_pretrained`, and name that folder"
        )
    return [name for name in ABOUT if name in names] + weights


def _instead(names: Collection[str]) -> str:
    if pickles := sorted(name for name in names if name.endswith(PICKLES)):
        return (
            f", but {', '.join(pickles)}: a pickle, which can run any code when it is read, so it"
            " is not read here; save the model again with transformers' `save_pretrained`, which"
            " writes safetensors, and name that folder"
        )
    if ggufs := sorted(name for name in names if name.endswith(".gguf")):
        return f", but {', '.join(ggufs)}; download one of these and name the file"
    return ""


def check_blob(path: Path, file: "RepoFile", repository: str) -> str:
    """Compare a file with what git knows it by, itself or through git-lfs; returns its SHA-256.

    The library's cache of a commit's list of files keeps no `lfs`, so the pointer is made anew.
    Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    from huggingface_hub.utils.sha import git_hash

    again = f"remove it with `hf cache rm {repository}`"
    actual = path.stat().st_size
    if actual != file.size:
        raise SourceError(f"{path.name} has {actual:,} bytes of {file.size:,}; {again}")
    with path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    lines = "version https://git-lfs.github.com/spec/v1", f"oid sha256:{sha256}", f"size {actual}"
    pointer = "".join(f"{line}\n" for line in lines).encode()
    if file.blob_id != git_hash(pointer):
        with path.open("rb") as opened:
            blob = hashlib.file_digest(opened, lambda: hashlib.sha1(b"blob %d\0" % actual))
        if file.blob_id != blob.hexdigest():
            raise SourceError(f"{path.name} is not what the commit says; {again}")
    return sha256
