"""The denoiser: a UNet over latents, conditioned on characters, writer and (if configured) a layout of the
text.

Source: WordStylist, Nikolaidou et al. 2023, https://arxiv.org/abs/2303.16576, section 3, whose UNet is that
of latent diffusion (Rombach et al. 2022, https://arxiv.org/abs/2112.10752); null conditions, masks and text
layout are additions.
"""

import math
from dataclasses import asdict, dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYOUT_FEATURES = 5  # per column: coverage, and the position inside the character as sine and cosine, twice


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Everything that fixes the UNet's tensors.

    Attributes:
        num_writers: rows of known writers; a null writer, if there is one, has a row of its own behind them.
        vocabulary_size: rows of the character embedding: the characters and padding.
        max_length: longest text in characters.
        model_channels: channels of both levels, a multiple of 32 and of ``num_heads``.
        num_heads: attention heads.
        channel_mult: the two levels' channels in units of ``model_channels``.
        text_encoder: ``transformer`` (pre-norm layers with masks) or ``published`` (one attention layer
            without scale, residual or norm).
        text_layers: layers of the ``transformer`` encoder.
        text_layout: the text is laid out over the columns and given to the first convolution.
        layout_channels: channels of a character in that layout.
        attention_levels: levels with spatial transformers: (1, 2), or (2,) for those in the middle alone,
            which leaves out the attention over all positions of the latents, more than half of a small
            model's work.
        pad_id: the id of padding; 0 but for the published weights.
        mask_padding: padding is hidden from attention.
        has_null_condition: a null writer exists, and an all-padding text means null text.
        latent_channels: channels of the latents.
        style_dim: length of the style vectors that a hand is given by; None for a model that knows its
            writers by their rows alone. With style vectors, a writer's row is an offset to what its vector
            says.
    """

    num_writers: int
    vocabulary_size: int
    max_length: int
    model_channels: int = 320
    num_heads: int = 4
    channel_mult: tuple[int, int] = (1, 1)
    text_encoder: str = "transformer"
    text_layers: int = 2
    text_layout: bool = True
    layout_channels: int = 64
    attention_levels: tuple[int, ...] = (1, 2)
    pad_id: int = 0
    mask_padding: bool = True
    has_null_condition: bool = True
    latent_channels: int = 4
    style_dim: int | None = None

    def __post_init__(self) -> None:
        if self.model_channels % 32 or self.model_channels % self.num_heads:
            raise ValueError(
                f"model_channels {self.model_channels} is not a multiple of 32 and of {self.num_heads} heads"
            )
        if min(self.num_writers, self.vocabulary_size - 1, self.max_length) < 1:
            raise ValueError("a UNet needs at least one writer, one character and one position")
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        object.__setattr__(self, "attention_levels", tuple(self.attention_levels))
        if self.attention_levels not in ((1, 2), (2,)):
            raise ValueError(f"attention_levels {self.attention_levels}: neither (1, 2) nor (2,)")

    @classmethod
    def from_dict(cls, values: dict) -> "UNetConfig":
        """Build from ``config.json``; unknown fields are an error, so that a newer format is not half
        understood.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(
                f"config.json has unknown UNet fields {sorted(unknown)}: written by a newer version?"
            )
        return cls(**values)

    def to_dict(self) -> dict:
        """The fields as a dictionary for ``config.json``."""
        return asdict(self)

    def text_length(self, longest: int) -> int:
        """Positions that texts of at most ``longest`` characters need: without the padding that the model
        hides from itself. In steps of 8, so that a compiled model meets few shapes.
        """
        return min(self.max_length, 8 * max(1, -(-longest // 8))) if self.mask_padding else self.max_length

    @property
    def null_writer_id(self) -> int:
        """Row of the null writer.

        Raises:
            ValueError: if this model has none.
        """
        if not self.has_null_condition:
            raise ValueError("this model was trained without null conditions")
        return self.num_writers


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """(B, dim) cosines and sines of (B,) timesteps in [0, 1000]; Vaswani et al. 2017, section 3.5, cosine
    first.
    """
    half = dim // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    )
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """(length, dim) positions: channel i is the sine (even i) or cosine (odd i) of position / 10000^(i /
    dim).

    The published table: unlike in Vaswani et al. 2017, section 3.5, a cosine has its own frequency, not its
        sine's.
    """
    channels = torch.arange(dim, dtype=torch.float64)
    angles = torch.arange(length, dtype=torch.float64)[:, None] / 10000.0 ** (channels / dim)
    return torch.where(channels % 2 == 0, angles.sin(), angles.cos()).float()


# Text
# ------------------------------------------------------------------------------------------------------------


class PublishedTextAttention(nn.Module):
    """The published encoder's attention: no scale, no residual, no norm, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, C) to (B, L, C)."""
        q, k, v = self.to_q(hidden), self.to_k(hidden), self.to_v(hidden)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=None if mask is None else mask[:, None], scale=1.0
        )


class TextLayer(nn.Module):
    """A pre-norm transformer layer over characters."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, channels, num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, C) to (B, L, C)."""
        normed = self.norm1(hidden)
        hidden = hidden + self.attn(normed, normed, mask)
        return hidden + self.ff(self.norm2(hidden))


class CharacterEncoder(nn.Module):
    """Character ids to the states that cross-attention reads."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels = config.model_channels
        self.embedding = nn.Embedding(config.vocabulary_size, channels)
        is_published = config.text_encoder == "published"
        if is_published:
            self.layers = nn.ModuleList([PublishedTextAttention(channels)])
            self.norm = nn.Identity()
        else:
            nn.init.normal_(self.embedding.weight, std=0.5)
            self.layers = nn.ModuleList(
                TextLayer(channels, config.num_heads) for _ in range(config.text_layers)
            )
            self.norm = nn.LayerNorm(channels)
        self.register_buffer("positions", sinusoidal_positions(config.max_length, channels), persistent=False)

    def forward(self, input_ids: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L) ids and (B, L) mask (True: attend) to (B, L, C) states."""
        hidden = self.embedding(input_ids) + self.positions[: input_ids.shape[1]]  # (B, L, C)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.norm(hidden)


# Blocks
# ------------------------------------------------------------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention of (B, heads, N, D) queries; ``mask`` is bool, True where it may look."""
    if q.device.type == "cpu" and q.requires_grad:
        # The fused kernel's backward pass takes three times as long as this one on a CPU.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, heads, N, M)
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Attention(nn.Module):
    """Multi-head attention of queries (B, N, C) to a context (B, M, D)."""

    def __init__(self, channels: int, context_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_channels, channels, bias=False)
        self.to_v = nn.Linear(context_channels, channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """``mask``: (B, M) bool, True where attention may look, or None."""
        q, k, v = (
            states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, tokens, C / heads)
            for states in (self.to_q(hidden), self.to_k(context), self.to_v(context))
        )
        attended = attend(q, k, v, None if mask is None else mask[:, None, None])
        return self.to_out(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """GEGLU feed-forward, four times as wide inside (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(channels, 8 * channels)
        self.proj_out = nn.Linear(4 * channels, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        values, gates = self.proj_in(hidden).chunk(2, dim=-1)
        return self.proj_out(values * F.gelu(gates))


def group_norm(channels: int, config: UNetConfig, eps: float = 1e-5) -> nn.GroupNorm:
    """32 groups; fewer, of four channels, where there are under 128 channels, but for the published weights.

    In a group of one channel the norm takes out what was added to the whole map: the embedding of time and
        writer.
    """
    groups = 32 if config.text_encoder == "published" else min(32, channels // 4)
    return nn.GroupNorm(groups, channels, eps=eps)


class ResBlock(nn.Module):
    """Two convolutions with the embedding of time and writer added between them."""

    def __init__(self, in_channels: int, out_channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, config)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embedding = nn.Linear(4 * config.model_channels, out_channels)
        self.norm2 = group_norm(out_channels, config)
        # Zero: each block starts as the identity.
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """(B, C_in, H, W) and (B, E) to (B, C_out, H, W)."""
        residual = self.conv1(F.silu(self.norm1(hidden)))
        residual = residual + self.embedding(F.silu(embedding))[:, :, None, None]
        return self.skip(hidden) + self.conv2(F.silu(self.norm2(residual)))


class SpatialTransformer(nn.Module):
    """Attention within the feature map, then to the text, at every position."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        context = config.model_channels
        self.norm = group_norm(channels, config, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, channels, config.num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, context, config.num_heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)
        self.proj_out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, hidden: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        size = hidden.shape[-2:]
        tokens = self.proj_in(self.norm(hidden)).flatten(2).transpose(1, 2)  # (B, H * W, C)
        normed = self.norm1(tokens)
        tokens = tokens + self.attn1(normed, normed, None)
        tokens = tokens + self.attn2(self.norm2(tokens), text, mask)
        tokens = tokens + self.ff(self.norm3(tokens))
        return hidden + self.proj_out(tokens.transpose(1, 2).unflatten(2, size))


class TextLayoutEmbedding(nn.Module):
    """The text laid out over the latent's columns: each column holds a mix of its characters' embeddings.

    Null text has zero coverage everywhere and so embeds to zeros.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary_size, config.layout_channels)
        self.out_channels = config.layout_channels + LAYOUT_FEATURES

    def forward(self, input_ids: Tensor, layout: Tensor) -> Tensor:
        """Embed a layout.

        Args:
            input_ids: (B, L).
            layout: (B, 2, L, W): each character's share of each column in [0, 1], and the position inside the
                character at the column's centre in [0, 1] (utils/layout.py makes it).
        Returns:
            (B, layout_channels + 5, W).
        """
        share, position = layout[:, 0], layout[:, 1]  # (B, L, W)
        characters = torch.einsum("blw,blc->bcw", share, self.embedding(input_ids).to(share.dtype))
        coverage = share.sum(dim=1, keepdim=True)  # (B, 1, W)
        phase = (share * position).sum(dim=1, keepdim=True) / coverage.clamp_min(1e-6) * math.pi
        waves = torch.cat([phase.sin(), phase.cos(), (2 * phase).sin(), (2 * phase).cos()], dim=1)
        return torch.cat([characters, coverage, waves * coverage], dim=1)


def zero_init(module: nn.Module) -> nn.Module:
    """Set all parameters of a module to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class StyleProjection(nn.Module):
    """A style vector to the writer's part of the embedding."""

    HIDDEN = 256

    def __init__(self, style_dim: int, embedding: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(style_dim, self.HIDDEN)
        self.out = nn.Linear(self.HIDDEN, embedding)

    def forward(self, styles: Tensor) -> Tensor:
        """(B, style_dim) vectors of length 1 to (B, E); zeros, for the null writer, to zeros."""
        # Each value of a vector of length 1 is small; the layer is made for values of about 1.
        hidden = F.silu(self.hidden(styles * styles.shape[-1] ** 0.5))
        return self.out(hidden) * styles.any(dim=-1, keepdim=True)


# The model
# ------------------------------------------------------------------------------------------------------------


class UNet(nn.Module):
    """Predicts noise (or velocity, or flow) from noisy latents, timesteps, text and writer."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        first, second = (config.model_channels * mult for mult in config.channel_mult)
        embedding = 4 * config.model_channels
        self.time_embedding = nn.Sequential(
            nn.Linear(config.model_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.writer_embedding = nn.Embedding(config.num_writers + config.has_null_condition, embedding)
        self.style_projection = None
        if config.style_dim:
            nn.init.zeros_(self.writer_embedding.weight[: config.num_writers].data)
            self.style_projection = StyleProjection(config.style_dim, embedding)
            # Mean style vector of each writer's images, and zeros for the null writer; not trained.
            self.register_buffer(
                "writer_styles", torch.zeros(len(self.writer_embedding.weight), config.style_dim)
            )
            # Times standard normal values: how an image's vector differs from the mean of its writer's.
            self.register_buffer("style_spread", torch.zeros(config.style_dim, config.style_dim))
        self.character_encoder = CharacterEncoder(config)
        self.layout_embedding = TextLayoutEmbedding(config) if config.text_layout else None
        layout_channels = self.layout_embedding.out_channels if self.layout_embedding else 0
        self.conv_in = nn.Conv2d(config.latent_channels + layout_channels, first, 3, padding=1)
        # Level 1 (H, W), down, level 2 (H/2, W/2), middle, level 2, up, level 1.
        self.down_block1 = ResBlock(first, first, config)
        has_first = 1 in config.attention_levels
        self.down_attention1 = SpatialTransformer(first, config) if has_first else None
        self.downsample = nn.Conv2d(first, first, 3, stride=2, padding=1)
        self.down_block2 = ResBlock(first, second, config)
        self.mid_block1 = ResBlock(second, second, config)
        self.mid_attention = SpatialTransformer(second, config)
        self.mid_block2 = ResBlock(second, second, config)
        self.up_block1 = ResBlock(second + second, second, config)
        self.up_block2 = ResBlock(second + first, second, config)
        self.upsample = nn.Conv2d(second, second, 3, padding=1)
        self.up_block3 = ResBlock(second + first, first, config)
        self.up_attention3 = SpatialTransformer(first, config) if has_first else None
        self.up_block4 = ResBlock(first + first, first, config)
        self.up_attention4 = SpatialTransformer(first, config) if has_first else None
        self.norm_out = group_norm(first, config)
        self.conv_out = zero_init(nn.Conv2d(first, config.latent_channels, 3, padding=1))

    def attention_mask(self, input_ids: Tensor) -> Tensor | None:
        """(B, L) bool, True where attention may look; None if this model does not mask padding."""
        if not self.config.mask_padding:
            return None
        mask = input_ids != self.config.pad_id
        # Position 0 stays visible: an all-padding text is the learned null condition.
        return mask | (torch.arange(input_ids.shape[1], device=input_ids.device) == 0)

    def embed_writers(
        self, writer_ids: Tensor, weights: Tensor | None = None, styles: Tensor | None = None
    ) -> Tensor:
        """(B, E) writer embeddings of (B,) ids; or of (B, M) ids mixed by (B, M) ``weights``.

        A model with style vectors adds what ``styles`` (B, style_dim) say; zeros say nothing.
        """
        embedded = self.writer_embedding(writer_ids)
        if weights is not None:
            embedded = (embedded * weights[..., None].to(embedded.dtype)).sum(dim=1)
        return embedded if self.style_projection is None else embedded + self.style_projection(styles)

    def forward(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        input_ids: Tensor,
        writer_ids: Tensor,
        layout: Tensor | None = None,
        writer_weights: Tensor | None = None,
        styles: Tensor | None = None,
    ) -> Tensor:
        """Predict the schedule's target.

        Args:
            noisy_latents: (B, 4, H, W).
            timesteps: (B,) in [0, 1000].
            input_ids: (B, L) character ids; all padding is null text.
            writer_ids: (B,) rows, the null writer's included; or (B, M) with ``writer_weights``.
            layout: (B, 2, L, W), needed by a model with ``text_layout`` and by no other.
            writer_weights: (B, M) shares of a mixed hand, summing to 1; in a model with style vectors, how
                much of each writer's offset counts.
            styles: (B, style_dim) style vectors of length 1, zeros for the null writer; needed by a model
                with ``style_dim`` and by no other.
        Returns:
            (B, 4, H, W).
        Raises:
            ValueError: if the text is longer than the model's positions, or the layout or the styles are
                missing.
        """
        if input_ids.shape[1] > self.config.max_length:
            raise ValueError(
                f"text of {input_ids.shape[1]} positions; this model has {self.config.max_length}"
            )
        if (layout is None) != (self.layout_embedding is None):
            raise ValueError("layout must be given to a model with text_layout, and to no other")
        if (styles is None) != (self.style_projection is None):
            raise ValueError("styles must be given to a model with style_dim, and to no other")
        embedding = self.time_embedding(
            timestep_embedding(timesteps, self.config.model_channels).to(noisy_latents.dtype)
        )
        embedding = embedding + self.embed_writers(writer_ids, writer_weights, styles)  # (B, E)
        mask = self.attention_mask(input_ids)
        text = self.character_encoder(input_ids, mask)  # (B, L, C)

        hidden = noisy_latents
        if layout is not None:
            columns = self.layout_embedding(input_ids, layout).to(hidden.dtype)  # (B, C_layout, W)
            hidden = torch.cat([hidden, columns[:, :, None].expand(-1, -1, hidden.shape[2], -1)], dim=1)
        skip0 = self.conv_in(hidden)  # (B, C, H, W)
        skip1 = self.down_block1(skip0, embedding)  # (B, C, H, W)
        if self.down_attention1 is not None:
            skip1 = self.down_attention1(skip1, text, mask)
        skip2 = self.downsample(skip1)  # (B, C, H/2, W/2)
        skip3 = self.down_block2(skip2, embedding)  # (B, C2, H/2, W/2)

        hidden = self.mid_block1(skip3, embedding)
        hidden = self.mid_attention(hidden, text, mask)
        hidden = self.mid_block2(hidden, embedding)

        hidden = self.up_block1(torch.cat([hidden, skip3], dim=1), embedding)
        hidden = self.up_block2(torch.cat([hidden, skip2], dim=1), embedding)
        hidden = self.upsample(F.interpolate(hidden, size=skip1.shape[-2:], mode="nearest"))  # (B, C2, H, W)
        hidden = self.up_block3(torch.cat([hidden, skip1], dim=1), embedding)
        if self.up_attention3 is not None:
            hidden = self.up_attention3(hidden, text, mask)
        hidden = self.up_block4(torch.cat([hidden, skip0], dim=1), embedding)
        if self.up_attention4 is not None:
            hidden = self.up_attention4(hidden, text, mask)
        return self.conv_out(F.silu(self.norm_out(hidden)))  # (B, 4, H, W)


@torch.no_grad()
def grow_unet(
    unet: UNet, *, num_writers: int, vocabulary_size: int, max_length: int, style_dim: int | None = None
) -> UNet:
    """A copy of a UNet with more writers, characters or positions; known rows keep their place, new ones are
    the mean.

    The null writer's row stays the last one. New rows would all be alike, and stay alike for characters that
    the training never tells apart, so a hundredth of the rows' own spread is added to them.

    Args:
        num_writers, vocabulary_size, max_length: at least the UNet's own.
        style_dim: length of the style vectors of a copy that takes hands from images; a UNet that does so
            already keeps its own. The rows become offsets to their mean, which all vectors say at first.
    """
    old = unet.config
    config = replace(
        old,
        num_writers=num_writers,
        vocabulary_size=vocabulary_size,
        max_length=max(old.max_length, max_length),
        style_dim=old.style_dim or style_dim,
    )
    grown = UNet(config)
    state = unet.state_dict()
    generator = torch.Generator().manual_seed(0)

    def extend(rows: Tensor, count: int, known: Tensor) -> Tensor:
        noise = torch.randn(count, rows.shape[1], generator=generator)
        return torch.cat([rows, known.mean(dim=0) + 0.01 * known.std(dim=0, correction=0) * noise])

    writers = state["writer_embedding.weight"]
    known, null = writers[: old.num_writers], writers[old.num_writers :]
    new = num_writers - old.num_writers
    if config.style_dim and not old.style_dim:
        mean, projection = known.mean(dim=0), grown.style_projection.state_dict()
        rows = torch.cat([known - mean, known.new_zeros(new, known.shape[1]), null])
        projection |= {"out.weight": torch.zeros_like(projection["out.weight"]), "out.bias": mean}
        state |= {"writer_embedding.weight": rows}
        state |= {name: getattr(grown, name) for name in ("writer_styles", "style_spread")}
        state |= {f"style_projection.{name}": value for name, value in projection.items()}
    elif old.style_dim:  # a row is an offset to what the style vector says
        state["writer_embedding.weight"] = torch.cat([known, known.new_zeros(new, known.shape[1]), null])
        vectors = state["writer_styles"]
        blank = vectors.new_zeros(new, old.style_dim)
        state["writer_styles"] = torch.cat([vectors[: old.num_writers], blank, vectors[old.num_writers :]])
    else:
        state["writer_embedding.weight"] = torch.cat([extend(known, new, known), null])
    for name in ("character_encoder.embedding.weight", "layout_embedding.embedding.weight"):
        if name in state:  # row 0 is padding, but for published weights
            rows = state[name]
            state[name] = extend(rows, vocabulary_size - old.vocabulary_size, rows[0 if old.pad_id else 1 :])
    grown.load_state_dict(state)
    return grown
