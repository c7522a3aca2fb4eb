"""Training epochs as others write them: the papers' scripts, and a loop of timm's parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.loader import create_loader
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.utils.metrics import AverageMeter
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

WORKERS = 2


class Photos(Dataset[tuple[Any, int]]):
    """Images as torchvision's CIFAR10 hands them out: PIL, then the transform."""

    def __init__(self, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], transform: Any = None) -> None:
        self.images = images.transpose(0, 2, 3, 1)
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        photo: Any = Image.fromarray(self.images[index])
        return photo if self.transform is None else self.transform(photo), int(self.labels[index])


def augmentation(mean: Any, std: Any) -> Any:
    """Pad-4 crops and flips, and what makes them the model's input."""
    return transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


class PaperScript:
    """DataLoader with PIL, a step, `.item()` of loss and hits in each step."""

    def __init__(
        self, module: nn.Module, images: Any, labels: Any, mean: Any, std: Any, batch_size: int, lr: float
    ) -> None:
        photos = Photos(images, labels, augmentation(mean, std))
        self.loader = DataLoader(photos, batch_size, shuffle=True, num_workers=WORKERS, persistent_workers=True)
        self.module = module
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)

    def epoch(self) -> tuple[float, int]:
        """Mean loss, and the images it saw."""
        self.module.train()
        loss_sum, hits, seen = 0.0, 0, 0
        for inputs, targets in self.loader:
            self.optimizer.zero_grad()
            outputs = self.module(inputs)
            loss = self.criterion(outputs, targets)
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.item() * len(targets)
            hits += outputs.argmax(1).eq(targets).sum().item()
            seen += len(targets)
        return loss_sum / seen, seen


class TimmLoop:
    """timm's loader, optimizer factory and meters, put together as its training script does on one device."""

    def __init__(
        self, module: nn.Module, images: Any, labels: Any, mean: Any, std: Any, batch_size: int, lr: float
    ) -> None:
        photos = Photos(images, labels)
        self.loader = create_loader(
            photos,  # type: ignore[arg-type]  # has what a timm dataset has: a transform that the loader sets
            input_size=(3, 32, 32),
            batch_size=batch_size,
            is_training=True,
            use_prefetcher=False,
            num_workers=WORKERS,
            pin_memory=False,
            device=torch.device("cpu"),
            persistent_workers=True,
        )
        photos.transform = augmentation(mean, std)  # the same as the others'
        self.module = module
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = create_optimizer_v2(module, opt="sgd", lr=lr, momentum=0.9, weight_decay=5e-4)

    def epoch(self) -> tuple[float, int]:
        """Mean loss, and the images it saw; the meter is updated in each step, as where a step logs."""
        self.module.train()
        losses = AverageMeter()  # type: ignore[no-untyped-call]
        for inputs, targets in self.loader:
            outputs = self.module(inputs)
            loss = self.criterion(outputs, targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.update(loss.item(), inputs.size(0))  # type: ignore[no-untyped-call]
        return float(losses.avg), int(losses.count)
