"""Models in GGUF, llama.cpp's format: one file with the shape, the tensors and the tokenizer.

    file = read(Path("model.gguf"))
    file.config, file.tokenizer_json()
    for name, array in file.tensors(): ...      # Hugging Face's names; one in memory at a time
    write(Path("model.gguf"), config, tensors, tokenizer_json, "Q8_0")

What changes the mathematics and is not implemented here is refused by name, as in a config.json.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from nanogpt.architecture import GPTConfig, RopeScaling
from nanogpt.common.errors import UserError
from nanogpt.common.files import whole_file
from nanogpt.common.progress import bar
from nanogpt.formats.gguf import tokenizer
from nanogpt.formats.gguf.layout import (
    HEAD_WIDTHS,
    KEYS,
    NO_ROPE,
    OPTIONAL,
    ROPE_FACTORS,
    SCALING,
    architecture,
    arrange,
    names,
    rope_factors,
)
from nanogpt.formats.hub.config import from_hub, to_hub

log = logging.getLogger(__name__)

Dtype = Literal["F32", "F16", "Q8_0"]
FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}


@dataclass(frozen=True)
class Gguf:
    """An opened file, whose shape is understood and whose tensors are all there."""

    path: Path
    config: GPTConfig
    metadata: dict[str, Any]
    stored: list[gguf.ReaderTensor]

    def tensors(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Hugging Face's names and, in their shapes, the tensors, dequantised to float32."""
        theirs = names(self.config)
        for tensor in self.stored:
            if tensor.name == ROPE_FACTORS:
                continue
            array = gguf.dequantize(tensor.data, tensor.tensor_type)
            try:
                array = arrange(self.config, tensor.name, array, into_gguf=False)
            except ValueError as error:
                raise UserError(f"{self.path}: {tensor.name} does not fit: {error}") from None
            yield theirs[tensor.name], np.require(array, np.float32, ["C", "W"])

    def tokenizer_json(self) -> str:
        """The file's tokenizer as a tokenizer.json; UserError if it is not a byte-level BPE."""
        return tokenizer.tokenizer_json(self.path, self.metadata)

    def tokenizer_config(self) -> dict[str, Any]:
        """The tokenizer_config.json that goes with it."""
        return tokenizer.tokenizer_config(self.metadata)


def read(path: Path) -> Gguf:
    """Open a GGUF file of an architecture that is known here; no tensor is read yet.

    Raises:
        UserError: it is no GGUF file or damaged, of another architecture, or has a feature, tensor
            or quantisation that is not known here.
    """
    try:
        reader = gguf.GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path} is no GGUF file, damaged, or newer than the package gguf knows: {error}"
        ) from None
    stored = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in stored.items():
        if not _is_read(tensor.tensor_type):
            known = ", ".join(kind.name for kind in Kind if _is_read(kind))
            raise UserError(
                f"{path}: {name} is quantised as {tensor.tensor_type.name}; read are {known}"
            )
    config = _config(path, metadata, stored)
    known_names = names(config)
    missing = [name for name in known_names if name not in stored]
    if missing:
        raise UserError(f"{path} lacks the tensor {missing[0]}")
    unknown = [name for name in stored if name not in known_names and name != ROPE_FACTORS]
    if unknown:
        raise UserError(f"{path}: no {config.architecture} here has the tensor {unknown[0]}")
    return Gguf(path, config, metadata, reader.tensors)


def write(
    path: Path,
    config: GPTConfig,
    tensors: Mapping[str, NDArray[np.float32]],
    tokenizer_json: str,
    dtype: Dtype,
    chat_template: str | None = None,
) -> None:
    """Write a model as `path`, whole or not at all; the same model always gives the same bytes.

    As by llama.cpp's own converter, norms, biases and learned positions stay F32, and matrices
    whose rows are not whole blocks of Q8_0 become F16.

    Args:
        tensors: by Hugging Face's names; each is asked for twice, and not kept.
        chat_template: how a conversation becomes text, in Jinja.

    Raises:
        UserError: llama.cpp does not have such a tokenizer or such rotary positions.
        OSError: the disk is full.
    """
    model = architecture(config)
    if config.rope_scaling and model != "llama":
        raise UserError(f"llama.cpp has Llama 3's rope_scaling in llama, not in {model}")
    if model == "smollm3" and config.no_rope != tuple(range(config.n_layer)[NO_ROPE]):
        raise UserError(
            "llama.cpp leaves rotary positions out of every fourth layer, and this model out of"
            f" {[*config.no_rope]}, from 0; export it with --format hf"
        )
    if model == "gpt2" and config.activation == "gelu":
        log.warning(
            "llama.cpp computes GELU by OpenAI's tanh formula, which is off by up to 0.0005"
        )
    # all that may be refused comes before the file
    writer = gguf.GGUFWriter(None, model)
    writer.add_name(path.stem)
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    values = to_hub(config)
    for key, theirs in KEYS[model].items():
        _add_number(writer, f"{model}.{key}", values[theirs])
    if model != "gpt2":
        for key in HEAD_WIDTHS:
            writer.add_uint32(f"{model}.{key}", config.head_dim)
    if config.rope_scaling:
        for name, value in asdict(config.rope_scaling).items():
            writer.add_float64(SCALING + name, value)
    tokenizer.add_tokenizer(writer, config, tokenizer_json, chat_template)
    total = 0
    for name, array in _arrays(config, tensors):
        kind = _kind(name, array.shape, dtype)
        _check_range(names(config).get(name, name), array, kind)
        shape = gguf.quant_shape_to_byte_shape(array.shape, kind)
        writer.add_tensor_info(name, shape, np.dtype("u1"), math.prod(shape), kind)
        total += math.prod(shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, bar(total, "export", "B") as progress:
        try:
            writer.write_header_to_file(partial)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            size = _padded(partial.stat().st_size)
            for name, array in _arrays(config, tensors):
                data = gguf.quantize(array, _kind(name, array.shape, dtype))
                writer.write_tensor_data(data)
                size += _padded(data.nbytes)
                progress.update(data.nbytes)
        finally:
            writer.close()
        # numpy's tofile, by which gguf writes, does not look whether its last bytes fit
        if partial.stat().st_size != size:
            raise OSError(f"{path} has no room for its {size:,} bytes; is the disk full?")


def _add_number(writer: gguf.GGUFWriter, key: str, value: float) -> None:
    if not isinstance(value, float):
        writer.add_uint32(key, value)
    elif math.isclose(np.float32(value), value, rel_tol=1e-6):
        writer.add_float32(key, value)
    else:
        raise UserError(
            f"{key}: {value} is beyond the float32 that llama.cpp keeps it in; export it with"
            " --format hf"
        )


def _check_range(name: str, array: NDArray[np.float32], kind: Kind) -> None:
    """Refuse what would become infinite; a block of Q8_0 has a scale in F16 and 127 steps."""
    steps = {Kind.F16: 1, Kind.Q8_0: 127}.get(kind)
    largest = float(np.abs(array).max(initial=0)) if steps else 0.0
    if steps and largest >= steps * 65520:  # less is rounded to 65,504
        raise UserError(
            f"{name} has a value of {largest:,.0f}, too large for {kind.name}; export it with"
            " --dtype F32, or with --format hf --dtype BF16"
        )


def _config(
    path: Path, metadata: dict[str, Any], stored: Mapping[str, gguf.ReaderTensor]
) -> GPTConfig:
    model = str(metadata.get("general.architecture"))
    if model not in KEYS:
        known = ", ".join(KEYS)
        raise UserError(f"{path}: the architecture {model!r} is not known; known: {known}")
    prefix = f"{model}."
    about = {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
    missing = [prefix + k for k in KEYS[model] if k not in about and k not in OPTIONAL]
    missing += [] if "token_embd.weight" in stored else ["token_embd.weight"]
    if missing:
        raise UserError(f"{path} lacks {missing[0]}")
    values = {theirs: about.pop(key, OPTIONAL.get(key)) for key, theirs in KEYS[model].items()}
    # a float32 beside 1e-5 stands for it: take the shortest name that it has
    values = {k: float(str(np.float32(v))) if type(v) is float else v for k, v in values.items()}
    vocab_size = int(stored["token_embd.weight"].shape[-1])
    ends = {key: metadata[key] for key in tokenizer.ENDS if key in metadata}
    for key, number in ends.items():
        if type(number) is not int or number >= vocab_size:
            raise UserError(f"{path}: {key} is {number!r}, and there are {vocab_size} tokens")
    values |= {f"{name}_token_id": metadata.get(tokenizer.IDS[name]) for name in ("bos", "pad")}
    values["eos_token_id"] = list(ends.values())
    values |= {"model_type": model, "vocab_size": vocab_size}
    values["tie_word_embeddings"] = "output.weight" not in stored
    config = replace(from_hub(values, str(path)), dropout=0.0)
    inert = {"vocab_size": vocab_size} | dict.fromkeys(HEAD_WIDTHS, config.head_dim)
    for key, value in about.items():
        if value not in (0, "none", inert.get(key)):
            raise UserError(f"{path}: {prefix}{key}: {value!r} is not implemented")
    if ROPE_FACTORS not in stored:
        return config
    said = {f.name: metadata.get(SCALING + f.name) for f in fields(RopeScaling)}
    return _scaled(path, config, stored[ROPE_FACTORS], said)


def _scaled(
    path: Path, config: GPTConfig, stored: gguf.ReaderTensor, said: dict[str, Any]
) -> GPTConfig:
    """`config` with the rotary scaling whose factors are stored.

    llama.cpp's own file holds what comes of its parameters, and ours holds these as well. All of
    Meta's have three in common; the other shows.
    """
    factors = gguf.dequantize(stored.data, stored.tensor_type)
    scaling = RopeScaling(float(factors.max()), 1.0, 4.0, 8192)
    if None not in said.values():
        original = int(said["original_max_position_embeddings"])
        scaling = RopeScaling(**said | {"original_max_position_embeddings": original})
    expected = rope_factors(config, scaling)
    same = factors.shape == expected.shape and np.allclose(factors, expected, rtol=1e-5)
    if config.architecture != "llama" or not same:
        raise UserError(f"{path}: {ROPE_FACTORS} is not the rotary scaling of a Llama 3")
    return replace(config, rope_scaling=scaling)


def _arrays(
    config: GPTConfig, tensors: Mapping[str, NDArray[np.float32]]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Each tensor under its name, and in its shape, in GGUF."""
    if config.rope_scaling:
        yield ROPE_FACTORS, rope_factors(config, config.rope_scaling)
    for name, theirs in names(config).items():
        yield name, arrange(config, name, tensors[theirs], into_gguf=True)


def _padded(size: int) -> int:
    return gguf.GGUFWriter.ggml_pad(size, gguf.GGUF_DEFAULT_ALIGNMENT)


def _kind(name: str, shape: tuple[int, ...], dtype: Dtype) -> Kind:
    if len(shape) == 1 or name == "position_embd.weight":
        return Kind.F32
    if dtype == "Q8_0" and shape[-1] % gguf.GGML_QUANT_SIZES[Kind.Q8_0][0]:
        return Kind.F16
    return Kind[dtype]


def _is_read(kind: Kind) -> bool:
    """Whether the package can dequantise it; it keeps no list."""
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
