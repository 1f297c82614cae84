"""cluster/planning/loaded.py: what an instance is taken to keep loaded, and what corrects that."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from comfy_proxy.cluster.planning.loaded import MAX_SETS, LoadedModels, Memory, missing

SIZES = {"a": 40, "b": 40, "c": 40, "small": 10, "huge": 500}


def loaded(
    *, total: int | None = 100, sizes: Mapping[str, int] = SIZES, sets: int | None = None
) -> LoadedModels:
    memory = Memory(sizes.get)
    memory.total, memory.sets = total, sets
    return LoadedModels(memory)


def held(models: LoadedModels, *prompts: str) -> list[str]:
    """What is held once prompts with these models have run; ``a+b`` are those of one prompt."""
    for one in prompts:
        models.began(tuple(filter(None, one.split("+"))))
    return ["+".join(one) for one in models.held]


def test_what_fits_in_the_memory_is_kept() -> None:
    """To the last byte; who was used longest ago goes."""
    assert held(loaded(), "a", "b") == ["a", "b"]
    assert held(loaded(), "a", "b", "small") == ["a", "b", "small"]
    assert held(loaded(), "a", "b", "c") == ["b", "c"]
    assert held(loaded(), "a", "b", "a", "c") == ["a", "c"]
    assert held(loaded(total=89), "a", "b", "small") == ["b", "small"]


def test_a_model_of_two_prompts_takes_its_bytes_once() -> None:
    assert held(loaded(total=60), "a", "a+small") == ["a+small"]
    assert held(loaded(), "a+small", "b+small") == ["a+small", "b+small"]


def test_the_latest_prompts_models_are_there_however_large() -> None:
    models = loaded()
    assert held(models, "a", "huge") == ["huge"]
    assert models.missing(("huge",)) == ()
    assert held(models, "a+b+c") == ["a+b+c"]


@pytest.mark.parametrize(
    "unknown", [{"total": None}, {"sizes": {}}, {"sizes": {"b": 1}}, {"sizes": {"a": 1}}]
)
def test_of_unknown_sizes_only_the_latest_prompts_models(unknown: dict[str, object]) -> None:
    """ComfyUI keeps at least those; more would be a guess."""
    assert held(loaded(**unknown), "a", "b") == ["b"]  # type: ignore[arg-type]


def test_a_prompt_without_models_changes_nothing() -> None:
    models = loaded()
    assert held(models, "a", "") == ["a"]
    assert models.missing(()) == ()
    assert models.sets_since(("a",)) == 0


def test_a_model_that_is_there_for_another_prompt_need_not_be_loaded() -> None:
    models = loaded()
    held(models, "a+small", "b")
    assert models.missing(("a", "b")) == ()
    assert models.missing(("a", "c")) == ("c",)
    assert missing((), ("a",)) == ("a",)


def test_the_names_are_told_latest_first() -> None:
    models = loaded()
    held(models, "a", "b", "small", "a")
    assert models.names() == ["a", "small", "b"]


def test_there_is_an_end_to_what_is_kept() -> None:
    """However much memory there is, and however many prompts its instance is said to keep."""
    many = [f"m{number}" for number in range(MAX_SETS + 5)]
    assert held(loaded(sizes=dict.fromkeys(many, 1)), *many) == many[5:]
    models = loaded()
    models.memory.sets = MAX_SETS
    assert held(models, *many) == many[5:]


# --- what is seen counts more than what was assumed ------------------------------------------


def test_one_that_was_gone_shows_that_fewer_are_kept() -> None:
    models = loaded()
    held(models, "a", "b")
    models.seen(("a",), ago=models.sets_since(("a",)), loaded=True)
    assert models.memory.sets == 1
    assert held(models, "a") == ["a"]


def test_one_that_was_there_shows_that_more_are_kept() -> None:
    """Without that any size is known."""
    models = loaded(total=None)
    held(models, "a", "b", "c")
    models.seen(("a",), ago=models.sets_since(("a",)), loaded=False)
    assert models.memory.sets == 3
    assert held(models, "a", "b") == ["c", "a", "b"]


def test_one_that_was_there_never_shows_that_fewer_are_kept() -> None:
    """Four were; that another one was there after two says nothing against it."""
    models = loaded(total=None, sets=4)
    models.seen(("b",), ago=2, loaded=False)
    assert models.memory.sets == 4


def test_one_that_was_gone_never_shows_that_more_are_kept() -> None:
    models = loaded(total=None, sets=2)
    models.seen(("b",), ago=5, loaded=True)
    assert models.memory.sets == 2


def test_what_never_ran_there_or_ran_last_shows_nothing() -> None:
    """Its models were loaded for the first time, or had to be there anyway."""
    models = loaded()
    held(models, "a")
    for ago in (models.sets_since(("b",)), models.sets_since(("a",))):
        models.seen(("b",), ago=ago, loaded=True)
    assert models.memory.sets is None


def test_prompts_of_the_same_models_count_once() -> None:
    models = loaded()
    held(models, "a", "b", "b", "c", "b")
    assert models.sets_since(("a",)) == 2
    assert models.sets_since(("c",)) == 1


def test_a_model_was_used_too_with_others() -> None:
    models = loaded()
    held(models, "a", "b", "a+small", "c")
    assert models.sets_since(("a",)) == 1


def test_after_a_restart_nothing_is_loaded() -> None:
    """What its memory holds stays known: the process has changed, and not the card."""
    models = loaded(sets=2)
    held(models, "a", "b")
    models.forget()
    assert (models.names(), models.missing(("a",))) == ([], ("a",))
    assert models.sets_since(("a",)) is None
    assert models.memory.sets == 2
