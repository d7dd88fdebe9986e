"""Adapters: what makes a student of a model: low-rank changes of its weights, or a cut that leaves layers out.

Low-rank changes (LoRA, Hu et al. 2021), by peft, are merged into the weights that they change, so that a merged student
costs what the model costs. A cut has one linear map in the place of a block of layers (ReplaceMe, Shopkhoev et al.
2025). All other weights are the model's own, in the same memory.

Shapes: W width of the residual stream.
"""

import copy
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from eexit.cpu.packed_linear import is_whole, pack_linear_layers
from eexit.errors import UsageError, first_line
from eexit.model.decoder import Decoder
from eexit.model.layerwise import KeysAlone
from eexit.model.quantization import quantization_of

WEIGHTS: Final = "adapter_model.safetensors"
FILES: Final = ("adapter_config.json", WEIGHTS)  # as peft saves them
PREFIX: Final = "base_model.model."  # of names in WEIGHTS; names of modules of the model follow
CUT_WEIGHTS: Final = "weights.safetensors"  # of a cut
CUT: Final = "cut."  # before the names of its tensors

_CHANGE: Final = re.compile(r"\.(?:lora_|base_layer\.|weight$|bias$)")  # what follows the name of a changed module


def merged(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """A copy of the model with the adapter in this folder merged into it; the model stays as it is.

    It shares the memory of all parameters that the adapter does not change. Raises `UsageError` if the folder has no
    adapter or one that does not fit the model, whose weights must be on one device and not quantised.
    """
    path = adapter_in(folder)
    if len(devices := sorted({str(parameter.device) for parameter in model.parameters()})) > 1:
        raise UsageError(
            f"--adapter {folder} is merged into weights, and those of this model are on {', '.join(devices)}: load the "
            "model with the adapter merged, or give a cut"
        )
    if (quantization := quantization_of(model)) is not None:
        refuse_merging(folder, quantization)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever peft warns of is refused or does no harm
            student, misfits = _with_adapter(sharing(model), path)
            if not misfits:
                result: PreTrainedModel = student.merge_and_unload(safe_merge=True).eval()  # refuses NaN
                return result
    except Exception as error:  # a configuration may make peft raise anything
        raise UsageError(f"--adapter {folder} can't be used with this model: {first_line(error)}") from error
    raise UsageError(f"--adapter {folder} is of another model: {misfits[0]} fits none of its weights")


def own_weights(model: nn.Module, folder: str) -> int:
    """How many weights a student with this adapter would not share with the model, whose device may be `meta`.

    Raises `UsageError` as `merged` does.
    """
    if is_cut(folder):
        return read_cut(folder).n_weights
    path = adapter_in(folder)
    try:
        with safe_open(path / WEIGHTS, framework="pt") as held:
            names = {_CHANGE.split(name.removeprefix(PREFIX))[0] for name in held.keys()}  # noqa: SIM118
        changed = [model.get_submodule(name) for name in names]
    except Exception as error:  # safetensors' own, and torch's for a module that is not there
        raise UsageError(f"--adapter {folder} can't be used with this model: {first_line(error)}") from error
    return sum(parameter.numel() for module in changed for parameter in module.parameters(recurse=False))


def refuse_merging(folder: str, quantization: str) -> None:
    """Raises `UsageError` for an adapter of quantised weights, unless it is a cut, which changes none."""
    if not is_cut(folder):
        raise UsageError(
            f"--adapter {folder} is merged into weights, and those of this model are quantised ({quantization}): load "
            "the model with weights as they were, or give a cut"
        )


def adapter_in(folder: str) -> Path:
    """The folder, once it is found to have what peft saves. Raises `UsageError` if it does not."""
    path = Path(folder).expanduser()
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise UsageError(f"--adapter {folder} has no {missing[0]}: give a folder that peft has saved an adapter in")
    return path


def sharing(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model's modules, with parameters of its own that have the same memory, but for quantised ones."""
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    shared |= {id(each): _parameter(each) if is_whole(each) else each for each in model.parameters()}
    return copy.deepcopy(model, shared)


def _parameter(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach(), requires_grad=False)


def _with_adapter(model: PreTrainedModel, path: Path) -> tuple[Any, Sequence[str]]:
    """The model with the adapter beside its weights, and the names of weights that only one of them has."""
    from peft import PeftConfig, PeftModel  # imported late: it takes a second
    from peft.tuners.tuners_utils import BaseTunerLayer

    student = PeftModel(model, PeftConfig.from_pretrained(str(path)))
    found = student.load_adapter(path, "default", torch_device=str(model.device))
    for module in student.modules():
        if isinstance(module, BaseTunerLayer):  # a changed embedding is no longer tied to the head
            base = module.get_base_layer()
            for name, parameter in list(base.named_parameters(recurse=False)):
                setattr(base, name, _parameter(parameter))
    return student, [*found.missing_keys, *found.unexpected_keys]


@dataclass(frozen=True, eq=False)
class Cut:
    """A block of layers, and the linear change of the stream that enters it which stands for all that they add."""

    layers: range
    weight_WW: Tensor  # of stream · weight + bias, fp32
    bias_W: Tensor

    @property
    def n_weights(self) -> int:
        return self.weight_WW.numel() + self.bias_W.numel()

    def tensors(self) -> dict[str, Tensor]:
        ends = torch.tensor([self.layers.start, self.layers.stop])
        return {f"{CUT}layers": ends, f"{CUT}weight": self.weight_WW, f"{CUT}bias": self.bias_W}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Cut":
        """The cut that has these `tensors`."""
        return cls(range(*tensors[f"{CUT}layers"].tolist()), tensors[f"{CUT}weight"], tensors[f"{CUT}bias"])


def is_cut(folder: str) -> bool:
    """Whether the folder has a cut, rather than what peft saves."""
    path = Path(folder).expanduser()
    if any((path / name).is_file() for name in FILES):
        return False
    with suppress(SafetensorError, OSError), safe_open(path / CUT_WEIGHTS, framework="pt") as held:
        return f"{CUT}weight" in held.keys()  # noqa: SIM118
    return False


def read_cut(folder: str) -> Cut:
    """The cut in a folder that has one."""
    return Cut.of(load_file(Path(folder).expanduser() / CUT_WEIGHTS))


def cut_out(decoder: Decoder, cut: Cut, packed: bool = False) -> Decoder:
    """A decoder with the cut in the place of its block, which it leaves out; all else is shared, and stays as it is.

    Layers keep their numbers: the map stands where the block's first layer was, and the others of the block hand on
    what it made. None of them has keys and values. With `packed`, the map's matrix is packed, as those of layers are.
    Raises `ValueError` for a cut that does not fit the decoder.
    """
    width, last = len(cut.bias_W), cut.layers.stop - 1
    if width != decoder.width or last >= decoder.n_layers:
        raise ValueError(f"it is of a model with a width of {width} that has a layer {last}, which this one is not")
    stand_ins = [_Change(cut, decoder), *(_HandingOn() for _ in cut.layers[1:])]
    if packed:
        pack_linear_layers(stand_ins[0])
    student = copy.copy(decoder)
    student.cut, student.whole = cut.layers, decoder
    student.layers, student.for_keys = list(decoder.layers), list(decoder.for_keys)
    student.cache_shapes = list(decoder.cache_shapes)
    for layer, stand_in in zip(cut.layers, stand_ins, strict=True):
        student.layers[layer], student.for_keys[layer] = stand_in, KeysAlone(_HandingOn())
        student.cache_shapes[layer] = ()
    return student


class _Change(nn.Module):
    """Takes the place of a layer: adds a linear function of the residual stream to it."""

    def __init__(self, cut: Cut, decoder: Decoder):
        super().__init__()
        self.linear = nn.Linear(decoder.width, decoder.width, device="meta")
        device = decoder.device_of(cut.layers.start)
        for name, tensor in (("weight", cut.weight_WW.T), ("bias", cut.bias_W)):
            setattr(self.linear, name, _parameter(tensor.to(device, decoder.dtype).contiguous()))

    def forward(self, hidden_BTW: Tensor, *_: object, **__: object) -> Tensor:
        changed_BTW: Tensor = hidden_BTW + self.linear(hidden_BTW)
        return changed_BTW


class _HandingOn(nn.Module):
    """Takes the place of a layer that is left out."""

    def forward(self, hidden_BTW: Tensor, *_: object, **__: object) -> Tensor:
        return hidden_BTW
