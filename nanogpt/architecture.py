"""The shape of a model: the numbers that say what it is.

`formats/hub/config.py` reads and writes them as Hugging Face's `config.json`.
"""

from dataclasses import dataclass
from typing import Literal

Architecture = Literal["gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2"]


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of rotary positions; `model.rotary_table` explains it."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model, and the special ids of its tokenizer, which travel with it."""

    architecture: Architecture
    vocab_size: int
    context: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    n_inner: int
    head_dim: int
    tied: bool
    bias: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    no_rope: tuple[int, ...] = ()  # smollm3: layers, from 0, whose attention knows no positions
    activation: Literal["gelu", "gelu_new"] = "gelu"  # gpt2: exact, or OpenAI's tanh formula
    bos: int | None = None
    eos: int | tuple[int, ...] | None = None  # each of them ends a text
    pad: int | None = None

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases; `bias` alone is of all matrices."""
        return self.bias or self.architecture == "qwen2"

    @property
    def qk_norm(self) -> Literal["none", "head", "full"]:
        """What the norm of queries and keys spans: nothing, each head, or all heads at once."""
        if self.architecture == "olmo2":
            return "full"
        return "head" if self.architecture == "qwen3" else "none"

    @property
    def post_norm(self) -> bool:
        """Whether norms stand after attention and MLP, before these join the stream."""
        return self.architecture == "olmo2"
