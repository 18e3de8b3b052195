"""Matrices in 8 or 4 bits: each 32 numbers of a row share a scale, and lie as the kernels read them.

Shapes: N rows, K columns, P panels of 16 rows, G groups of 32 columns. N is filled up to a multiple of 64, K to one of
32.

    w ~ scale * (code - middle)     8 bits: code 1..255, middle 128; 4 bits: code 0..15, middle 8

    a panel's group:  16 scales (float16) | codes, four of each row in turn   8 bits: 544 bytes; 4 bits: 288 bytes

With 4 bits a byte holds two codes of one row, four columns apart: the first in its low half.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from .linear import linear
from .transformer import Unembedding

PANEL, GROUP, ROWS = 16, 32, 64
#: How much of the largest number of a group the codes -8 to 7 span: of these what loses least, in squares.
SPANS = (1.0, 1.15, 1.1, 1.05, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)
AT_ONCE = 2**22  # numbers packed or unpacked at a time: a large matrix needs no second one of its size


def pack(weight: Tensor, bits: int) -> Tensor:
    """A matrix (N, K) as codes and scales: (P, G, 544 or 288), bytes. Raises ValueError for other than 8 or 4 bits."""
    if bits not in (8, 4):
        raise ValueError(f"matrices are kept in 8 or 4 bits, not in {bits}")
    rows, columns = weight.shape
    panels, groups = -(-rows // ROWS) * ROWS // PANEL, -(-columns // GROUP)
    packed = weight.new_empty(panels, groups, PANEL * (2 + GROUP * bits // 8), dtype=torch.uint8)
    step = max(ROWS, AT_ONCE // columns // ROWS * ROWS)
    if not weight.is_meta:
        for at in range(0, rows, step):
            packed[at // PANEL : (at + step) // PANEL] = _pack(weight.detach()[at : at + step], bits)
    return packed


def _pack(weight: Tensor, bits: int) -> Tensor:
    rows, columns = weight.shape
    filled = nn.functional.pad(weight.float(), (0, -columns % GROUP, 0, -rows % ROWS)).contiguous()
    groups = filled.view(-1, PANEL, filled.shape[1] // GROUP, GROUP)  # (P, 16, G, 32)
    scales = _scales8(groups) if bits == 8 else _scales4(groups)  # (P, 16, G), float16
    codes = _codes(groups, scales, bits).permute(0, 2, 3, 1)  # (P, G, 32, 16)
    if bits == 8:
        ordered = torch.unflatten(codes, 2, (8, 4)).transpose(3, 4)  # (P, G, 8, 16, 4)
    else:
        low, high = torch.unflatten(codes, 2, (4, 2, 4)).unbind(3)  # (P, G, 4, 4, 16) each
        ordered = (low | high << 4).transpose(3, 4)
    head = scales.transpose(1, 2).contiguous().view(torch.uint8)  # (P, G, 32)
    return torch.cat([head, ordered.flatten(2)], -1)


def _scales8(groups: Tensor) -> Tensor:
    return (groups.abs().amax(-1) / 127).half()


def _scales4(groups: Tensor) -> Tensor:
    """Of some spans the one whose codes c can come nearest to a group w: at the scale <w, c> / <c, c> (least squares)
    |w|² - <w, c>² / <c, c> is lost."""
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))[..., 0] / -8  # whatever its sign, code -8
    best, most = largest, torch.zeros_like(largest)
    for span in SPANS:
        codes = _codes(groups, largest * span, 4).float() - 8
        along, square = (groups * codes).sum(-1), codes.square().sum(-1).clamp(min=1)
        held = along.square() / square
        better = held > most * (1 + 1e-6)  # by more than rounding: a group that fits its codes has the first scale
        best, most = torch.where(better, along / square, best), torch.where(better, held, most)
    return best.half()


def _codes(groups: Tensor, scales: Tensor, bits: int) -> Tensor:
    middle = 2 ** (bits - 1)
    steps = scales.float().unsqueeze(-1)
    codes = (groups / torch.where(steps == 0, 1, steps)).round() + middle
    whole: Tensor = codes.clamp(bits == 8, 2 * middle - 1).byte()
    return whole


def _values(codes: Tensor, scales: Tensor, bits: int) -> Tensor:
    values: Tensor = (codes.float() - 2 ** (bits - 1)) * scales.float().unsqueeze(-1)
    return values


def scales_of(packed: Tensor) -> Tensor:
    """(P, G, 16), float16."""
    return packed[..., : 2 * PANEL].contiguous().view(torch.half)


def unpack(packed: Tensor, bits: int, rows: int, columns: int) -> Tensor:
    """The matrix (N, K) that is meant, in float32."""
    scales = scales_of(packed).transpose(1, 2)  # (P, 16, G)
    held = packed[..., 2 * PANEL :]
    if bits == 8:
        codes = torch.unflatten(held, 2, (8, PANEL, 4)).transpose(3, 4).flatten(2, 3)  # (P, G, 32, 16)
    else:
        both = torch.unflatten(held, 2, (4, PANEL, 4)).transpose(3, 4)  # (P, G, 4, 4, 16)
        codes = torch.stack([both & 15, both >> 4], 3).flatten(2, 4)
    values = _values(codes.permute(0, 3, 1, 2), scales, bits)  # (P, 16, G, 32)
    return values.flatten(2).flatten(0, 1)[:rows, :columns]


def unpacked_product(x: Tensor, packed: Tensor, bits: int, rows: int) -> Tensor:
    """x W^T by PyTorch, wherever they lie: some panels after the other are unpacked first."""
    columns = x.shape[-1]
    few = max(1, AT_ONCE // (PANEL * columns))
    parts = (packed[at : at + few] for at in range(0, len(packed), few))
    found = [linear(x, unpack(part, bits, PANEL * len(part), columns).to(x.dtype), None) for part in parts]
    return torch.cat(found, -1)[..., :rows]


def _meta(x: Tensor, packed: Tensor, bits: int, rows: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    x, packed, ctx.bits, ctx.rows = inputs
    ctx.columns = x.shape[-1]
    ctx.save_for_backward(packed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    (packed,) = ctx.saved_tensors
    return grad @ unpack(packed, ctx.bits, ctx.rows, ctx.columns).to(grad.dtype), None, None, None


#: ``torch.ops.cutaway.product``, (..., K) and a packed matrix (N, K) to (..., N), which compilers leave whole. The
#: kernels in C take its place on a processor (native/product.py). Not torch.library.custom_op, which imports a
#: compiler, for a second, when it is first called.
LIBRARY: Any = torch.library.Library("cutaway", "DEF")  # type: ignore[no-untyped-call]
LIBRARY.define("product(Tensor x, Tensor packed, int bits, int rows) -> Tensor")
LIBRARY.impl("product", unpacked_product, "CompositeExplicitAutograd")
torch.library.register_fake("cutaway::product", _meta, lib=LIBRARY)
torch.library.register_autograd("cutaway::product", _backward, setup_context=_keep, lib=LIBRARY)


#: May inputs take 8 bits? See ``rounded``.
ROUNDED: ContextVar[bool] = ContextVar("rounded", default=False)


@contextlib.contextmanager
def rounded() -> Iterator[None]:
    """In here the kernels put inputs of quantised matrices in 8 bits, 32 by 32, as they do where text is written: some
    three times as fast, and a percent off. Nothing that is recorded is read like this."""
    before = ROUNDED.set(True)
    try:
        yield
    finally:
        ROUNDED.reset(before)


class Quantized(nn.Module):
    """What a matrix (N, K) has become. ``weight`` is what it means, worked out whenever it is asked for."""

    def __init__(self, weight: Tensor, bits: int, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.rows, self.columns = weight.shape
        self.bits = bits
        self.register_buffer("packed", pack(weight, bits))
        self.bias = bias

    packed: Tensor

    @property
    def weight(self) -> Tensor:
        return unpack(self.packed, self.bits, self.rows, self.columns)

    def product(self, x: Tensor) -> Tensor:
        """x W^T with what W has become; x stays as it is, unless ``rounded``."""
        found: Tensor = torch.ops.cutaway.product(x, self.packed, self.bits, self.rows)
        return found


class QuantizedLinear(Quantized):
    """x W^T + b with what W has become."""

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x) if self.bias is None else self.product(x) + self.bias


class QuantizedUnembedding(QuantizedLinear):
    """An unembedding of its own rows."""

    def forward(self, x: Tensor, embedding: object = None) -> Tensor:
        return super().forward(x)


class QuantizedEmbedding(Quantized):
    """Rows of a matrix in 8 bits that is looked up in, and that a tied head unembeds with."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight, 8)

    def forward(self, ids: Tensor) -> Tensor:
        panels, lanes = ids // PANEL, ids % PANEL  # a row's numbers are spread over its panel
        codes = torch.unflatten(self.packed[..., 2 * PANEL :], 2, (8, PANEL, 4))[panels, :, :, lanes]  # (..., G, 8, 4)
        scales = torch.unflatten(self.packed[..., : 2 * PANEL], 2, (PANEL, 2))[panels, :, lanes]  # (..., G, 2), bytes
        rows = _values(codes.flatten(-2), scales.view(torch.half)[..., 0], self.bits)  # (..., G, 32)
        return rows.flatten(-2)[..., : self.columns]


def quantize(machine: nn.Module, bits: int) -> None:
    """Every matrix of a machine in ``bits`` bits, in place; what embeds and unembeds tokens in 8, which it needs.

    Norms, biases, vectors of positions and the convolutions that images and sounds enter by stay as they are. An
    embedding that encoder and decoder share stays one. A machine on meta becomes one of the right shapes, whose
    matrices are then filled one by one. Raises ValueError for other than 8 or 4 bits.
    """
    made: dict[nn.Module, nn.Module] = {}
    for module in list(machine.modules()):
        for name, child in list(module.named_children()):
            if child not in made:
                made[child] = _instead(name, child, bits)
            setattr(module, name, made[child])


def _instead(name: str, module: nn.Module, bits: int) -> nn.Module:
    """What takes the place of a module of that name; itself, where it holds no matrix of this kind."""
    if isinstance(module, nn.Linear):
        return QuantizedLinear(module.weight, bits, module.bias)
    if isinstance(module, Unembedding) and module.weight is not None:
        return QuantizedUnembedding(module.weight, 8, module.bias)
    if isinstance(module, nn.Embedding) and name == "tokens":
        return QuantizedEmbedding(module.weight)
    return module


def matrices(machine: nn.Module) -> dict[str, int]:
    """The bits of each matrix that is quantised, by the name it had before: "stack.blocks.0.attn.q.weight" -> 8."""
    return {name: module.bits for name, module in _quantised(machine).items()}


def _quantised(machine: nn.Module) -> dict[str, Quantized]:
    """By the name of its matrix before; an embedding that two stems share by both names."""
    everywhere = machine.named_modules(remove_duplicate=False)
    return {f"{path}.weight": module for path, module in everywhere if isinstance(module, Quantized)}


def packed_name(name: str) -> str:
    """Under which name what has become of the matrix ``name`` is held."""
    return name.removesuffix("weight") + "packed"


def weights(machine: nn.Module) -> Mapping[str, Tensor]:
    """Every tensor of a machine by name, quantised matrices as what they mean, each worked out when it is asked for."""
    held = dict(machine.state_dict())
    meant = _quantised(machine)
    if not meant:
        return held
    packed = {packed_name(name) for name in meant}
    return _Meant({name: tensor for name, tensor in held.items() if name not in packed}, meant)


def rows_of(weights: Mapping[str, Tensor], name: str) -> Tensor | Quantized:
    """A matrix to multiply with: of quantised ones the module, so that it need not be unpacked."""
    found = weights.matrix(name) if isinstance(weights, _Meant) else None
    return weights[name] if found is None else found


class _Meant(Mapping[str, Tensor]):
    def __init__(self, held: Mapping[str, Tensor], meant: Mapping[str, Quantized]) -> None:
        self._held, self._meant = held, meant

    def matrix(self, name: str) -> Quantized | None:
        """The module of that weight, where it is a quantised one."""
        return self._meant.get(name)

    def __getitem__(self, name: str) -> Tensor:
        return self._held[name] if name in self._held else self._meant[name].weight

    def __contains__(self, name: object) -> bool:
        return name in self._held or name in self._meant

    def __iter__(self) -> Iterator[str]:
        yield from self._held
        yield from self._meant

    def __len__(self) -> int:
        return len(self._held) + len(self._meant)
