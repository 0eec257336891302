"""The Transformer, in seven dialects with the exact mathematics of their standard names.

gpt2     LayerNorm, learned positions, GELU                      (nanoGPT; Radford et al. 2019)
llama    RMSNorm, rotary positions, SwiGLU                       (Touvron et al. 2023)
mistral  llama, within the window of its attention               (Jiang et al. 2023)
qwen2    llama with biases on queries, keys and values           (Yang et al. 2024)
qwen3    llama with RMSNorm on the queries and keys of a head    (Yang et al. 2025)
smollm3  llama without rotary positions in some layers           (Bakouch et al. 2025)
olmo2    llama with RMSNorm on all queries and all keys, and its norms after
         attention and MLP instead of before                     (OLMo et al. 2024)

Shapes: B batch, T time (tokens), C channels, H heads, K key-value heads, D head width,
V vocabulary.
"""

import math
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
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
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(x, self.weight.shape, self.weight.float(), bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """Of float32, like LayerNorm: with fsdp their weights come in the type of the products."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight.float(), self.eps)


def eager_on_cpu(x: Tensor) -> bool:
    """Whether gradients will be asked of what is computed here and now, by a CPU."""
    return x.is_cpu and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def rms_norm(x: Tensor, weight: Tensor, eps: float | None) -> Tensor:
    """x / sqrt(mean of x² over a row + eps) · weight: x (..., C), weight (C,) or (H, 1, C)."""
    if eager_on_cpu(x):
        y: Tensor = RowNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return y
    if weight.ndim > 1:
        return F.rms_norm(x, x.shape[-1:], eps=eps) * weight
    return F.rms_norm(x, weight.shape, weight, eps)


class RowNorm(torch.autograd.Function):
    """`rms_norm` on a CPU, which takes two thirds of the time that autograd's parts take.

    dL/dx = (g - h · mean of g h over a row) / rms, with h = x / rms and g = weight · dL/dy.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        scale = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        h: Tensor = x * scale
        ctx.save_for_backward(h, scale, weight)
        return h * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        h, scale, weight = ctx.saved_tensors
        own = (grad * h).sum_to_size(weight.shape) if ctx.needs_input_grad[1] else None
        g = grad * weight
        mean = torch.linalg.vecdot(g, h).div_(-h.shape[-1]).unsqueeze(-1)
        return torch.addcmul(g, h, mean).mul_(scale), own, None


def norm(config: GPTConfig) -> nn.Module:
    if config.architecture == "gpt2":
        return LayerNorm(config.n_embd, config.norm_eps, config.bias)
    return RMSNorm(config.n_embd, config.norm_eps)


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
    """Turn pairs (x[i], x[i + D/2]) by their angles: x (B, H, T, D), table (2, T, D).

    The table of tokens that have positions of their own is (2, B, 1, T, D).
    """
    cos, sin = table  # the sines of the first half are negative
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


# tokens: attention sums whole blocks of them, to which further ones add zeros and change no bit
BLOCK = 16


class Cache:
    """Keys and values of what rows have read so far: a layer's are (B, 2K, tokens, D).

    Rows may have read unequally many tokens; `cache[2:5]` is some of them.

    Args:
        tokens: how many each can hold; rounded up to whole blocks.
        compute: type of the model's products, in which attention computes on a GPU; else it does
            in float32.
    """

    def __init__(
        self,
        config: GPTConfig,
        rows: int,
        tokens: int,
        device: torch.device,
        compute: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.n_layer, rows, 2 * config.n_kv_head, blocks(tokens), config.head_dim)
        dtype = compute if device.type == "cuda" else torch.float32
        # what a mask hides has to be finite, too
        self.store = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(rows, dtype=torch.long)  # on the CPU, which decides by them
        self.where = torch.zeros(0)

    def __getitem__(self, rows: slice) -> "Cache":
        view = copy(self)
        view.store, view.lengths = self.store[:, rows], self.lengths[rows]
        return view

    def grow(self, rows: int, tokens: int) -> None:
        """Be able to hold at least so many rows, and tokens of each."""
        _, had, _, held, _ = self.store.shape
        rows, tokens = max(0, rows - had), max(0, blocks(tokens) - held)
        if rows or tokens:
            self.store = F.pad(self.store, (0, 0, 0, tokens, 0, 0, 0, rows))
            self.lengths = F.pad(self.lengths, (0, rows))

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Let a row have the first tokens of another."""
        self.store[:, target, :, :tokens] = self.store[:, source, :, :tokens]
        self.lengths[target] = tokens

    def prepare(self, tokens: int) -> tuple[Tensor, Tensor | None]:
        """Where each row's next tokens stand, (B, T), and what they see, (B, 1, T, tokens).

        None: each sees all that is before it. One more token of each row sees whole blocks, of
        which a mask hides the end, so that what it sees has the same bits beside any other rows.
        """
        device, (_, B, heads, held, _) = self.store.device, self.store.shape
        positions = self.lengths[:, None] + torch.arange(tokens)
        # (B, 2K, T): the places of new tokens in a layer's (B*2K*held, D)
        where = held * torch.arange(B * heads).view(B, heads, 1) + positions[:, None]
        self.where = where.flatten().to(device)
        self.longest = int(self.lengths.max()) + tokens
        if self.longest == tokens:
            return positions.to(device), None
        if tokens == 1:
            self.longest = blocks(self.longest)
        hidden = torch.arange(self.longest) > positions[:, None, :, None]
        # what is added to scores: of truth values attention would make this in each layer
        mask = torch.zeros(hidden.shape, dtype=self.store.dtype).masked_fill_(hidden, -math.inf)
        return positions.to(device), mask.to(device)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep a layer's new keys and values (B, K, T, D): all of them so far."""
        kept = self.store[layer]
        new = torch.cat((k, v), dim=1).to(kept.dtype)
        # (B, 2K, T, D) -> (B*2K*T, D), to copy whole rows: an index of each axis is far slower
        kept.view(-1, kept.shape[-1]).index_copy_(0, self.where, new.flatten(0, 2))
        keys, values = kept[:, :, : self.longest].chunk(2, dim=1)
        return keys, values


def blocks(tokens: int) -> int:
    """At least so many tokens, in whole blocks."""
    return -(-tokens // BLOCK) * BLOCK


Mask = Tensor | BlockMask | None  # None: a token sees all before it


def document_mask(positions: Tensor, dtype: torch.dtype, flex: bool) -> Tensor | BlockMask:
    """What lets a token see those before it in its own document, and no others.

    Args:
        positions: of tokens in their documents, (B, T): where one is 0 another document begins.
        flex: for FlexAttention (Dong et al. 2024), which spares what is not seen; else what is
            added to scores, (B, 1, T, T) of type `dtype`.
    """
    B, T = positions.shape
    document = (positions == 0).cumsum(1)

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (document[b, q] == document[b, k])

    if flex:
        return create_block_mask(sees, B, None, T, T, device=positions.device)
    seen = (document[:, :, None] == document[:, None, :]).tril()[:, None]
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, -math.inf)


PIECE = 1 << 18  # logits at a time
SHORT = 256  # tokens, up to which a CPU can keep a weight for each pair of them


class Attention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.widths = [n * config.head_dim for n in (config.n_head, *[config.n_kv_head] * 2)]
        self.head_dim = config.head_dim
        self.dropout = config.dropout
        self.turns = layer not in config.no_rope
        self.qkv = Linear(config.n_embd, sum(self.widths), bias=config.qkv_bias)
        self.out = Linear(self.widths[0], config.n_embd, bias=config.bias)
        self.qk_norm = config.qk_norm
        if self.qk_norm != "none":
            widths = self.widths if self.qk_norm == "full" else [config.head_dim] * 2
            self.q_norm = RMSNorm(widths[0], config.norm_eps)
            self.k_norm = RMSNorm(widths[1], config.norm_eps)

    def forward(
        self, x: Tensor, table: Tensor | None, cache: Cache | None, mask: Mask = None
    ) -> Tensor:
        B, T, _ = x.shape
        H, K = (width // self.head_dim for width in self.widths[:2])
        # (B, T, (H+2K)*D) -> (B, H+2K, T, D); queries and keys are normed and turned together
        heads = self.qkv(x).view(B, T, H + 2 * K, self.head_dim).transpose(1, 2)
        qk, v = heads.split((H + K, K), dim=1)
        if not x.is_cuda:
            qk = qk.float()  # on a CPU elementwise bfloat16 is slower than float32
        if self.qk_norm == "full":
            # (B, H, T, D) -> (B, T, H*D), and back
            flat = (h.transpose(1, 2).flatten(2).float() for h in qk.split((H, K), dim=1))
            normed = [n(h) for n, h in zip((self.q_norm, self.k_norm), flat, strict=True)]
            qk = torch.cat(normed, dim=-1).view(B, T, H + K, -1).transpose(1, 2)
        elif self.qk_norm == "head":
            scales = [n.weight.expand(h, 1, -1) for n, h in ((self.q_norm, H), (self.k_norm, K))]
            qk = rms_norm(qk, torch.cat(scales).float(), self.q_norm.eps)
        if table is not None and self.turns:
            qk = rotate(qk, table)
        q, k = qk.split((H, K), dim=1)
        dropout = self.dropout if self.training else 0.0
        if cache is None and v.is_cpu and v.dtype == torch.bfloat16 and T <= SHORT and H == K:
            assert not isinstance(mask, BlockMask)
            y = short_attention(q, k, v, dropout, mask)
        else:
            if cache is not None:
                k, v = cache.extend(self.layer, k, v)
            # flash attention wants bfloat16 on a GPU; on a CPU its backward is five times slower
            q, k, v = (h.to(v.dtype if x.is_cuda else torch.float32) for h in (q, k, v))
            if isinstance(mask, BlockMask):
                y = flex_attention(q, k, v, block_mask=mask, enable_gqa=H != K)
            else:
                causal = T > 1 and mask is None
                # on a GPU flash attention alone lets heads share keys: it has no mask, no float32,
                # and no GPU that takes float16 for want of bfloat16. Unshared, another is fused
                if x.is_cuda and H != K and (mask is not None or v.dtype != torch.bfloat16):
                    # (B, K, T, D) -> (B, H, T, D)
                    k, v = (
                        h[:, :, None].expand(-1, -1, H // K, -1, -1).flatten(1, 2) for h in (k, v)
                    )
                y = F.scaled_dot_product_attention(
                    q, k, v, mask, dropout, causal, enable_gqa=k.shape[1] != H
                )
        # (B, H, T, D) -> (B, T, H*D)
        return F.dropout(self.out(y.transpose(1, 2).reshape(B, T, -1)), self.dropout, self.training)


def short_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float, mask: Tensor | None) -> Tensor:
    """Causal attention that keeps all T² weights: on a CPU a third faster than the fused one.

    q, k, v (B, H, T, D), mask (B, 1, T, T); products in the type of `v`, softmax in float32.
    """
    B, H, T, D = v.shape
    # (B, H, T, D) -> (B*H, T, D)
    q, k, v = (h.to(v.dtype).reshape(B * H, T, D) for h in (q, k, v))
    if mask is None:
        future = torch.full((T, T), -math.inf, dtype=v.dtype).triu(1)
    else:
        future = mask.to(v.dtype).expand(B, H, T, T).reshape(B * H, T, T)
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


class HeadLoss(torch.autograd.Function):
    """Losses of tokens from what the head takes, some tokens at a time, on a CPU.

    Pieces stay in the cache, and what is kept is the gradient of the logits, softmax less one at
    the target, in the products' own type: logits in float32 never are in memory as a whole. A
    token's own gradient, which only the backward pass knows, is multiplied into its row of C.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """x (N, C), weight (V, C) of one type, targets (N,) → nats (N,) in float32."""
        kept = x.new_empty(len(x), len(weight))
        losses = x.new_empty(len(x), dtype=torch.float32)
        size = max(PIECE // len(weight), 128)
        for first in range(0, len(x), size):
            piece = slice(first, first + size)
            at = targets[piece, None]
            logits = (x[piece] @ weight.t()).float()
            logits -= logits.amax(-1, keepdim=True)
            own = logits.gather(1, at)
            shares = logits.exp_()
            total = shares.sum(-1, keepdim=True)
            losses[piece] = (total.log() - own).squeeze(1)
            kept[piece] = shares.div_(total).scatter_add_(1, at, -torch.ones_like(own))
        ctx.save_for_backward(x, weight, kept)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, kept = ctx.saved_tensors
        grad = grad[:, None]
        by_x = ((kept @ weight) * grad).to(x.dtype) if ctx.needs_input_grad[0] else None
        by_weight = kept.t() @ (x * grad).to(x.dtype) if ctx.needs_input_grad[1] else None
        return by_x, by_weight, None


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.post_norm = config.post_norm
        self.attention_norm = norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = norm(config)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, table: Tensor | None, cache: Cache | None, mask: Mask = None
    ) -> Tensor:
        if self.post_norm:
            x = x + self.attention_norm(self.attention(x, table, cache, mask).float())
            x = x + self.mlp_norm(self.mlp(x).float())
        else:
            x = x + self.attention(self.attention_norm(x), table, cache, mask)
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
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        cache: Cache | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Read `ids` (B, T) as `read` does.

        Returns:
            logits (B, T, V) in float32, or with `targets` (B, T) each token's loss in nats (B, T).
            Not both: compiled, what is returned is kept in memory up to the backward pass.
        """
        x = self.read(ids, cache, positions)
        return self.logits(x) if targets is None else self.losses(x, targets)

    def losses(self, x: Tensor, targets: Tensor) -> Tensor:
        """What `targets` (B, T) cost after what was read (B, T, C): nats (B, T)."""
        # (B, T, V) -> (B*T, V), and the losses back to (B, T)
        compute, plain = self.head.compute, type(self.head) is Linear  # without adapters
        # float16 has no number for small shares, of which the loss's scale would make some
        if eager_on_cpu(x) and plain and compute != torch.float16:
            read, weight = self.norm(x).to(compute).flatten(0, 1), self.head.weight.to(compute)
            losses: Tensor = HeadLoss.apply(read, weight, targets.flatten())  # type: ignore[no-untyped-call]
            return losses.view_as(targets)
        logits = self.logits(x).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)

    def logits(self, x: Tensor) -> Tensor:
        """What follows what was read (B, T, C): (B, T, V), in float32."""
        logits: Tensor = self.head(self.norm(x)).float()
        return logits

    def read(
        self, ids: Tensor, cache: Cache | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Read `ids` (B, T), after what each row of `cache` has read; in all within the context.

        Args:
            positions: of tokens in their documents, (B, T), of which none sees another; where one
                is 0 another document begins. None: it is one text, after what is cached.
                With a cache there are none.

        Returns:
            What `logits` takes, (B, T, C).
        """
        T = ids.shape[1]
        x: Tensor = self.embedding(ids)  # (B, T, C)
        table = None
        mask: Mask = None
        if cache is not None:
            positions, mask = cache.prepare(T)
        elif positions is not None:
            # FlexAttention spares blocks of 128 tokens, and knows no heads narrower than 16
            fits = T >= 128 and self.config.head_dim >= 16 and not self.config.dropout
            flex = ids.is_cuda and torch.compiler.is_compiling() and fits
            dtype = self.head.compute if ids.is_cuda else torch.float32  # as queries have there
            mask = document_mask(positions, dtype, flex)
        if self.config.architecture == "gpt2":
            here = torch.arange(T, device=ids.device)
            x = x + self.positions(here if positions is None else positions)
        elif positions is None:
            table = self.rotary[:, :T]
        else:
            table = self.rotary[:, positions].unsqueeze(2)  # (2, B, T, D) -> (2, B, 1, T, D)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, table, cache, mask, use_reentrant=False)
            else:
                x = block(x, table, cache, mask)
        if cache is not None:
            cache.lengths += T
        return x

    @torch.no_grad()
    def for_inference(self) -> Self:
        """Lay the matrices as a few tokens at a time read them fastest, in the products' own type.

        In float32 the numbers of a column lie together instead of those of a row; shapes stay as
        they are. A tied head has a matrix of its own if its type is not the embedding's, which
        begins the residual stream.
        """
        for module in self.modules():
            if isinstance(module, Linear):
                if module.compute == torch.float32:
                    module.weight.data = module.weight.t().contiguous().t()
                elif module.weight.dtype != module.compute:
                    module.weight = nn.Parameter(module.weight.to(module.compute))
        return self

    def fused_rows(self) -> dict[Tensor, list[int]]:
        """Matrices that hold several: the rows of queries, keys and values."""
        return {m.qkv.weight: m.widths for m in self.modules() if isinstance(m, Attention)}

    def flops_per_token(self, context: int) -> float:
        """Operations of a training step for each token of windows of `context` tokens.

        A frozen matrix, such as one beside adapters, is spared the third product, its gradient's.
        Source: Chowdhery et al. 2022, appendix B.
        """
        c = self.config
        linear = (p for m in self.modules() if isinstance(m, Linear) for p in m.parameters())
        products = sum((6.0 if p.requires_grad else 4.0) * p.numel() for p in linear if p.ndim == 2)
        return products + 12.0 * c.n_layer * c.n_head * c.head_dim * context

    def parameter_count(self) -> int:
        """Number of weights; a tied head is counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
