"""Long short-term memory over packed rows (Hochreiter and Schmidhuber 1997; with a forget gate, Gers et al. 2000).

    i, f, o = sigmoid(...), g = tanh(W x + U h' + b);  c = f c' + i g;  h = o tanh(c)

All texts of a batch take a step at a time, the longest first, so that those still running are the first rows and padding is
never computed; every text starts from a state of its own. torch's LSTM on a CPU either computes the padding or, with packed
sequences, skips it at a third of the speed, and sums a weight's gradient step by step, where one product after the last step
does. Forward and backward of 2,048 tokens in 24 texts, 256 wide, one Xeon core: 75 ms in float32 and 68 ms in bfloat16; torch's
473 and 161 ms padded, 1,076 and 495 ms packed.
Letters: N tokens of text, S texts, s of them still running at a step, I inputs, D width of the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.layers.linear import weight_gradient
from yanmo.layers.texts import Texts


@dataclass(frozen=True)
class Steps:
    """The tokens of some texts in the order they are read: the first ones of all texts, then the second ones.

    places: (N,) the place of each in R*T. texts: (S,) which text stands in which row, the longest first. bounds: where steps
    begin among the N, and N. before: (N,) where a token's predecessor stands when the states that texts start from are put in
    front of all. lasts: (S,) the last token of the text in each row.
    """

    places: Tensor
    texts: Tensor
    bounds: tuple[int, ...]
    before: Tensor
    lasts: Tensor

    @staticmethod
    def of(texts: Texts) -> Steps:
        sizes, order = texts.sizes.sort(descending=True, stable=True)
        running = torch.bincount(sizes - 1).flip(0).cumsum(0).flip(0)      # texts that have a token at each step
        bounds = (0, *accumulate(running.tolist()))
        begins = torch.tensor(bounds, device=sizes.device)
        rank = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=sizes.device))
        real = texts.real.nonzero()[:, 0]
        number = begins[texts.position[real]] + rank[texts.owner[real]]
        places = torch.empty_like(real).index_copy_(0, number, real)
        tokens = torch.arange(len(real), device=sizes.device)
        # Two steps are as far apart as the earlier one has rows; what comes before the first are the starting states.
        before = tokens + len(order) - torch.cat([running.new_tensor([len(order)]), running])[:-1].repeat_interleave(running)
        return Steps(places, order, bounds, before, begins[sizes - 1] + torch.arange(len(order), device=sizes.device))

    def gather(self, x_RTD: Tensor) -> Tensor:
        """(R, T, D) to (N, D)."""
        return x_RTD.flatten(0, 1).index_select(0, self.places)

    def scatter(self, x_ND: Tensor, rows: int, length: int) -> Tensor:
        """(N, D) to (R, T, D), zeros at padding."""
        out = x_ND.new_zeros(rows * length, x_ND.shape[-1])
        return out.index_copy(0, self.places, x_ND).view(rows, length, -1)


@dataclass(frozen=True)
class LstmState:
    """What one layer goes on from: what it gave out last and what it holds, (S, D) each."""

    given: Tensor
    held: Tensor


class Lstm(nn.Module):
    """One layer. Weights are those of torch.nn.LSTM, gates in its order (i, f, g, o); its two biases are one here.

    Its matrices are left to AdamW: 2 layers 128 wide, 300 steps of 1,024 tokens of English came to a held-out loss of 6.17, 5.41
    and 4.83 with it at learning rates of 1.4e-3, 4e-3 and 1e-2, and to 5.78 and 7.63 with Muon, gates apart, at 4.2e-3 and 8e-3.
    """

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.input = nn.Parameter(torch.empty(4 * width, inputs))
        self.state = nn.Parameter(torch.empty(4 * width, width))
        self.bias = nn.Parameter(torch.empty(4 * width))
        for matrix in (self.input, self.state):
            matrix.muon = False  # pyright: ignore[reportAttributeAccessIssue]  # for yanmo.optim.roles
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """torch's own start, and forget gates that begin open (Jozefowicz et al. 2015, section 2.2)."""
        width = self.state.shape[1]
        for matrix in (self.input, self.state):
            matrix.uniform_(-(width**-0.5), width**-0.5)
        self.bias.zero_()
        self.bias[width : 2 * width] = 1.0

    def forward(self, x_NI: Tensor, steps: Steps, state: LstmState | None = None) -> tuple[Tensor, LstmState]:
        """(N, D), and each text's last state, which carries no gradient of what is held. state: of the texts in their own
        order, by default zeros."""
        if state is None:
            given = x_NI.new_zeros(len(steps.texts), self.state.shape[1])
            state = LstmState(given, given)
        given, held = (part.index_select(0, steps.texts) for part in (state.given, state.held))
        weights = (weight.to(x_NI.dtype) for weight in (self.input, self.state, self.bias))
        out_ND, held_ND = _Lstm.apply(x_NI, *weights, given, held, steps)  # pyright: ignore[reportGeneralTypeIssues]
        back = steps.texts.argsort()
        return out_ND, LstmState(*(all_ND.index_select(0, steps.lasts).index_select(0, back) for all_ND in (out_ND, held_ND)))


class _Lstm(torch.autograd.Function):
    """Pointwise work and what is held are in float32 (or wider) whatever the products are in."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_in: Tensor, weight_state: Tensor, bias: Tensor, given: Tensor, held: Tensor, steps: Steps
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        width = weight_state.shape[1]
        from_x, turned = torch.addmm(bias, x, weight_in.t()), weight_state.t()
        gates = torch.empty(from_x.shape, dtype=wide, device=x.device)
        given_all, held_all = x.new_empty(len(x), width), gates.new_empty(len(x), width)
        given, held = given.to(x.dtype), held.to(wide)
        h, c = given, held
        for begin, end in pairwise(steps.bounds):
            now = gates[begin:end].copy_(torch.addmm(from_x[begin:end], h[: end - begin], turned))
            i, f, g, o = now.split(width, 1)
            now[:, : 2 * width].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            c = torch.addcmul(i * g, f, c[: end - begin], out=held_all[begin:end])
            h = given_all[begin:end].copy_(torch.tanh(c).mul_(o))
        ctx.save_for_backward(x, weight_in, weight_state, given, held, gates, given_all, held_all)
        ctx.steps = steps
        ctx.mark_non_differentiable(held_all)
        return given_all, held_all

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_given: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight_in, weight_state, given, held, gates, given_all, held_all = ctx.saved_tensors
        steps: Steps = ctx.steps
        width = weight_state.shape[1]
        held_before = torch.cat([held, held_all]).index_select(0, steps.before)
        i, f, g, o = gates.split(width, 1)
        tanh = held_all.tanh()
        to_held = (1 - tanh.square()).mul_(o)                              # of h, by c
        slopes = torch.empty_like(gates)                                   # of c (the last: of h) by what goes into the gates
        torch.mul(i * (1 - i), g, out=slopes[:, :width])
        torch.mul(f * (1 - f), held_before, out=slopes[:, width : 2 * width])
        torch.mul(1 - g.square(), i, out=slopes[:, 2 * width : 3 * width])
        torch.mul(o * (1 - o), tanh, out=slopes[:, 3 * width :])
        grads = torch.empty(gates.shape, dtype=x.dtype, device=x.device)
        grad_h, grad_c = grad_given.to(gates.dtype, copy=True), torch.zeros_like(held)
        after = 0                                                          # texts that had a token at the step after
        for begin, end in reversed(list(pairwise(steps.bounds))):
            to_h = grad_h[begin:end]
            if after:
                to_h[:after] += grads[end : end + after] @ weight_state
            after = end - begin
            to_c = grad_c[:after].addcmul_(to_h, to_held[begin:end])
            slope = slopes[begin:end].view(after, 4, width)
            slope[:, :3] *= to_c[:, None]
            slope[:, 3] *= to_h
            grads[begin:end] = slopes[begin:end]
            to_c *= f[begin:end]
        grad_start = grads[:after] @ weight_state
        sums = torch.empty(4 * width, dtype=gates.dtype, device=x.device)
        grad_in = weight_gradient(grads, x, sums=sums)
        given_before = torch.cat([given, given_all]).index_select(0, steps.before)
        grad_state = weight_gradient(grads, given_before)
        return grads @ weight_in, grad_in, grad_state, sums.to(x.dtype), grad_start, grad_c.to(held.dtype), None
