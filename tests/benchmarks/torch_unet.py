"""Networks and their training in plain PyTorch: what tests/benchmarks/train.py compares with.

python tests/benchmarks/torch_unet.py DATA.npz PRECISION NETWORK BATCH EPOCHS

prints the seconds of an epoch after the first, validation included; needs torch and NumPy only. DATA.npz holds x, y,
val_x and val_y, (N, H, W, 1) float32 and uint8. PRECISION: float32 or bfloat16, or either with "-compiled". NETWORK:
number of features of the U-net of models/unet.py; or "pretrained", the U-net of segmentation_models_pytorch (which is
needed then) on its lightest EfficientNet, with random weights, which take as long.
"""

import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def double_block(inputs, filters, dropout):
    layers = []
    for channels in (inputs, filters):
        layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters, eps=1e-3), nn.ReLU(inplace=True)]
        layers += [nn.Dropout(dropout)]
    return nn.Sequential(*layers)


class Unet(nn.Module):
    """Images (B, 1, H, W) to probabilities of the same shape."""

    def __init__(self, features, depth=4, dropout=0.2):
        super().__init__()
        widths = [features * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(map(double_block, [1, *widths], widths, [dropout] * (depth + 1)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[:-1])
        self.join = nn.ModuleList(double_block(2 * w, w, dropout) for w in widths[:-1])
        self.logits = nn.Conv2d(features, 1, 1)
        self.step = 2**depth

    def forward(self, x):
        height, width = x.shape[2:]
        x = functional.pad(x, (0, -width % self.step, 0, -height % self.step))
        skips = []
        for block in self.down[:-1]:
            skips.append(block(x))
            x = functional.max_pool2d(skips[-1], 2)
        x = self.down[-1](x)
        for up, join, skip in reversed(list(zip(self.up, self.join, skips, strict=True))):
            x = join(torch.cat([up(x), skip], 1))
        return torch.sigmoid(self.logits(x)[:, :, :height, :width])


def make_network(name):
    """Network of images (B, 1, H, W) to probabilities; name: see NETWORK above."""
    if name != "pretrained":
        return Unet(int(name))
    from segmentation_models_pytorch import Unet as PretrainedUnet  # optional

    encoder = "timm-tf_efficientnet_lite0"
    return PretrainedUnet(encoder, encoder_weights=None, in_channels=1, activation="sigmoid")


def loss_of(p, y):
    """mse + dice, means over the images."""
    dice = 1 - (2 * (p * y).sum((1, 2, 3)) + 1e-6) / ((p * p).sum((1, 2, 3)) + (y * y).sum((1, 2, 3)) + 1e-6)
    return ((p - y) ** 2).mean() + dice.mean()


def main(data, precision, name, batch, epochs):
    arrays = np.load(data)
    x, y, val_x, val_y = (
        torch.from_numpy(np.moveaxis(arrays[name], -1, 1).astype(np.float32)) for name in ("x", "y", "val_x", "val_y")
    )
    model = make_network(name).to(memory_format=torch.channels_last)
    precision, _, compiled = precision.partition("-")
    if compiled:
        model = torch.compile(model)
    optimizer = torch.optim.NAdam(model.parameters(), 1e-3)
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    ends = [time.perf_counter()]
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(batch):
            with half:
                p = model(x[rows].contiguous(memory_format=torch.channels_last)).float()
            optimizer.zero_grad()
            loss_of(p, y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad(), half:
            for rows in torch.arange(len(val_x)).split(batch):
                loss_of(model(val_x[rows]).float(), val_y[rows]).item()
        ends.append(time.perf_counter())
    print((ends[-1] - ends[1]) / (epochs - 1))


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
