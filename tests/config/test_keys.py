"""Dotted keys of nested mappings."""

from __future__ import annotations

from typing import Any

from raybench.config.keys import flatten, get, put


def test_put_and_get_reach_what_is_not_written_and_leave_none_alone() -> None:
    content: dict[str, Any] = {"distillation": {"teacher": None}}
    put(content, "optimizer.lr", 0.3)
    put(content, "distillation.teacher.prepare", "head")
    assert content == {"distillation": {"teacher": None}, "optimizer": {"lr": 0.3}}
    assert get(content, "optimizer.lr") == 0.3
    assert get(content, "distillation.teacher.prepare") is None


def test_nested_mappings_become_one_and_lists_and_options_text() -> None:
    content = {"a": {"b": {"c": 1}, "options": {"z": [1], "y": 2}}, "d": [1, 2], "e": None}
    assert flatten(content) == {"a.b.c": 1, "a.options": '{"y": 2, "z": [1]}', "d": "[1, 2]", "e": None}
