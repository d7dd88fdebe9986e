"""Adapters: changes of a model's weights, such as low-rank ones (LoRA, Hu et al. 2021).

Adapters of peft are merged into the weights that they change, so that the student costs what the model costs. All other
weights share the model's memory. A fine-tuned model of the same shape is a student too.
"""

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import MethodType
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from eexit.cpu.packed_linear import PackedLinear, is_unquantized
from eexit.errors import UsageError, first_line
from eexit.model.checkpoint import quietly
from eexit.model.quantization import quantization_of
from eexit.model.sources import is_peft


def merged(model: PreTrainedModel, folder: str) -> PreTrainedModel:
    """Return a copy of the model with the adapter in this folder, sharing the memory of all unchanged parameters.

    A fine-tuned model in the folder is loaded as it is. Raise `UsageError` if the folder has neither or does not fit,
    or if the model's weights are quantised or on several devices.
    """
    path = Path(folder).expanduser()
    if not is_peft(path):
        return _fine_tuned(model, path)
    refuse_without_peft(folder)
    if len(devices := sorted({str(parameter.device) for parameter in model.parameters()})) > 1:
        refuse_merging(folder, f"on {', '.join(devices)}")
    if (quantization := quantization_of(model)) is not None:
        refuse_merging(folder, f"quantised ({quantization})")
    from peft import PeftConfig, PeftModel  # imported late: it takes a second
    from peft.tuners.tuners_utils import BaseTunerLayer

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever peft warns of is refused or does no harm
            student: Any = PeftModel(sharing(model), PeftConfig.from_pretrained(str(path)))
            loaded = student.load_adapter(path, "default", torch_device=str(model.device))
            for module in student.modules():
                if isinstance(module, BaseTunerLayer):  # a changed embedding is no longer tied to the head
                    base = module.get_base_layer()
                    for name, parameter in list(base.named_parameters(recurse=False)):
                        setattr(base, name, _parameter(parameter))
            if not (misfits := [*loaded.missing_keys, *loaded.unexpected_keys]):
                result: PreTrainedModel = student.merge_and_unload(safe_merge=True).eval()  # refuses NaN
                return result
    except Exception as error:  # a configuration may make peft raise anything
        raise UsageError(f"--adapter {folder} can't be used with this model: {first_line(error)}") from error
    raise UsageError(f"--adapter {folder} is of another model: {misfits[0]} fits none of its weights")


def refuse_merging(folder: str, how: str) -> None:
    """Raise `UsageError` for an adapter of weights that are quantised, or on several devices."""
    raise UsageError(
        f"--adapter {folder} is merged into weights, and those of this model are {how}: load the model with weights as "
        "they were, on one device"
    )


def refuse_without_peft(folder: str) -> None:
    if find_spec("peft") is None:
        raise UsageError(f"--adapter {folder} is peft's, which is not there: pip install 'eexit[student]'")


def _fine_tuned(model: PreTrainedModel, path: Path) -> PreTrainedModel:
    try:
        with quietly():
            student: Any = type(model).from_pretrained(path, dtype=model.dtype)
    except Exception as error:  # a checkpoint may make transformers raise anything
        raise UsageError(f"--adapter {path} can't be used with this model: {first_line(error)}") from error
    shapes, other = ({name: part.shape for name, part in each.named_parameters()} for each in (model, student))
    if differs := [name for name in {**shapes, **other} if shapes.get(name) != other.get(name)]:
        raise UsageError(f"--adapter {path} is of another model: {differs[0]} does not have the shape of this one's")
    on_device: PreTrainedModel = student.to(model.device).eval()
    return on_device


def sharing(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model whose parameters share the original's memory.

    Quantised parameters, packed layers, forward hooks and patched forwards stay the original objects, so that effects
    of hooks reach their author.
    """
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    shared |= {id(module): module for module in model.modules() if isinstance(module, PackedLinear)}
    shared |= {id(each): _parameter(each) if is_unquantized(each) else each for each in model.parameters()}
    shared |= {id(each): each for module in model.modules() for each in _hooks(module)}
    return copy.deepcopy(model, shared)


def _hooks(module: nn.Module) -> list[object]:
    """Return a module's forward hooks, and a patched forward that is a method of something else than a module."""
    forward = vars(module).get("forward")
    is_patched = isinstance(forward, MethodType) and not isinstance(forward.__self__, nn.Module)
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *([forward] if is_patched else ())]


def _parameter(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach(), requires_grad=False)
