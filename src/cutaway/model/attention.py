"""Attention: every position asks (query), every position it may read answers (key) and hands something over (value).

Shapes: B batch, T time (queries), S time (keys), H heads, K key-value heads, E head width, D width.

    x (B,T,D) --q--> (B,T,H,E) --norm?--rotate?--\\
      |-------k--> (B,T,K,E) --norm?--rotate?-----+--> scores (B,H,T,S) --mask, softmax--> pattern
      |-------v--> (B,T,K,E) --------------------------------------------- pattern @ v --> z (B,T,H,E) --o--> (B,T,D)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import spec
from .cache import CrossCache, LayerCache
from .linear import Linear
from .positions import rotate
from .sublayer import Sublayer, make_norm
from .tap import edited, tap, wanted


@dataclass(frozen=True)
class Mask:
    """Which keys exist, described; the (T, S) table is built only for a kernel that needs one.

    ``queries`` (T,) and ``keys`` (S,) are positions, or (B, T) and (B, S) where each text stands elsewhere; a negative
    key position is an empty cache slot. ``aligned``: queries and keys are the same positions, so that plain causal
    attention needs no table at all. ``present`` (B, S) is False at padding.
    """

    queries: Tensor
    keys: Tensor
    aligned: bool
    present: Tensor | None = None

    def is_plainly_causal(self, attn: spec.Attention) -> bool:
        """Is "everything before me, and me" all there is to it? (A window wider than the text hides nothing.)"""
        unwindowed = attn.window is None or self.keys.shape[-1] <= attn.window
        return attn.causal and unwindowed and self.aligned and self.present is None

    def table(self, attn: spec.Attention) -> Tensor | None:
        """True where a query may read a key, broadcastable to (B, 1, T, S); None when it may read all."""
        visible = None
        if attn.causal or attn.window is not None:
            distance = self.queries[..., :, None] - self.keys[..., None, :]  # (T, S) or (B, T, S)
            visible = self.keys[..., None, :] >= 0
            if attn.causal:
                visible = visible & (distance >= 0)
            if attn.window is not None:
                visible = visible & (distance.abs() < attn.window)
            if visible.dim() == 3:
                visible = visible[:, None]
        if self.present is None:
            return visible
        present = self.present[:, None, None, :]
        return present if visible is None else visible & present


def scores(q: Tensor, k: Tensor, scale: float, softcap: float | None = None, bias: Tensor | None = None) -> Tensor:
    """scale * q k^T, soft-capped, biased, before the mask: (B, H, T, E), (B, K, S, E) -> (B, H, T, S)."""
    s = q @ repeat_heads(k, q.shape[1]).transpose(-1, -2) * scale
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    return s if bias is None else s + bias


def pattern(s: Tensor, visible: Tensor | None) -> Tensor:
    """softmax over the keys a query may read; the others get exactly 0."""
    if visible is not None:
        s = s.masked_fill(~visible, float("-inf"))
    return s.float().softmax(-1).to(s.dtype)


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(B, K, S, E) -> (B, H, S, E): each key-value head serves H/K neighbouring query heads (Ainslie et al. 2023)."""
    groups = heads // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, 1)


def attend(
    owner: nn.Module, attn: spec.Attention, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Tensor | None
) -> Tensor:
    """softmax(q k^T) v: (B, H, T, E), (B, K, S, E) twice -> (B, H, T, E). Fused wherever nothing forbids it.

    The fused kernel never makes scores or pattern. When they are only read, they are computed beside it and the
    result is untouched; when they are edited or soft-capped, the attention is written out.
    """
    written_out = attn.softcap is not None or edited(owner, "scores", "pattern")
    if written_out or wanted(owner, "scores", "pattern"):
        visible = mask.table(attn)
        s = tap(owner, "scores", scores(q, k, attn.scale, attn.softcap, bias))
        p = tap(owner, "pattern", pattern(s, visible))
        if written_out:
            return p @ repeat_heads(v, q.shape[1])
    shared_heads = q.shape[1] != k.shape[1]
    if bias is None and mask.is_plainly_causal(attn):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=attn.scale, enable_gqa=shared_heads)
    table = mask.table(attn)
    if bias is not None:
        table = bias if table is None else bias.masked_fill(~table, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=table, scale=attn.scale, enable_gqa=shared_heads)


class Attention(Sublayer):
    """An attention sublayer: self-attention through ``read``, cross-attention through ``consult``."""

    def __init__(self, attn: spec.Attention, width: int, norm: spec.Norm, slots: tuple[str, ...]) -> None:
        super().__init__(width, norm, slots)
        self.attn = attn
        queries, keys = attn.heads * attn.width, attn.kv_heads * attn.width
        self.q = Linear(width, queries, "q" in attn.bias)
        self.k = Linear(width, keys, "k" in attn.bias)
        self.v = Linear(width, keys, "v" in attn.bias)
        self.o = Linear(queries, width, "o" in attn.bias)
        if attn.qk_norm == "head":
            self.q_norm, self.k_norm = make_norm(norm, attn.width), make_norm(norm, attn.width)
        elif attn.qk_norm == "full":
            self.q_norm, self.k_norm = make_norm(norm, queries), make_norm(norm, keys)
        else:
            self.q_norm = self.k_norm = None

    def read(
        self,
        x: Tensor,
        mask: Mask,
        rotation: tuple[Tensor, Tensor] | None = None,
        bias: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Self-attention over ``x`` (B, T, D), and over what ``cache`` holds."""
        q, k, v = self.queries(x), self.keys(x), self.values(x)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        q, k = tap(self, "q_rot", q).transpose(1, 2), tap(self, "k_rot", k).transpose(1, 2)
        v = v.transpose(1, 2)
        if cache is not None:
            cache.write(k, v, mask.queries)
            if not mask.aligned:
                k, v = cache.k, cache.v
        return self.mix(q, k, v, mask, bias)

    def consult(self, x: Tensor, memory: Tensor, mask: Mask, cache: CrossCache | None = None) -> Tensor:
        """Cross-attention: queries from ``x`` (B, T, D), keys and values from ``memory``, (B, S, D), or (1, S, D) for
        all of them."""
        q = tap(self, "q_rot", self.queries(x)).transpose(1, 2)
        if cache is None or cache.k is None or cache.v is None:
            k = tap(self, "k_rot", self.keys(memory)).transpose(1, 2)
            v = self.values(memory).transpose(1, 2)
            if cache is not None:
                cache.k, cache.v = k.contiguous(), v.contiguous()
        else:
            k, v = cache.k, cache.v
        return self.mix(q, k.expand(len(q), -1, -1, -1), v.expand(len(q), -1, -1, -1), mask, None)

    def queries(self, x: Tensor) -> Tensor:
        return tap(self, "q", self._split(self.q(x), self.q_norm))

    def keys(self, x: Tensor) -> Tensor:
        return tap(self, "k", self._split(self.k(x), self.k_norm))

    def values(self, x: Tensor) -> Tensor:
        return tap(self, "v", self._split(self.v(x), None))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Tensor | None) -> Tensor:
        z = attend(self, self.attn, q, k, v, mask, bias).transpose(1, 2)
        added: Tensor = self.o(tap(self, "z", z).flatten(-2))
        return added

    def _split(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        """(B, T, heads * E) -> (B, T, heads, E), normalised over all heads or over each."""
        if norm is not None and self.attn.qk_norm == "full":
            x = norm(x)
        x = x.view(*x.shape[:-1], -1, self.attn.width)
        if norm is not None and self.attn.qk_norm == "head":
            x = norm(x)
        return x
