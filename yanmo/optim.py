"""What turns gradients into steps: weights laid out flat, AdamW, Muon, and learning-rate schedules.

AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101. Muon: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the
scale of its update: Liu et al. 2025, arXiv:2502.16982, equation 4. Master weights: Micikevicius et al. 2018,
arXiv:1710.03740.

All parameters lie in one flat tensor, and so do masters, gradients and moments: summing over ranks, clipping, AdamW and
the way back to bf16 are a few passes over memory instead of a few for each parameter.
Letters: P numbers in all parameters, B matrices of one shape, M rows and N columns of a matrix.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yanmo import recipe
from yanmo.native import pointers, ready

ALIGNMENT = 16
"""Every parameter starts at a multiple of 64 bytes, as a tensor of its own would."""
MOMENTUM = 0.95
BETA1 = 0.9
"""Of AdamW's first moment; that of the second is the recipe's."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
INVERSE_SQRT_STEPS = 10_000
"""Without warmup, inverse-sqrt stays near the peak for this many steps (Raffel et al. 2020, section 3.1.2)."""


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that the network computes in: bf16 where the device has it in hardware, or what the recipe names."""
    if name == "auto":
        name = "bf16" if _has_bf16(device) else "fp32"
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False


RATES = {"adamw": 1e-3, "muon": 3e-3}
"""At width 256. Muon: the best of 1e-3, 3e-3 and 6e-3 after 300 steps of 4,096 tokens, for matrices and the rest alike."""


def default_learning_rate(optimizer: str, width: int) -> float:
    """RATES, falling with the root of the width: AdamW's is 5.8e-4 at 768, as Brown et al. 2020 (table 2.1) use there."""
    return at_width(RATES[optimizer], width)


def at_width(rate: float, width: int) -> float:
    """What a learning rate that is right at width 256 is at another."""
    return rate * math.sqrt(256 / width)


def schedule(kind: str, step: int, steps: int, warmup: float, decay: float) -> float:
    """The share of the peak learning rate at `step` of `steps`, a function of nothing else; never zero.

    A step is taken at its middle, so that neither the first nor the last is lost. warmup and decay are shares of all
    steps; decay is that of constant-decay.
    """
    done, rise = (step + 0.5) / steps, warmup
    if done < rise:
        return done / rise
    left = (1 - done) / (1 - rise)
    if kind == "linear":
        return left
    if kind == "cosine":
        return 0.5 * (1 - math.cos(math.pi * left))
    if kind == "constant-decay":
        return min(1.0, (1 - done) / decay)
    assert kind == "inverse-sqrt", f"no schedule {kind}"
    return math.sqrt(rise / done) if rise > 0 else math.sqrt(1 / (1 + (step + 0.5) / INVERSE_SQRT_STEPS))


@dataclass(frozen=True)
class Roles:
    """The parameters of a module by what an optimizer does with them; a tied parameter appears once.

    matrices: inside the blocks, of two dimensions. others: matrices elsewhere, and those whose brick has set `muon` to False.
    plain: embeddings, norms, biases.
    """

    matrices: dict[str, nn.Parameter]
    others: dict[str, nn.Parameter]
    plain: dict[str, nn.Parameter]


def roles(module: nn.Module, player: nn.Module | None = None) -> Roles:
    """Sort the parameters that are trained: those of `player`, by their names in `module`. Blocks are what a module holds in
    a ModuleList named `blocks`."""
    own = {id(parameter) for parameter in (player or module).parameters()}
    inside = {id(parameter) for block in blocks_of(module) for parameter in block.parameters()}
    embeddings = {
        id(parameter)
        for part in module.modules()
        for parameter in part.parameters(recurse=False)
        if isinstance(part, nn.Embedding)
    }
    sorted_ = Roles({}, {}, {})
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad or id(parameter) not in own:
            continue
        if parameter.ndim != 2 or id(parameter) in embeddings:
            sorted_.plain[name] = parameter
        elif id(parameter) in inside and getattr(parameter, "muon", True):
            sorted_.matrices[name] = parameter
        else:
            sorted_.others[name] = parameter
    return sorted_


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of every network in `module`, in order."""
    return [block for part in module.modules() for block in getattr(part, "blocks", ()) if isinstance(block, nn.Module)]


class Weights:
    """The trained parameters of a module as views of one flat tensor, with fp32 masters and fp32 gradients beside it.

    In bf16 the parameters are rounded copies of the masters; in fp32 they are the masters. The gradient of every
    backward pass is added to `gradient` in fp32 as soon as it exists, so that accumulation is exact and a bf16 gradient
    is freed at once.
    """

    def __init__(self, groups: list[dict[str, nn.Parameter]], dtype: torch.dtype):
        self.parameters = {name: parameter for group in groups for name, parameter in group.items()}
        assert self.parameters, "a module without parameters cannot be trained"
        self.ranges: list[slice] = []
        self.places: dict[str, int] = {}
        size = 0
        for group in groups:
            start = size
            for name, parameter in group.items():
                self.places[name] = size
                size += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
            self.ranges.append(slice(start, size))
        device = next(iter(self.parameters.values())).device
        self.masters = torch.zeros(size, device=device)
        self.sum = GradientSum(self, torch.zeros(size, device=device))
        self._into = self.sum
        self.values = self.masters if dtype == torch.float32 else torch.zeros(size, dtype=dtype, device=device)
        self._apart: Apart | None = None
        self._hooks = []
        for name, parameter in self.parameters.items():
            self.view(self.masters, name).copy_(parameter.data)
            parameter.data = self.view(self.values, name)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(self._accumulate(name)))
        self.refresh()

    @property
    def gradient(self) -> Tensor:
        """Summed over backward passes, (P,)."""
        return self.sum.flat

    def view(self, flat: Tensor, name: str) -> Tensor:
        """The part of a flat tensor (P,) that belongs to a parameter, in the parameter's shape."""
        parameter = self.parameters[name]
        return flat.narrow(0, self.places[name], parameter.numel()).view(parameter.shape)

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Every parameter's part of a flat tensor, by name."""
        return {name: self.view(flat, name) for name in self.parameters}

    def refresh(self) -> None:
        """Copy the masters to the parameters."""
        if self.values is not self.masters:
            self.values.copy_(self.masters)

    def begin(self) -> None:
        """Forget the gradient: what comes next starts a new sum."""
        self.sum.begin()

    def finish(self) -> Tensor:
        """The summed gradient (P,), zero where a parameter had none."""
        return self.sum.finish()

    def apart(self, count: int) -> Apart:
        """Room for so many gradients beside `gradient`, the same for every step."""
        if self._apart is None or len(self._apart.sums) != count:
            self._apart = Apart(self, count)
        return self._apart

    @contextmanager
    def into(self, sum_: GradientSum) -> Iterator[None]:
        """Inside, gradients are added to another sum than `gradient`."""
        self._into = sum_
        try:
            yield
        finally:
            self._into = self.sum

    def release(self) -> None:
        """Give the parameters back to the module in fp32, each with memory of its own."""
        for hook in self._hooks:
            hook.remove()
        for name, parameter in self.parameters.items():
            parameter.data = self.view(self.masters, name).clone()

    def _accumulate(self, name: str):
        def add(parameter: Tensor) -> None:
            assert parameter.grad is not None, "the hook runs after a gradient has been made"
            self._into.add(name, parameter.grad)
            parameter.grad = None

        return add


class GradientSum:
    """A gradient that is summed over backward passes in a flat tensor (P,), in fp32."""

    def __init__(self, weights: Weights, flat: Tensor):
        self.flat, self._places = flat, weights.named(flat)
        self._seen: set[str] = set()

    def begin(self) -> None:
        """Forget it: what comes next starts a new sum."""
        self._seen.clear()

    def add(self, name: str, gradient: Tensor) -> None:
        """Add a parameter's gradient."""
        if name in self._seen:
            add_to(self._places[name], gradient)
        else:
            self._places[name].copy_(gradient)           # the first of a sum: saves a pass that zeroes
            self._seen.add(name)

    def finish(self) -> Tensor:
        """The sum (P,), zero where a parameter had none."""
        for name in self._places.keys() - self._seen:
            self._places[name].zero_()
        self.keep()
        return self.flat

    def keep(self) -> None:
        """Take what is in the tensor for the sum."""
        self._seen = set(self._places)


class Apart:
    """The gradients of several groups of losses, (P,) each, and how they become one. K: groups."""

    def __init__(self, weights: Weights, count: int):
        self._weights = weights
        self.sums = [GradientSum(weights, torch.zeros_like(weights.gradient)) for _ in range(count)]

    def products(self, names: Collection[str]) -> Tensor:
        """The inner products (K, K) of the gradients by these parameters, in double precision, on the CPU."""
        flats = [one.flat for one in self.sums]
        found = torch.zeros(len(flats), len(flats), dtype=torch.float64)
        for place in self._stretches(names):
            for row, first in enumerate(flats):
                for column in range(row + 1):
                    found[row, column] += torch.dot(first[place], flats[column][place]).item()
        return found + found.tril(-1).T

    def join(self, factors: Sequence[float], names: Collection[str]) -> None:
        """Let the gradient be their sum, in which each counts so much by these parameters, and once by all others."""
        joined = self._weights.sum.flat.zero_()
        for one in self.sums:
            joined.add_(one.flat)
        for place in self._stretches(names):
            joined[place].zero_()
            for one, factor in zip(self.sums, factors, strict=True):
                joined[place].add_(one.flat[place], alpha=factor)
        self._weights.sum.keep()

    def _stretches(self, names: Collection[str]) -> list[slice]:
        """The fewest places of the flat tensors that have these parameters and no other."""
        found: list[slice] = []
        places = [*self._weights.places.items(), ("", self._weights.gradient.numel())]
        for (name, start), (_, end) in itertools.pairwise(places):
            if name in names:
                before = found.pop() if found and found[-1].stop == start else slice(start, start)
                found.append(slice(before.start, end))
        return found


def add_to(wide: Tensor, x: Tensor) -> None:
    """Add numbers to others of the same shape, in float32 and without gaps. 50 million in bf16 take 10 ms on 2 Xeon cores, 73 by
    torch."""
    kernels = ready("pointwise", x)
    if kernels is None or not x.is_contiguous():
        wide.add_(x)
    else:
        kernels.add_to_wide(*pointers(x, wide), ctypes.c_int64(x.numel()), torch.get_num_threads())


class Muon:
    """Momentum, orthogonalised: every matrix moves by the nearest orthogonal matrix to its averaged gradient.

    torch.optim.Muon does the same for one matrix after another. Here matrices of one shape are multiplied together (258
    instead of 432 ms for 4 blocks of width 512 on 2 Xeon cores), and a parameter with `parts` (numbers of rows: query,
    key, value) is taken apart first.
    """

    def __init__(self, weights: Weights, place: slice, names: list[str], decay: float, paces: Mapping[str, float]):
        """`place` holds the matrices of these names. paces: what the rate of each is multiplied by, 1 if not said."""
        self.weights, self.place, self.decay = weights, place, decay
        self.momentum = torch.zeros_like(weights.masters[place])
        self.shapes: dict[tuple[int, int], list[tuple[int, tuple[int, int], float]]] = {}
        self.stretches = _stretches(weights, place, paces)
        for name in names:
            parameter = weights.parameters[name]
            start = weights.places[name] - place.start
            for rows in getattr(parameter, "parts", (parameter.shape[0],)):
                shape = (rows, parameter.shape[1])
                self.shapes.setdefault(shape, []).append((start, shape, paces.get(name, 1.0)))
                start += rows * shape[1]
            end = weights.places[name] - place.start + parameter.numel()
            assert start == end, f"the parts of {name} are not its rows: {parameter.shape[0]}"

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step. The gradient is used up: its memory holds the update."""
        masters, update = self.weights.masters[self.place], self.weights.gradient[self.place]
        self.momentum.lerp_(update, 1 - MOMENTUM)
        update.lerp_(self.momentum, MOMENTUM)  # Nesterov
        for place, pace in self.stretches:
            self.weights.masters[place].mul_(1 - rate * pace * self.decay)
        for (rows, columns), places in self.shapes.items():
            dtype = self.weights.values.dtype
            updates_BMN = torch.empty(len(places), rows, columns, dtype=dtype, device=masters.device)
            for matrix, (start, shape, _) in zip(updates_BMN, places, strict=True):
                matrix.copy_(update.narrow(0, start, rows * columns).view(shape))
            scale = 0.2 * math.sqrt(max(rows, columns))  # as large as AdamW's update usually is
            for matrix, (start, shape, pace) in zip(orthogonal(updates_BMN), places, strict=True):
                masters.narrow(0, start, rows * columns).view(shape).add_(matrix, alpha=-rate * pace * scale)


def orthogonal(matrices_BMN: Tensor, steps: int = 5) -> Tensor:
    """Near U V^T of each matrix's singular value decomposition: singular values between about 0.7 and 1.2. (B, M, N).

    Newton-Schulz iteration of fifth order (Jordan et al. 2024), in the type that it is given.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices_BMN.shape[1] > matrices_BMN.shape[2]
    x = matrices_BMN.mT if tall else matrices_BMN
    x = x / x.norm(dim=(1, 2), keepdim=True, dtype=torch.float32).clamp(min=1e-7).to(x.dtype)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _by_pace(group: dict[str, nn.Parameter], paces: Mapping[str, float]) -> dict[str, nn.Parameter]:
    """Parameters of one pace side by side, otherwise in their order."""
    return dict(sorted(group.items(), key=lambda entry: paces.get(entry[0], 1.0)))


def _stretches(weights: Weights, place: slice, paces: Mapping[str, float]) -> list[tuple[slice, float]]:
    """A place of the flat tensor cut up where the pace changes: as many passes as there are paces, not parameters."""
    found: list[tuple[slice, float]] = []
    for name, start in weights.places.items():
        pace = paces.get(name, 1.0)
        if place.start <= start < place.stop and (not found or found[-1][1] != pace):
            found = [*found[:-1], *((slice(was.start, start), own) for was, own in found[-1:]), (slice(start, place.stop), pace)]
    return found


class Frozen:
    """The parameters of a module that nobody moves: computed with in the trainer's type of numbers, and given back as the very
    tensors that they were. Buffers are left alone."""

    def __init__(self, module: nn.Module, dtype: torch.dtype):
        frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
        self._kept = [(parameter, parameter.data) for parameter in frozen if parameter.dtype == torch.float32 != dtype]
        for parameter, values in self._kept:
            parameter.data = values.to(dtype)

    def release(self) -> None:
        for parameter, values in self._kept:
            parameter.data = values


class Optimizer:
    """AdamW, or Muon with AdamW, on fp32 masters: `weights.begin`, backward passes, `norm`, then `step` clips and moves."""

    def __init__(
        self,
        module: nn.Module,
        training: recipe.Training,
        width: int,
        dtype: torch.dtype,
        player: nn.Module | None = None,
        paces: Mapping[str, float] | None = None,
    ):
        """`player`: the part of the module whose parameters are moved, by default all of it. paces: what the learning rate of
        a parameter is multiplied by, by its name in the module, 1 if not said."""
        self.training, paces = training, paces or {}
        found = roles(module, player)
        groups = [_by_pace(group, paces) for group in (found.matrices, found.others, found.plain)]
        self.weights = Weights(groups, dtype)
        self.rate = training.learning_rate or default_learning_rate(training.optimizer, width)
        self.matrix_rate = training.matrix_learning_rate or self.rate
        matrices, others, plain = self.weights.ranges
        self.muon = None
        if training.optimizer == "muon" and found.matrices:
            self.muon = Muon(self.weights, matrices, list(found.matrices), training.weight_decay, paces)
            matrices = slice(matrices.stop, matrices.stop)
        decayed = _stretches(self.weights, slice(matrices.start, others.stop), paces)
        flat = [(place, pace, training.weight_decay) for place, pace in decayed]
        flat += [(place, pace, 0.0) for place, pace in _stretches(self.weights, plain, paces)]
        self._flat = [(place, nn.Parameter(self.weights.masters[place])) for place, *_ in flat]
        groups = [
            {"params": [part], "weight_decay": decay, "pace": pace}
            for (_, part), (_, pace, decay) in zip(self._flat, flat, strict=True)
        ]
        # On 2 Xeon cores, 23 million numbers: fused 18 ms, foreach 77 ms, one after another 79 ms.
        self.adamw = torch.optim.AdamW(groups, lr=self.rate, betas=(BETA1, training.beta2), fused=True) if groups else None
        self._state: list[dict[str, Tensor]] = []
        for place, part in self._flat:
            assert self.adamw is not None, "there are groups"
            part.grad = self.weights.gradient[place]
            self._state.append({name: torch.zeros_like(part) for name in ("exp_avg", "exp_avg_sq")})
            self._state[-1]["step"] = torch.zeros((), device=part.device)
            self.adamw.state[part] = self._state[-1]

    def rates(self, step: int, steps: int, pace: float = 1.0) -> tuple[float, float]:
        """The learning rates of AdamW and of Muon at a step, which `pace` multiplies."""
        share = pace * schedule(self.training.schedule, step, steps, self.training.warmup, self.training.decay)
        return self.rate * share, self.matrix_rate * share

    def norm(self) -> Tensor:
        """The norm of the whole summed gradient, before clipping, as a scalar; a number that is not finite stays so."""
        return torch.linalg.vector_norm(self.weights.finish())

    @torch.no_grad()
    def step(self, step: int, steps: int, norm: float, pace: float = 1.0) -> float:
        """Clip by `norm`, move the masters, and copy them to the parameters. Returns AdamW's learning rate."""
        rate, matrix_rate = self.rates(step, steps, pace)
        if self.training.clip is not None and norm > self.training.clip:
            self.weights.gradient.mul_(self.training.clip / norm)
        if self.adamw is not None:
            for group in self.adamw.param_groups:
                group["lr"] = rate * group["pace"]
            self.adamw.step()
        if self.muon is not None:
            self.muon.step(matrix_rate)
        self.weights.refresh()
        return rate

    def state(self) -> dict[str, Tensor]:
        """All but the weights, by name: `first.NAME`, `second.NAME`, `momentum.NAME`, and how often AdamW has stepped."""
        return {f"steps.{index}": state["step"] for index, state in enumerate(self._state)} | dict(self._moments())

    def load(self, masters: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        """Set masters and moments to what `weights.named(weights.masters)` and `state` gave."""
        for name, place in self.weights.named(self.weights.masters).items():
            place.copy_(masters[name])
        for name, place in self._moments():
            place.copy_(state[name])
        for index, flat in enumerate(self._state):
            flat["step"].copy_(state[f"steps.{index}"])
        self.weights.refresh()

    def flat(self) -> list[Tensor]:
        """Every tensor that changes from step to step, masters first."""
        momentum = [] if self.muon is None else [self.muon.momentum]
        return [self.weights.masters, *momentum, *(tensor for state in self._state for tensor in state.values())]

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        """Every moment of every parameter, as a view in the parameter's shape."""
        places = [place for place, _ in self._flat]
        kinds = {
            "first": [(place, state["exp_avg"]) for place, state in zip(places, self._state, strict=True)],
            "second": [(place, state["exp_avg_sq"]) for place, state in zip(places, self._state, strict=True)],
        }
        kinds["momentum"] = [] if self.muon is None else [(self.muon.place, self.muon.momentum)]
        for kind, parts in kinds.items():
            for place, moments in parts:
                for name, start in self.weights.places.items():
                    if place.start <= start < place.stop:
                        parameter = self.weights.parameters[name]
                        view = moments.narrow(0, start - place.start, parameter.numel()).view(parameter.shape)
                        yield f"{kind}.{name}", view
