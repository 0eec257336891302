"""Data sets of the Hugging Face hub: their text.

HubDataset("Skylion007/openwebtext", "plain_text", commit).fetch(Path("corpus"))
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from nanogpt.common.fields import fields_of
from nanogpt.common.progress import bar, filling
from nanogpt.sources.fetch import SourceError
from nanogpt.sources.hub import check_blob, explain
from nanogpt.text.raw import column_of

SHARD = 1 << 29  # bytes of text in one parquet file: a few hundred MB once compressed

EMPTY = "its train split has no rows"


@dataclass(frozen=True)
class HubDataset:
    """The train split of a data set: its text, in shards of parquet.

    Its files go through the user's ordinary cache of the hub: what broke off goes on there, and
    what is there already is not fetched again.
    """

    id: str
    config: str | None
    revision: str  # a commit, a tag or a branch
    fields: tuple[str, ...] = ("text",)  # as the settings name them

    @property
    def name(self) -> str:
        config = f":{self.config}" if self.config else ""
        return f"hf:{self.id}{config}@{self.revision}"

    def fetch(self, folder: Path) -> str:
        print(f"asking the Hugging Face hub for {self.name} ...", file=sys.stderr, flush=True)
        with self._explained():
            builder, commit = self._builder()
            self._bring_files(builder, commit)
            rows = builder.as_streaming_dataset(split="train")
            split = (builder.info.splits or {}).get("train")
            batches = rows.with_format("arrow").iter(batch_size=1000)
            with bar(split.num_examples if split else None, "copy", " documents") as progress:
                for documents in self._write(batches, folder):
                    progress.update(documents)
        if not any(folder.iterdir()):
            raise SourceError(EMPTY)
        return replace(self, revision=commit).name

    def first_rows(self, count: int) -> list[dict[str, Any]]:
        """The beginning of the data set, for which little of it is fetched. Raises SourceError."""
        with self._explained():
            builder, _ = self._builder()
            return list(builder.as_streaming_dataset(split="train").take(count))

    def _builder(self) -> tuple[Any, str]:
        """What knows the files of the data set, and the commit that they are of."""
        import datasets  # these cost a second; only who needs them waits for them
        import huggingface_hub

        commit = str(huggingface_hub.HfApi().dataset_info(self.id, revision=self.revision).sha)
        return datasets.load_dataset_builder(self.id, self.config, revision=commit), commit

    def _bring_files(self, builder: Any, commit: str) -> None:
        """Fetch the files of the train split, and have the builder read these."""
        from datasets.data_files import DataFilesDict, DataFilesList
        from huggingface_hub import HfApi, constants, hf_hub_download
        from huggingface_hub.file_download import repo_folder_name
        from huggingface_hub.hf_api import RepoFile
        from huggingface_hub.utils.tqdm import disable_progress_bars
        from pyarrow.parquet import read_metadata

        disable_progress_bars()  # ours is shown, in a log as well
        ours = f"hf://datasets/{self.id}@{commit}/"
        remote = (builder.config.data_files or {}).get("train", [])
        if not remote or not all(path.startswith(ours) for path in remote):
            return  # of another place: read from there
        names = [path.removeprefix(ours) for path in remote]
        asked = HfApi().get_paths_info(self.id, names, repo_type="dataset", revision=commit)
        files = {file.path: file for file in asked if isinstance(file, RepoFile)}
        cache = repo_folder_name(repo_id=self.id, repo_type="dataset")
        size = sum(files[name].size for name in names)
        local = []
        with filling(Path(constants.HF_HUB_CACHE) / cache, size, "download"):
            for name in names:
                path = hf_hub_download(self.id, name, repo_type="dataset", revision=commit)
                check_blob(Path(path), files[name], f"dataset/{self.id}")
                local.append(path)
        tables = [path for path in local if path.endswith(".parquet")]
        if tables == local and not sum(read_metadata(path).num_rows for path in tables):
            raise SourceError(EMPTY)  # which `datasets` fails to read
        found = DataFilesList(local, origin_metadata=[(path,) for path in local])
        builder.config.data_files = DataFilesDict({"train": found})

    def _write(self, batches: Iterator[Any], folder: Path) -> Iterator[int]:
        """Write the columns that are named into shards; yields each table's documents."""
        import pyarrow.parquet as pq

        for shard, first in enumerate(batches):
            columns = self._columns(first)
            schema = first.select(columns).schema
            path = folder / f"{shard:05d}.parquet"
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                size = 0
                for batch in chain([first], batches):
                    table = batch.select(columns).cast(schema)
                    writer.write_table(table)
                    yield table.num_rows
                    size += table.nbytes
                    if size >= SHARD:
                        break

    def _columns(self, table: Any) -> list[str]:
        """The columns that the fields are, or are inside of."""
        found = {name: column_of(name, table.column_names) for name in self.fields}
        if not any(found.values()):
            columns = fields_of(table.slice(0, 1).to_pylist()[0], self.fields[0])
            raise SourceError(f"no column {self.fields[0]!r}; its columns: {columns}")
        return list(dict.fromkeys(filter(None, found.values())))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the hub's libraries raise, of many unrelated kinds, as a SourceError."""
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            yield
        except SourceError:
            raise
        except StopIteration:  # what `datasets` makes of files without a row
            raise SourceError(EMPTY) from None
        except OfflineModeIsEnabled as error:
            raise SourceError(str(error)) from error
        except Exception as error:
            raise explain(error, "data set", self.revision) from error
