"""What works cost at which instance, as learned from executions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from math import inf, isfinite, nan
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_proxy.cluster.planning import known_works, load_times, speeds
from comfy_proxy.cluster.planning.costs import COLD_SHARE, Costs
from comfy_proxy.cluster.planning.known_works import MAX_FINGERPRINTS
from comfy_proxy.cluster.planning.samples import AGE_S, ENOUGH_RUNS


@dataclass(frozen=True)
class Work:
    """A work as costs see it; of one kind and one model unless told."""

    fingerprint: str = "f"
    kind: str = "k"
    models: tuple[str, ...] = ("m",)
    effort: float = 1.0


WORK = Work()
OTHER = Work("g", kind="other", models=("n",))


@pytest.fixture
def costs() -> Costs:
    return Costs()


def warm(costs: Costs, instance: str, seconds: float, work: Work = WORK, now: float = 0) -> None:
    costs.learn(instance, work, seconds, loaded=(), now=now)


def proven(costs: Costs, instance: str, seconds: float, work: Work = WORK) -> None:
    """It ran there often enough to count for itself."""
    for _ in range(ENOUGH_RUNS):
        warm(costs, instance, seconds, work)


def cold(costs: Costs, instance: str, seconds: float, work: Work = WORK, now: float = 0) -> None:
    costs.learn(instance, work, seconds, loaded=work.models, now=now)


# Running ------------------------------------------------------------------------------------------


def test_nothing_is_known_at_first(costs: Costs) -> None:
    """No times, no loads, the average speed."""
    assert costs.run_s("a", WORK) is None
    assert costs.mean_run_s("a") is None
    assert (costs.load_s("a", ["m"]), costs.speed("a"), costs.samples("a", WORK)) == (0.0, 1.0, 0)


def test_a_work_takes_the_median_of_its_runs(costs: Costs) -> None:
    for seconds in (10, 14, 11):
        warm(costs, "a", seconds)
    assert costs.run_s("a", WORK) == 11
    assert costs.samples("a", WORK) == 3


def test_one_outlier_changes_nothing(costs: Costs) -> None:
    """A run that took 100 times as long moves no answer materially."""
    for _ in range(5):
        for one, seconds in (("a", 10.0), ("b", 20.0)):
            warm(costs, one, seconds)
    version, speed = costs.version, costs.speed("a")
    warm(costs, "a", 1000)
    assert (costs.run_s("a", WORK), costs.mean_run_s("a")) == (10, 10)
    assert costs.speed("a") == pytest.approx(speed)
    assert costs.version == version


def test_old_samples_count_no_more_once_there_are_newer(costs: Costs) -> None:
    for _ in range(15):
        warm(costs, "a", 10, now=0)
    warm(costs, "a", 30, now=AGE_S)
    assert costs.run_s("a", WORK) == 10
    warm(costs, "a", 30, now=AGE_S + 1)
    assert (costs.run_s("a", WORK), costs.samples("a", WORK)) == (30, 2)


def test_what_changes_for_good_is_learned(costs: Costs) -> None:
    """Half a window of new times is believed."""
    for seconds in [10] * 100 + [40] * 8:
        warm(costs, "a", seconds)
    assert costs.run_s("a", WORK) == 40


@pytest.mark.parametrize("seconds", [nan, inf, -inf, -1.0])
def test_what_is_no_time_is_ignored(costs: Costs, seconds: float) -> None:
    warm(costs, "a", seconds)
    assert (costs.version, costs.run_s("a", WORK)) == (0, None)


def test_a_work_that_ran_elsewhere_takes_what_it_took_there(costs: Costs) -> None:
    """… by the speeds of both, the median of all."""
    for one, seconds in (("a", 10.0), ("b", 20.0)):
        proven(costs, one, seconds)
    warm(costs, "a", 30, OTHER)
    assert costs.run_s("b", OTHER) == pytest.approx(60)
    warm(costs, "b", 60, Work("h", kind="third"))
    assert costs.run_s("a", Work("h", kind="third")) == pytest.approx(30)


def test_another_size_takes_longer_by_its_effort(costs: Costs) -> None:
    """That of the nearest size of its kind: here before elsewhere."""
    for one, seconds in (("a", 10.0), ("b", 20.0)):
        proven(costs, one, seconds, OTHER)
    proven(costs, "a", 5, Work("small", effort=1))
    proven(costs, "a", 100, Work("large", effort=100))
    assert costs.run_s("a", Work("new", effort=2)) == pytest.approx(10)
    assert costs.run_s("a", Work("newer", effort=50)) == pytest.approx(50)
    assert costs.run_s("b", Work("new", effort=2)) == pytest.approx(20)
    warm(costs, "b", 9, Work("medium", effort=3))
    assert costs.run_s("b", Work("newest", effort=6)) == pytest.approx(18)


@pytest.mark.parametrize(("effort", "seconds"), [(2.0, 20), (100.0, 40), (0.01, 2.5)])
def test_other_kinds_with_the_same_models_tell_about_how_long(
    costs: Costs, effort: float, seconds: float
) -> None:
    """Their efforts hardly compare: they count as four times another at most."""
    warm(costs, "a", 10)
    assert costs.run_s("a", Work("x", kind="unknown", effort=effort)) == pytest.approx(seconds)
    assert costs.run_s("b", Work("x", kind="unknown", effort=effort)) == pytest.approx(seconds)


def test_nothing_in_common_tells_nothing(costs: Costs) -> None:
    """Naming no models is nothing in common either."""
    warm(costs, "a", 10)
    warm(costs, "a", 10, Work("none", kind="none", models=()))
    assert costs.run_s("a", OTHER) is None
    assert costs.run_s("a", Work("x", kind="unknown", models=())) is None


def test_an_unknown_prompt_costs_the_mean_of_what_ran_there(costs: Costs) -> None:
    """… else elsewhere, by the speed of both."""
    for one, seconds in (("a", 10.0), ("b", 20.0)):
        proven(costs, one, seconds)
    proven(costs, "a", 30, OTHER)
    assert costs.mean_run_s("a") == pytest.approx(20)
    assert costs.mean_run_s("b") == pytest.approx(20)
    assert costs.mean_run_s("new") == pytest.approx((20 * 2**0.5 + 20 / 2**0.5) / 2)


# Loading ------------------------------------------------------------------------------------------


def test_a_single_cold_execution_is_taken_for_half_loading(costs: Costs) -> None:
    cold(costs, "a", 40)
    assert costs.run_s("a", WORK) == 40 * COLD_SHARE == 20
    assert costs.load_s("a", ["m"]) == 20
    assert costs.run_s("b", Work("double", effort=2)) == pytest.approx(40)
    assert costs.samples("a", WORK) == 0


def test_the_first_warm_run_tells_what_was_loading(costs: Costs) -> None:
    """Of every cold execution before it, and of those that come."""
    for seconds in (40, 41, 45):
        cold(costs, "a", seconds)
    warm(costs, "a", 10)
    assert (costs.run_s("a", WORK), costs.load_s("a", ["m"])) == (10, 31)
    for _ in range(9):
        cold(costs, "a", 25)
    assert (costs.run_s("a", WORK), costs.load_s("a", ["m"])) == (10, 15)


def test_a_warm_run_elsewhere_tells_too(costs: Costs) -> None:
    warm(costs, "a", 10)
    cold(costs, "b", 40)
    assert costs.run_s("b", WORK) == pytest.approx(10)
    assert costs.load_s("b", ["m"]) == pytest.approx(30)


def test_loading_that_was_seen_is_not_guessed(costs: Costs) -> None:
    """The rest of the execution is a warm time."""
    costs.learn("a", WORK, 40, loaded=("m",), load_s=5, now=0)
    assert (costs.run_s("a", WORK), costs.load_s("a", ["m"])) == (35, 5)


@pytest.mark.parametrize("load_s", [nan, -1.0, 41.0])
def test_loading_that_cannot_be_is_guessed(costs: Costs, load_s: float) -> None:
    costs.learn("a", WORK, 40, loaded=("m",), load_s=load_s, now=0)
    assert costs.run_s("a", WORK) == 20


def test_a_model_that_costs_nothing_to_load_is_known_to(costs: Costs) -> None:
    """Cold executions that take no longer than warm ones end at 0.0, whatever was believed."""
    cold(costs, "a", 40)
    warm(costs, "a", 40)
    for seconds in (39, 38, 40):
        cold(costs, "a", seconds)
    assert costs.load_s("a", ["m"]) == 0.0


def test_a_load_is_shared_among_its_models(costs: Costs) -> None:
    """By their weights, in equal parts without."""
    two = Work("two", models=("big", "small"))
    costs.learn("a", two, 20, loaded={"big": 900, "small": 100}, load_s=10, now=0)
    assert costs.load_s("a", ["big"]) == pytest.approx(9)
    assert costs.load_s("a", ["small", "big"]) == pytest.approx(10)
    costs.learn("b", two, 20, loaded=("big", "small"), load_s=10, now=0)
    assert costs.load_s("b", ["small"]) == pytest.approx(5)


@pytest.mark.parametrize("weights", [{"x": 0, "y": 0}, {"x": nan, "y": -1}])
def test_weights_that_mean_nothing_are_equal(costs: Costs, weights: dict[str, float]) -> None:
    costs.learn("a", WORK, 20, loaded=weights, load_s=10, now=0)
    assert costs.load_s("a", ["x"]) == 5


def test_a_load_is_the_median_of_loads(costs: Costs) -> None:
    """One that took 100 times as long moves nothing."""
    for load_s in (5, 5, 500, 5):
        costs.learn("a", WORK, 600, loaded=("m",), load_s=load_s, now=0)
    assert costs.load_s("a", ["m"]) == 5


def test_a_model_loaded_elsewhere_takes_what_it_took_there(costs: Costs) -> None:
    """… by the speed of both."""
    for one, seconds in (("a", 10.0), ("b", 20.0)):
        proven(costs, one, seconds)
    costs.learn("a", WORK, 15, loaded=("m",), load_s=5, now=0)
    assert costs.load_s("b", ["m"]) == pytest.approx(10)


def test_a_new_model_takes_what_others_take_a_byte() -> None:
    """Here, else elsewhere."""
    costs = Costs(lambda _, model: {"m": 1000, "new": 3000}.get(model))
    costs.learn("a", WORK, 15, loaded=("m",), load_s=5, now=0)
    assert costs.load_s("a", ["new"]) == pytest.approx(15)
    assert costs.load_s("b", ["new"]) == pytest.approx(15)
    assert costs.load_s("a", ["unknown"]) == pytest.approx(5)


def test_a_new_model_of_unknown_size_takes_what_others_take(costs: Costs) -> None:
    """A LoRA a twentieth of it."""
    costs.learn("a", WORK, 30, loaded={"m": 1, "n": 3}, load_s=20, now=0)
    for instance in ("a", "b"):
        assert costs.load_s(instance, ["new"]) == pytest.approx(10)
        assert costs.load_s(instance, ["my_LoRA.safetensors"]) == pytest.approx(0.5)


# Speeds -------------------------------------------------------------------------------------------

SPEEDS = {"a": 1.0, "b": 2.0, "c": 4.0}


@pytest.mark.parametrize("order", list(permutations(SPEEDS)), ids="".join)
def test_speeds_have_the_right_ratios_in_any_order(costs: Costs, order: tuple[str, ...]) -> None:
    """As soon as each has run often enough, and the average is 1.0."""
    for _ in range(ENOUGH_RUNS + 1):
        for one in order:
            warm(costs, one, 10 * SPEEDS[one])
    assert [costs.speed(one) for one in SPEEDS] == pytest.approx([0.5, 1.0, 2.0])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_speeds_neither_drift_nor_follow_outliers(costs: Costs, seed: int) -> None:
    """However works are spread, with noise, and one run in fifty that takes 100 times as long."""
    chance = random.Random(seed)
    works = [Work(f"f{size}", kind=f"k{size}") for size in range(1, 9)]
    for now in range(3000):
        one, size = chance.choice("abc"), chance.randrange(8)
        seconds = (5 + size) * SPEEDS[one] * chance.uniform(0.9, 1.1)
        warm(costs, one, seconds * (100 if chance.random() < 0.02 else 1), works[size], now)
    assert [costs.speed(one) for one in SPEEDS] == pytest.approx([0.5, 1.0, 2.0], rel=0.1)


def test_runs_too_short_to_be_measured_tell_of_no_speed(costs: Costs) -> None:
    """20 ms at one and 50 ms at the other are noise: both are believed to be equally fast."""
    proven(costs, "a", 0.02)
    proven(costs, "b", 0.05)
    proven(costs, "a", 2.0, OTHER)
    assert (costs.speed("a"), costs.speed("b")) == (1.0, 1.0)
    assert costs.run_s("b", OTHER) == pytest.approx(2.0)
    assert costs.run_s("b", WORK) == 0.05


def test_groups_find_their_distance_by_one_work_in_common(costs: Costs) -> None:
    """Though each shares ten among themselves, and believed until then to be as fast."""
    true = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}
    own = {one: "ab" if one in "ab" else "cd" for one in true}
    for turn in range(50):
        for one, speed in true.items():
            name = f"{own[one]}{turn % 10}"
            warm(costs, one, 10 * speed, Work(name, kind=name))
        if turn >= 10:
            for one in "ac":
                warm(costs, one, 5 * true[one])
    assert costs.speed("c") / costs.speed("a") == pytest.approx(4, rel=0.05)
    assert costs.speed("d") / costs.speed("c") == pytest.approx(2, rel=0.05)


# What callers keep --------------------------------------------------------------------------------


def test_the_version_rises_when_an_answer_changed_materially(costs: Costs) -> None:
    """By more than 10 % since it was last said, in however many steps."""
    seen = []
    for seconds in (10, 10, 10.5, 10.5, 10.5, 12, 12, 12, 12, 12, 12):
        warm(costs, "a", seconds)
        seen.append(costs.version)
    assert seen[:5] == [1] * 5
    assert seen[-1] > 1


@pytest.mark.parametrize(
    "learn",
    [
        lambda costs: warm(costs, "b", 10),
        lambda costs: warm(costs, "a", 10, Work("size")),
        lambda costs: cold(costs, "a", 10, OTHER),
    ],
)
def test_the_version_rises_for_a_first_sample(costs: Costs, learn: Callable[[Costs], None]) -> None:
    warm(costs, "a", 10)
    version = costs.version
    learn(costs)
    assert costs.version > version


def test_a_borrowed_answer_gives_way_to_ones_own(costs: Costs) -> None:
    """At once if that is quicker, or if elsewhere it ran as seldom; else after ENOUGH_RUNS."""
    warm(costs, "a", 10)
    assert costs.run_s("b", WORK) == pytest.approx(10)
    warm(costs, "b", 70)
    assert costs.run_s("b", WORK) == 70
    proven(costs, "a", 10)
    warm(costs, "c", 5)
    assert costs.run_s("b", WORK) == pytest.approx(10)
    assert costs.run_s("b", WORK, as_measured=True) == 70
    assert costs.run_s("c", WORK) == 5
    for _ in range(ENOUGH_RUNS - 1):
        assert costs.run_s("b", WORK) == pytest.approx(10)
        warm(costs, "b", 70)
    assert costs.run_s("b", WORK) == 70


def test_a_time_that_begins_to_count_is_told_though_it_has_not_moved(costs: Costs) -> None:
    """What others of few runs borrow from it, and what was concluded from that, is out of date."""
    warm(costs, "b", 70)
    for _ in range(ENOUGH_RUNS - 1):
        warm(costs, "a", 10)
    assert costs.run_s("b", WORK) == 70
    version = costs.version
    warm(costs, "a", 10)
    assert costs.run_s("b", WORK) == pytest.approx(10)
    assert costs.version > version


@pytest.mark.long
def test_works_that_have_not_run_for_longest_are_forgotten(costs: Costs) -> None:
    """There are never more than MAX_FINGERPRINTS."""
    for number in range(MAX_FINGERPRINTS + 10):
        warm(costs, "a", 10)
        warm(costs, "a", 10, Work(f"f{number}", kind=f"k{number}", models=(f"m{number}",)))
    known = [number for number in range(20) if costs.samples("a", Work(f"f{number}"))]
    assert known == list(range(11, 20))
    assert costs.run_s("a", Work("f3", kind="k3", models=("m3",))) is None
    assert costs.samples("a", WORK) > 0


def test_works_at_many_instances_are_bounded_too(
    costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the pairs of both, and instances of which nothing is known any more are let go."""
    monkeypatch.setattr(known_works, "MAX_WINDOWS", 10)
    for number in range(30):
        warm(costs, f"i{number % 15}", 10, Work(f"f{number // 15}"))
    exported = costs.export(str, now=0)["warm"]
    assert [len(one["at"]) for one in exported["works"]] == [15]
    warm(costs, "z", 10, OTHER)
    warm(costs, "z", 10, OTHER)
    assert set(costs.export(str, now=0)["warm"]["recent"]) == {"z"}


def test_loads_that_were_not_seen_for_longest_are_forgotten(
    costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_times, "MAX_MODELS", 2)
    for instance, model in (("a", "m"), ("b", "n"), ("a", "m"), ("b", "o")):
        costs.learn(instance, WORK, 15, loaded=(model,), load_s=5, now=0)
    costs.learn("c", WORK, 19, loaded=("p",), load_s=9, now=0)
    loads = costs.export(str, now=0)["loads"]
    assert [one[:2] for one in loads] == [["b", "o"], ["c", "p"]]
    assert costs.load_s("a", ["m"]) == pytest.approx(7)


def test_speeds_that_were_not_fitted_for_longest_are_forgotten(
    costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those instances have the average one again."""
    monkeypatch.setattr(speeds, "MAX_INSTANCES", 2)
    for one in ("a", "b", "c", "b", "c", "c", "c"):
        warm(costs, one, 40 if one == "c" else 10)
        known = costs.export(str, now=0)["speeds"]
        assert len(known) <= 2
    assert {costs.speed(one) for one in "abc" if one not in known} == {1.0}


# Keeping it ---------------------------------------------------------------------------------------


def answers(costs: Costs) -> list[Any]:
    """All that can be asked, of what is known and of what is borrowed."""
    works = [WORK, OTHER, Work("size", effort=3), Work("x", kind="unknown")]
    told: list[Any] = []
    for one in ("a", "b", "new"):
        told += [costs.speed(one), costs.mean_run_s(one), costs.load_s(one, ["m", "n", "lora"])]
        told += [costs.run_s(one, work) for work in works]
        told += [costs.samples(one, work) for work in works]
    return told


def learned() -> Costs:
    costs = Costs()
    for now, seconds in enumerate((10, 12, 11)):
        warm(costs, "a", seconds, now=now)
        warm(costs, "b", seconds * 2, now=now)
    cold(costs, "a", 30, now=5)
    cold(costs, "b", 50, OTHER, now=6)
    return costs


def test_what_was_exported_is_known_again() -> None:
    """Through JSON, on another clock; what waits for a warm run still does."""
    costs, restored = learned(), Costs()
    data = orjson.loads(orjson.dumps(costs.export(str.upper, now=10)))
    restored.restore(data, str.lower, now=5000)
    assert answers(restored) == pytest.approx(answers(costs))
    assert restored.version > 0
    for one in (costs, restored):
        warm(one, "b", 20, OTHER, now=5010)
    assert restored.load_s("b", ["n"]) == costs.load_s("b", ["n"]) == 30


def test_samples_are_as_old_as_they_were(costs: Costs) -> None:
    costs.restore(learned().export(str, now=AGE_S), str, now=0)
    warm(costs, "a", 50, now=100)
    assert (costs.run_s("a", WORK, as_measured=True), costs.samples("a", WORK)) == (50, 1)


def test_instances_that_are_gone_are_not_restored(costs: Costs) -> None:
    costs.restore(learned().export(str, now=10), {"a": "a"}.get, now=10)
    assert costs.samples("a", WORK) == 3
    assert costs.samples("b", WORK) == 0
    assert set(costs.export(str, now=10)["speeds"]) == {"a"}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"format": 2},
        [],
        learned().export(str, now=0) | {"speeds": {"a": 0}},
        learned().export(str, now=0) | {"loads": [["a"]]},
        learned().export(str, now=0) | {"cold": [["a", "f", [["x", {}, 0]]]]},
    ],
)
def test_what_was_not_exported_changes_nothing(data: Any) -> None:
    costs = learned()
    before = answers(costs), costs.version
    with pytest.raises(ValueError, match="no costs"):
        costs.restore(data, str, now=0)
    assert (answers(costs), costs.version) == before


# Whatever comes -----------------------------------------------------------------------------------

TIMES = st.floats() | st.floats(0, 1e3)
WORKS = st.builds(
    Work,
    st.sampled_from("fgh"),
    st.sampled_from("kl"),
    st.lists(st.sampled_from(["m", "n", "a_lora"]), unique=True).map(tuple),
    st.floats(),
)
LOADED = st.sets(st.sampled_from(["m", "n", "a_lora"])) | st.dictionaries(
    st.sampled_from(["m", "n", "a_lora"]), st.floats()
)
EXECUTIONS = st.lists(
    st.tuples(
        st.sampled_from("abc"), WORKS, TIMES, LOADED, st.none() | TIMES, st.floats(-1e9, 1e9)
    ),
    max_size=30,
)


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(EXECUTIONS, st.lists(WORKS, min_size=1, max_size=3), st.none() | st.integers(-1, 10**12))
def test_answers_are_seconds_whatever_was_learned(
    executions: list[Any], asked: list[Work], size: int | None
) -> None:
    """Finite, not negative, and no call raises."""
    costs = Costs(lambda _, model: None if model == "m" else size)
    for instance, work, seconds, loaded, load_s, now in executions:
        costs.learn(instance, work, seconds, loaded=loaded, load_s=load_s, now=now)
        for one in ("a", "d"):
            told = [costs.run_s(one, ask) for ask in (work, *asked)]
            told += [costs.load_s(one, ask.models) for ask in asked]
            told += [costs.mean_run_s(one), costs.speed(one)]
            assert all(isfinite(value) and value >= 0 for value in told if value is not None)
    data = orjson.loads(orjson.dumps(costs.export(str, now=0)))
    restored = Costs()
    restored.restore(data, str, now=0)
    for ask in asked:
        assert restored.samples("a", ask) == costs.samples("a", ask)
