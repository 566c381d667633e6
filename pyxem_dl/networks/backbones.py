"""From an image of a pattern to features: a plain network of our own, and timm's by name."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch
from torch import nn

from pyxem_dl.networks.arguments import check_backbone_arguments
from pyxem_dl.networks.outline import WithoutWeights, needs_weights, with_weights

# Names of the literature's networks: timm's name, and what it is given beside the number of channels
_LITERATURE = {
    "densenet121": ("densenet121", {}),
    "swin_tiny": ("swin_tiny_patch4_window7_224", {}),
    # as small as the patterns: windows of 8 patches divide 128 px / 4 px at all levels; not averaged over the places,
    # for in a pattern it is the places of the spots that tell
    "swin_tiny_adapted": ("swin_tiny_patch4_window7_224", {"img_size": 128, "window_size": 8, "global_pool": ""}),
}
#: Networks that are known here by their own names
BACKBONES = ("cnn", *_LITERATURE)
DEFAULT_SIZE = 128
_N_FEATURES = 512


class PlainNetwork(nn.Module):
    """Convolutions, each halving the image, and a layer that sees all of what is left.

    Parameters
    ----------
    size : int
        Pixels along each side of the image.
    width : int
        Channels of the first convolution; each further one has twice as many, up to 8 times.
    depth : int
        Number of halvings.
    kernel : int
        Pixels along each side of the convolutions' kernels; odd.
    num_features : int
        Of the result.
    dropout : float
        In front of the last layer.
    """

    def __init__(
        self, size: int = DEFAULT_SIZE, width: int = 24, depth: int = 5, kernel: int = 5,
        num_features: int = _N_FEATURES, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        if kernel % 2 == 0 or size < 2**depth:
            raise ValueError(f"kernel ({kernel}) must be odd, and size at least 2 to the power of depth ({2**depth}).")
        layers, channels = [], 1
        for i in range(depth):
            after = width * 2 ** min(i, 3)
            for before, stride in ((channels, 2), (after, 1)):
                layers += [
                    nn.Conv2d(before, after, kernel if stride == 2 else 3, stride, (kernel if stride == 2 else 3) // 2),
                    # the same for one pattern as for many, and on one device as on many
                    nn.GroupNorm(4, after), nn.GELU(),
                ]  # fmt: skip
            channels = after
        for _ in range(depth):
            size = (size + 1) // 2
        self.layers = nn.Sequential(*layers, *_all_places(channels * size**2, num_features, dropout))
        self.n_out = num_features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, num_features) of images (n, 1, size, size)."""
        return self.layers(images)


def _all_places(n: int, num_features: int = _N_FEATURES, dropout: float = 0.1) -> tuple[nn.Module, ...]:
    """Make layers that see all places of what a network leaves of an image, n numbers."""
    # units that are never active again would leave one prediction for all patterns
    return nn.Flatten(), nn.Dropout(dropout), nn.Linear(n, num_features), nn.GELU(), nn.LayerNorm(num_features)


def default_size(name: str) -> int:
    """Pixels along each side of the images that a network is given, where nothing else is said.

    Parameters
    ----------
    name : str
        One of :data:`BACKBONES`, or a name of timm.

    Raises
    ------
    ValueError
        If nobody knows it; with the names that are near.
    """
    import timm

    if name == "cnn":
        return DEFAULT_SIZE
    known, arguments = _LITERATURE.get(name, (name, {}))
    if not timm.is_model(known):
        near = difflib.get_close_matches(name, [*BACKBONES, "polar", *timm.list_models()], n=6, cutoff=0.5)
        raise ValueError(
            f"There is no network {name!r} here (polar, {', '.join(BACKBONES)}) or in timm "
            f"{timm.__version__}."
            + (f" Did you mean {', '.join(near)}?" if near else "")
        )
    pretrained = timm.get_pretrained_cfg(known)
    return arguments.get("img_size") or (pretrained.input_size[-1] if _has_fixed_size(known) else DEFAULT_SIZE)


def _has_fixed_size(known: str) -> bool:
    import timm

    pretrained = timm.get_pretrained_cfg(known)
    return pretrained is not None and pretrained.fixed_input_size


def make_backbone(name: str, size: int, arguments: dict, pretrained=False) -> nn.Module:
    """Make a network that turns images (n, 1, size, size) into features (n, network.n_out).

    Parameters
    ----------
    name : str
        One of :data:`BACKBONES`, or a name of timm.
    size : int
        Pixels along each side.
    arguments : dict
        Of the network.  For timm's with ``global_pool=""`` a layer follows that sees all places.
    pretrained : bool, str or pathlib.Path
        Take weights that were learnt on ImageNet: timm's own, or those of a local file in timm's or safetensors'
        format.  The weights of the three colours are added up.

    Raises
    ------
    ValueError
        For an unknown name, images that it cannot take, or weights that cannot be had.
    """
    check_backbone_arguments(name, arguments)
    default = default_size(name)
    if name == "cnn":
        if pretrained:
            raise ValueError("The plain network 'cnn' has no pretrained weights: use pretrained=False.")
        return PlainNetwork(size, **arguments)
    import timm

    known, own = _LITERATURE.get(name, (name, {}))
    arguments = own | arguments
    if size != default and "img_size" not in arguments and _has_fixed_size(known):
        arguments["img_size"] = size
    elif "img_size" in own:
        arguments["img_size"] = size
    def make():
        return timm.create_model(known, num_classes=0, in_chans=1, **arguments)

    try:
        features = _features(make, size)
        network = _made(make)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ValueError(
            f"The network {name!r} cannot take images of {size} x {size} px with {arguments or 'no arguments'}: "
            f"{error}. Its default size is {default}."
        ) from error
    if pretrained:
        _load_pretrained(network, known, arguments, pretrained)
    n_out = features.numel()
    if len(features) > 1:
        network, n_out = nn.Sequential(network, *_all_places(n_out)), _N_FEATURES
    network.n_out = n_out
    return network


def _made(make) -> nn.Module:
    """Make a network; inside of :class:`WithoutWeights` without its weights, where it can be."""
    try:
        return make()
    except RuntimeError as error:
        if not needs_weights(error):
            raise
    with with_weights():
        return make()


def _features(make, size: int) -> torch.Size:
    """See whether an image of a size goes through, and what shape comes out: many networks only say so then.

    Without weights, so that sizes that do not fit are found out before memory is taken.
    """
    try:
        with WithoutWeights(), torch.no_grad():
            network = make().to("meta").eval()
            return network(torch.zeros(1, 1, size, size, device="meta")).shape[1:]
    except RuntimeError as error:
        if not needs_weights(error):
            raise
    # the few that compute with their weights while they are built
    with with_weights(), torch.no_grad():
        return make().eval()(torch.zeros(1, 1, size, size)).shape[1:]


def _refuse_pickles(path: Path) -> None:
    """Refuse a file of weights that would run code when it is loaded, whatever timm's release does by itself."""
    if path.suffix.lower() == ".safetensors":
        return
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # of the many ways in which a file can be none
        raise ValueError(
            f"{str(path)!r} holds more than weights, or is damaged. It is not loaded, because a pickle may run any "
            "code. Give a .safetensors file, or a .pth file that holds only tensors."
        ) from error


def _load_pretrained(network: nn.Module, known: str, arguments: dict, pretrained) -> None:
    """Give a network weights that were learnt on ImageNet, or say that none could be had."""
    import timm

    overlay = None if pretrained is True else {"file": str(pretrained)}
    if overlay is not None:
        if not Path(pretrained).is_file():
            raise ValueError(f"There is no file {str(pretrained)!r} with pretrained weights.")
        _refuse_pickles(Path(pretrained))
    try:
        loaded = timm.create_model(
            known, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, in_chans=1, **arguments
        )
    except Exception as error:  # timm passes on whatever the hub, the file system or torch raise
        where = "timm's hub" if overlay is None else f"{str(pretrained)!r}"
        raise ValueError(
            f"Pretrained weights of {known} could not be loaded from {where} ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200]}). Without a connection give pretrained='FILE', a .safetensors or .pth "
            "file of this network in timm's format, or pretrained=False."
        ) from error
    network.load_state_dict(loaded.state_dict())
