"""Telling those who only watch: whatever goes wrong with them is no matter of what they watch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from loguru import logger

T = TypeVar("T")


def tell(observers: Iterable[Callable[[T], None]], record: T) -> None:
    """Call each with ``record``; one that raises is logged, the others are told all the same."""
    for observer in observers:
        try:
            observer(record)
        except Exception as error:
            logger.opt(exception=error).error("an observer of {} failed", type(record).__name__)
