"""The Transformer, in three dialects with the exact mathematics of their standard names.

gpt2    LayerNorm, learned positions, GELU           (nanoGPT; Radford et al. 2019)
llama   RMSNorm, rotary positions, SwiGLU            (Touvron et al. 2023)
qwen3   llama with RMSNorm on queries and keys       (Yang et al. 2025)

Shapes: B batch, T time (tokens), C channels, H heads, K key-value heads, D head width,
V vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nanogpt.architecture import GPTConfig


class Linear(nn.Linear):
    """A matrix kept in float32 and multiplied in `compute`.

    Casting here, not by autocast, leaves norms, softmax, residuals and attention in float32
    where that is both safer and, on a CPU, much faster.
    """

    compute = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(self.compute)
        return F.linear(x.to(self.compute), self.weight.to(self.compute), bias)


class LayerNorm(nn.Module):
    """Layer norm whose bias can be left out, as nanoGPT's."""

    def __init__(self, width: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def norm(config: GPTConfig) -> nn.Module:
    if config.architecture == "gpt2":
        return LayerNorm(config.n_embd, config.norm_eps, config.bias)
    return nn.RMSNorm(config.n_embd, config.norm_eps)


def rotary_table(config: GPTConfig) -> Tensor:
    """Cosines and signed sines of every position, (2, T, D), after Su et al. 2021.

    With `rope_scaling` as in Llama 3.1 (Grattafiori et al. 2024; its reference `apply_scaling`): a
    pair that turns fewer than `low_freq_factor` times within the original context turns `factor`
    times slower, one that turns more than `high_freq_factor` times stays, between them both mix.
    """
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**half  # radians a token
    if scaling := config.rope_scaling:
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        turns = scaling.original_max_position_embeddings / (2 * math.pi / frequencies)
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        frequencies = (1 - keep) * frequencies / scaling.factor + keep * frequencies
    positions = torch.arange(config.context, dtype=torch.float32)
    angles = torch.outer(positions, frequencies)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn pairs (x[i], x[i + D/2]) by their angles: x (B, H, T, D), table (2, T, D)."""
    cos, sin = table  # the sines of the first half are negative
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


class Cache:
    """Keys and values of the tokens read so far: a layer's are (B, K, tokens, D).

    Args:
        tokens: how many it can hold, at most the context.
    """

    def __init__(self, config: GPTConfig, batch: int, tokens: int, device: torch.device) -> None:
        shape = (config.n_layer, 2, batch, config.n_kv_head, tokens, config.head_dim)
        self.store = torch.empty(shape, device=device)
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + k.shape[2]
        self.store[layer, 0, :, :, self.length : end] = k
        self.store[layer, 1, :, :, self.length : end] = v
        keys, values = self.store[layer, :, :, :, :end].unbind(0)
        return keys, values


SHORT = 256  # tokens, up to which a CPU can keep a weight for each pair of them


class Attention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.widths = [n * config.head_dim for n in (config.n_head, *[config.n_kv_head] * 2)]
        self.head_dim = config.head_dim
        self.dropout = config.dropout
        self.qkv = Linear(config.n_embd, sum(self.widths), bias=config.bias)
        self.out = Linear(self.widths[0], config.n_embd, bias=config.bias)
        if config.architecture == "qwen3":
            self.q_norm = nn.RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = nn.RMSNorm(config.head_dim, config.norm_eps)

    def forward(self, x: Tensor, table: Tensor | None, cache: Cache | None) -> Tensor:
        B, T, _ = x.shape
        H, K = (width // self.head_dim for width in self.widths[:2])
        # (B, T, (H+2K)*D) -> (B, H+2K, T, D); queries and keys are normed and turned together
        heads = self.qkv(x).view(B, T, H + 2 * K, self.head_dim).transpose(1, 2)
        qk, v = heads.split((H + K, K), dim=1)
        if not x.is_cuda:
            qk = qk.float()  # on a CPU elementwise bfloat16 is slower than float32
        if hasattr(self, "q_norm"):
            scales = [n.weight.expand(h, 1, -1) for n, h in ((self.q_norm, H), (self.k_norm, K))]
            qk = F.rms_norm(qk, (self.head_dim,), eps=self.q_norm.eps) * torch.cat(scales)
        if table is not None:
            qk = rotate(qk, table)
        q, k = qk.split((H, K), dim=1)
        dropout = self.dropout if self.training else 0.0
        if cache is None and v.is_cpu and v.dtype == torch.bfloat16 and T <= SHORT and H == K:
            y = short_attention(q, k, v, dropout)
        else:
            mask = None
            if cache is not None:
                if T > 1 and cache.length:
                    mask = torch.ones(T, cache.length + T, dtype=torch.bool, device=x.device)
                    mask = mask.tril(cache.length)
                k, v = cache.extend(self.layer, k, v)
            # flash attention wants bfloat16 on a GPU; on a CPU its backward is five times slower
            q, k, v = (h.to(v.dtype if x.is_cuda else torch.float32) for h in (q, k, v))
            causal = T > 1 and mask is None
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, enable_gqa=H != K)
        # (B, H, T, D) -> (B, T, H*D)
        return F.dropout(self.out(y.transpose(1, 2).reshape(B, T, -1)), self.dropout, self.training)


def short_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Causal attention that keeps all T² weights: on a CPU a third faster than the fused one.

    q, k, v (B, H, T, D); products in the type of `v`, softmax in float32.
    """
    B, H, T, D = v.shape
    # (B, H, T, D) -> (B*H, T, D)
    q, k, v = (h.to(v.dtype).reshape(B * H, T, D) for h in (q, k, v))
    future = torch.full((T, T), -math.inf, dtype=v.dtype).triu(1)
    scores = torch.baddbmm(future, q, k.mT, alpha=D**-0.5)
    weights = F.dropout(scores.softmax(-1, dtype=torch.float32), dropout)
    return (weights.to(v.dtype) @ v).view(B, H, T, D)


class MLP(nn.Module):
    """GELU between two matrices (gpt2), or SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gated = config.architecture != "gpt2"
        self.approximate = "tanh" if config.activation == "gelu_new" else "none"
        self.dropout = config.dropout
        if self.gated:
            self.gate = Linear(config.n_embd, config.n_inner, bias=config.bias)
        self.up = Linear(config.n_embd, config.n_inner, bias=config.bias)
        self.down = Linear(config.n_inner, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gated:
            x = F.silu(self.gate(x)) * self.up(x)
        else:
            x = F.gelu(self.up(x), approximate=self.approximate)
        return F.dropout(self.down(x), self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = norm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, table: Tensor | None, cache: Cache | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), table, cache)
        x = x + self.mlp(self.mlp_norm(x))
        return x


class GPT(nn.Module):
    """Token ids in, the distribution of the next token out.

    Args:
        config: the shape.
        compute: type of the matrix products; parameters and the residual stream stay float32.

    Attributes:
        activation_checkpointing: in training, keep only the input of each block and recompute
            its activations in the backward pass: less memory, a third more time, the same result.
    """

    rotary: Tensor
    activation_checkpointing = False

    def __init__(self, config: GPTConfig, compute: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.architecture == "gpt2":
            self.positions = nn.Embedding(config.context, config.n_embd)
        else:
            self.register_buffer("rotary", rotary_table(config), persistent=False)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = norm(config)
        self.head = Linear(config.n_embd, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, Linear):
                module.compute = compute
        self.reset()
        if config.tied:
            self.head.weight = self.embedding.weight

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the initial weights from torch's generator.

        gpt2: normal 0.02, and 0.02 / sqrt(2 n_layer) into the residual stream, as GPT-2. The others
        start as the identity: matrices into the stream and an untied head are zero, which spares
        the first steps from unlearning noise.
        """
        config = self.config
        gpt2 = config.architecture == "gpt2"
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue  # norms are ones, biases zero
            into_stream = name.endswith(("out.weight", "down.weight"))
            if gpt2:
                std = 0.02 / (2 * config.n_layer) ** 0.5 if into_stream else 0.02
            elif name == "embedding.weight":
                std = 0.02 if config.tied else 1.0
            elif into_stream or name == "head.weight":
                std = 0.0
            else:
                std = parameter.shape[1] ** -0.5
            parameter.normal_(0.0, std) if std else parameter.zero_()
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()

    def forward(
        self, ids: Tensor, targets: Tensor | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Read `ids` (B, T), after what `cache` holds; T and the cached length within the context.

        Returns:
            logits (B, T, V) in float32, and with `targets` (B, T) each token's loss in nats (B, T).
        """
        T = ids.shape[1]
        start = cache.length if cache else 0
        x = self.embedding(ids)  # (B, T, C)
        table = None
        if self.config.architecture == "gpt2":
            x = x + self.positions(torch.arange(start, start + T, device=ids.device))
        else:
            table = self.rotary[:, start : start + T]
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, table, cache, use_reentrant=False)
            else:
                x = block(x, table, cache)
        if cache is not None:
            cache.length += T
        logits = self.head(self.norm(x)).float()  # (B, T, V)
        if targets is None:
            return logits, None
        # (B, T, V) -> (B*T, V), and the losses back to (B, T)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return logits, losses.view_as(targets)

    def fused_rows(self) -> dict[Tensor, list[int]]:
        """Matrices that hold several: the rows of queries, keys and values."""
        return {m.qkv.weight: m.widths for m in self.modules() if isinstance(m, Attention)}

    def flops_per_token(self, context: int) -> float:
        """Operations of a training step for each token of windows of `context` tokens.

        Source: Chowdhery et al. 2022, appendix B.
        """
        c = self.config
        matrices = sum(m.weight.numel() for m in self.modules() if isinstance(m, Linear))
        return 6.0 * matrices + 12.0 * c.n_layer * c.n_head * c.head_dim * context

    def parameter_count(self) -> int:
        """Number of weights; a tied head is counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
