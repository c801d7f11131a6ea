"""Which photographs are taken: rules against those that show products only.

The paper drops such photographs, 29,106 remain, and it does not say by which rule (SPEC §6). Three are offered, and each counts what it
drops: a list of the photographs to keep, made by hand or by a detector of people; rules on the classes of what a photograph shows; the
foreground's share of the image, which is small for a single shoe and nearly everything for a garment laid out flat.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .photographs import without_suffix


@dataclass(frozen=True)
class Filters:
    """keep: names of photographs, None for all. Classes are ClassIds. Shares are 0..1, both ends taken.

    Raises: ValueError for shares that are none or leave nothing, or a number of classes below 1.
    """

    keep: frozenset[str] | None = None
    require_classes: frozenset[int] = frozenset()
    drop_classes: frozenset[int] = frozenset()
    min_classes: int = 1
    min_share: float = 0.0
    max_share: float = 1.0

    def __post_init__(self):
        if not 0 <= self.min_share <= self.max_share <= 1:
            found = f"{self.min_share:g} and {self.max_share:g}"
            raise ValueError(f"shares must be 0 <= min-share <= max-share <= 1, got {found}. Change them.")
        if self.min_classes < 1:
            raise ValueError(f"min-classes must be at least 1, got {self.min_classes}. Leave it out to take all.")
        both = self.require_classes & self.drop_classes
        if both:
            raise ValueError(f"classes must be required or dropped, got both for {sorted(both)}. Take them out of one.")

    @property
    def by_class(self) -> bool:
        """Whether any rule looks at classes."""
        return bool(self.require_classes or self.drop_classes or self.min_classes > 1)

    def keeps(self, name: str) -> bool:
        """Whether the list, if there is one, names a photograph."""
        return self.keep is None or name in self.keep

    def drops_name(self, name: str) -> str | None:
        """The reason to drop a photograph of this name, or None."""
        return None if self.keeps(name) else "not_in_keep_list"

    def drops_classes(self, classes: Collection[int]) -> str | None:
        """The reason to drop a photograph whose valid parts are of these classes, or None."""
        if self.require_classes and self.require_classes.isdisjoint(classes):
            return "required_class_absent"
        if not self.drop_classes.isdisjoint(classes):
            return "dropped_class"
        return "few_classes" if self.by_class and len(set(classes)) < self.min_classes else None

    def drops_share(self, share: float) -> str | None:
        """The reason to drop a mask of this share, or None."""
        if share < self.min_share:
            return "share_too_small"
        return "share_too_large" if share > self.max_share else None


def read_keep_list(path: Path) -> frozenset[str]:
    """Photographs' names, one a line, with or without suffix; empty lines and those that begin with # are left alone.

    Raises: FileNotFoundError for a missing file; ValueError for one without names, or that is not UTF-8.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"keep list {path.name!r} must exist, looked in {path.parent.resolve()}. Check --keep-list.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8, got something else ({error}). Save it again.") from error
    names = frozenset(without_suffix(line.strip()) for line in lines if line.strip() and not line.startswith("#"))
    if not names:
        raise ValueError(f"{path} must name at least one photograph, got none. Leave --keep-list out to take all.")
    return names
