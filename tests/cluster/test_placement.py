"""Which node serves what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pdserver.cluster.base import Archive, Spread, Wanted
from pdserver.cluster.needs import Needs
from pdserver.cluster.placement import Place, Placement, need_bytes, place
from pdserver.types import ModelRef

GIB = 2**30
Before = Mapping[str, tuple[ModelRef, ...]]


def wish(name: str, copies: int = 1, *, gib: float = 1, gpus: int = 0, spread: Spread = "spread") -> Wanted:
    archive = Archive(sha256=name * 64, file=f"{name}.pdar", size=1000)
    memory_bytes = int(gib * GIB)
    return Wanted(
        ref=ModelRef(name, "1"), url=archive.file, archive=archive, copies=copies, memory_bytes=memory_bytes,
        gpus=gpus, spread=spread,
    )  # fmt: skip


def node(name: str, gib: float = 4, **more: object) -> Place:
    return msgspec.convert({"node": name, "memory_bytes": int(gib * GIB), **more}, Place)


def nodes_of(placement: Placement, name: str) -> list[str]:
    return [node for node, refs in placement.placed.items() if ModelRef(name, "1") in refs]


NAMES = "abcdef"
WISHES = st.lists(
    st.builds(
        wish,
        st.sampled_from(NAMES),
        st.integers(1, 4),
        gib=st.sampled_from([0.1, 1, 2, 3]),
        gpus=st.integers(0, 2),
        spread=st.sampled_from(["spread", "packed"]),
    ),
    max_size=6,
    unique_by=lambda each: each.ref,
)
PLACES = st.lists(
    st.builds(
        lambda name, gib, gpus, load, problem, failed: node(
            name, gib, gpus=gpus, load=load, problem=problem, failed=[ModelRef(each, "1") for each in failed]
        ),
        st.sampled_from(["n1", "n2", "n3", "n4", "n5"]),
        st.sampled_from([0, 1, 3, 8]),
        st.integers(0, 3),
        st.floats(0, 1),
        st.sampled_from(["", "", "", "has a full disk"]),
        st.sets(st.sampled_from(NAMES), max_size=1),
    ),
    max_size=5,
    unique_by=lambda each: each.node,
)


def used(wanted: Sequence[Wanted], refs: Sequence[ModelRef]) -> tuple[int, int]:
    """Bytes and GPUs."""
    there = [one for one in wanted if one.ref in refs]
    return sum(map(need_bytes, there)), sum(one.gpus for one in there)


@given(PLACES, WISHES)
def test_no_node_has_more_than_fits_and_none_is_left_out_that_would(
    places: Sequence[Place], wanted: Sequence[Wanted]
) -> None:
    found = place(places, wanted, {})
    for each in places:
        refs = found.placed[each.node]
        size_bytes, gpus = used(wanted, refs)
        assert size_bytes <= each.memory_bytes
        assert gpus <= each.gpus
        assert len(set(refs)) == len(refs)
        assert not refs or not each.problem
        assert not set(refs) & each.failed
    for one in wanted:
        number = sum(one.ref in refs for refs in found.placed.values())
        assert number <= one.copies
        assert (number < one.copies) == (one.ref in found.problems)
        for each in places:
            size_bytes, gpus = used(wanted, found.placed[each.node])
            full = size_bytes + need_bytes(one) > each.memory_bytes or gpus + one.gpus > each.gpus
            has = one.ref in found.placed[each.node] or one.ref in each.failed
            assert number == one.copies or full or has or each.problem
            assert number == one.copies or each.node in found.problems[one.ref], "each node has its reason"


@given(PLACES, WISHES)
def test_asked_again_nothing_moves(places: Sequence[Place], wanted: Sequence[Wanted]) -> None:
    found = place(places, wanted, {})
    assert place(places, wanted, found.placed) == found


def moves(before: Before, after: Before) -> int:
    """How many copies stopped where they could have stayed."""
    return sum(len(set(refs) - set(after[node])) for node, refs in before.items() if node in after)


NEEDS = st.dictionaries(
    st.sampled_from("abc").map(lambda name: ModelRef(name, "1")),
    st.lists(st.sampled_from("def").map(lambda name: ModelRef(name, "1")), min_size=1, max_size=2, unique=True),
)


@given(PLACES, WISHES, NEEDS, st.data())
def test_a_pipeline_has_what_it_asks_beside_it(
    places: Sequence[Place], wanted: Sequence[Wanted], needs: Needs, data: st.DataObject
) -> None:
    wanted = [*wanted, *(wish(name) for name in "def" if all(one.ref.name != name for one in wanted))]
    found = place(places, wanted, {}, needs)
    assert place(places, wanted, found.placed, needs) == found, "asked again, nothing moves"
    dies = data.draw(st.sampled_from([None, *places]))
    rest = [each for each in places if each is not dies]
    without = place(rest, wanted, found.placed, needs)
    assert not (dies is None and without != found)
    for each in rest:
        refs = without.placed[each.node]
        size_bytes, gpus = used(wanted, refs)
        assert (size_bytes <= each.memory_bytes, gpus <= each.gpus) == (True, True)
        assert len(set(refs)) == len(refs)
        for ref in refs:
            assert set(needs.get(ref, ())) <= set(refs)
    for one in wanted:
        number = sum(one.ref in refs for refs in without.placed.values())
        users = sum(any(one.ref in needs.get(ref, ()) for ref in refs) for refs in without.placed.values())
        assert number <= max(one.copies, users), "no more than are wanted and asked"
        assert (number < one.copies) == (one.ref in without.problems)


def test_a_pipeline_goes_where_its_models_are_and_brings_the_rest() -> None:
    needs = {ModelRef("a", "1"): [ModelRef("b", "1"), ModelRef("c", "1")]}
    models = [wish("b", gib=2), wish("c")]
    places = [node("n1", 3), node("n2"), node("n3", 8)]
    before = {"n2": (ModelRef("b", "1"),), "n3": (ModelRef("c", "1"),)}
    found = place(places, [*models, wish("a")], before, needs)
    assert nodes_of(found, "a") == ["n2"]
    assert [nodes_of(found, name) for name in "bc"] == [["n2"], ["n2", "n3"]]
    again = place(places, [*models, wish("a")], found.placed, needs)
    assert nodes_of(again, "c") == ["n2"], "one copy is wanted, and that one is asked"
    two = place(places, [*models, wish("a", 2)], again.placed, needs)
    assert [nodes_of(two, name) for name in "abc"] == [["n2", "n3"]] * 3
    three = place(places, [*models, wish("a", 3)], two.placed, needs)
    assert three.problems[ModelRef("a", "1")] == (
        "no node can take another copy of a/1 (2 of 3 are placed), which needs 1.0 GiB of memory, besides what it asks,"
        " b/1, c/1: n1 has 3.0 GiB of memory free; n2 has a copy; n3 has a copy"
    )


def test_a_pipeline_leaves_a_node_that_could_not_serve_its_model() -> None:
    needs = {ModelRef("a", "1"): [ModelRef("b", "1")]}
    before = {"n1": (ModelRef("a", "1"), ModelRef("b", "1"))}
    bad = node("n1", failed=[ModelRef("b", "1")])
    found = place([bad, node("n2")], [wish("a"), wish("b")], before, needs)
    assert (nodes_of(found, "a"), nodes_of(found, "b")) == (["n2"], ["n2"])
    alone = place([bad, node("n2", 0)], [wish("a"), wish("b")], before, needs)
    assert (nodes_of(alone, "a"), nodes_of(alone, "b")) == (["n1"], ["n1"])
    assert place([bad], [wish("a")], {}, needs).problems[ModelRef("a", "1")].endswith("n1 could not serve b/1")


def test_a_copy_stays_and_says_what_its_node_has_no_room_for() -> None:
    needs = {ModelRef("a", "1"): [ModelRef("b", "1")]}
    found = place([node("n1", 1), node("n2", 8)], [wish("a"), wish("b", 2)], {"n1": (ModelRef("a", "1"),)}, needs)
    assert (nodes_of(found, "a"), nodes_of(found, "b")) == (["n1"], ["n2"])
    assert found.problems[ModelRef("b", "1")] == (
        "a/1 asks b/1, and its node n1 can't serve that: it has 0 B of memory free"
    )


@given(PLACES, WISHES, st.data())
def test_what_stays_is_not_touched_when_a_node_dies_and_returns(
    places: Sequence[Place], wanted: Sequence[Wanted], data: st.DataObject
) -> None:
    placed = place(places, wanted, {}).placed
    dies = data.draw(st.sampled_from([None, *places]))
    rest = [each for each in places if each is not dies]
    without = place(rest, wanted, placed)
    assert moves(placed, without.placed) == 0
    again = place(places, wanted, without.placed)
    assert moves(without.placed, again.placed) == 0
    new = sum(len(refs) for refs in again.placed.values()) - sum(len(refs) for refs in without.placed.values())
    short = sum(
        one.copies - sum(one.ref in refs for refs in without.placed.values())
        for one in wanted
        if one.ref in without.problems
    )
    assert new <= short, "the node that returned got what had no place, and nothing else"


@given(PLACES, WISHES, st.data())
def test_scaling_down_ends_the_surplus_alone(
    places: Sequence[Place], wanted: Sequence[Wanted], data: st.DataObject
) -> None:
    placed = place(places, wanted, {}).placed
    fewer = [msgspec.structs.replace(one, copies=data.draw(st.integers(1, one.copies))) for one in wanted]
    for one in fewer:
        number = sum(one.ref in refs for refs in placed.values())
        left = nodes_of(place(places, fewer, placed), one.ref.name)
        assert len(left) >= min(number, one.copies)
        assert all(one.ref in placed[each] for each in left) or number < one.copies


def test_spread_and_packed() -> None:
    many, two = [node(f"n{number}") for number in range(4)], [wish("a"), wish("b")]
    spread = place(many, two, {})
    assert sorted(map(len, spread.placed.values())) == [0, 0, 1, 1]
    packed = place(many, [msgspec.structs.replace(one, spread="packed") for one in two], {})
    assert sorted(map(len, packed.placed.values())) == [0, 0, 0, 2]


def test_the_less_busy_node_and_the_one_that_has_it_loaded() -> None:
    places = [node("n1", load=0.8), node("n2", load=0.1), node("n3", load=0.8, loaded=[ModelRef("b", "1")])]
    assert nodes_of(place(places, [wish("a")], {}), "a") == ["n2"]
    assert nodes_of(place(places, [wish("b")], {}), "b") == ["n3"]


def test_what_failed_goes_elsewhere_if_it_can() -> None:
    a = ModelRef("a", "1")
    bad, good = node("n1", failed=[a]), node("n2")
    assert nodes_of(place([bad, good], [wish("a")], {"n1": (a,)}), "a") == ["n2"]
    alone = place([bad], [wish("a")], {"n1": (a,)})
    assert nodes_of(alone, "a") == ["n1"]
    assert not alone.problems, "the copy itself says what is wrong"


def test_first_copies_come_first() -> None:
    """Two big copies of one would leave nothing for the other."""
    found = place([node("n1", 3), node("n2", 3)], [wish("a", 2, gib=3), wish("b", gib=2)], {})
    assert len(nodes_of(found, "a")) == len(nodes_of(found, "b")) == 1


def test_copies_stay_where_memory_has_become_short() -> None:
    a = ModelRef("a", "1")
    assert nodes_of(place([node("n1", 0.5), node("n2", 9)], [wish("a")], {"n1": (a,)}), "a") == ["n1"]


def test_reasons() -> None:
    places = [
        node("n1", 1.2), node("n2", 9, problem="has a full disk"), node("n3", 9, gpus=0), node("n4", 9, gpus=1),
    ]  # fmt: skip
    found = place(places, [wish("a", 2, gib=3, gpus=1), wish("b", gib=3), wish("c", 3, gib=20)], {})
    assert found.problems[ModelRef("a", "1")] == (
        "no node can take another copy of a/1 (1 of 2 are placed), which needs 3.0 GiB of memory and 1 GPU: n1 has no"
        " GPU free; n2 has a full disk; n3 has no GPU free; n4 has a copy"
    )
    assert ModelRef("b", "1") not in found.problems
    assert found.problems[ModelRef("c", "1")].endswith(
        "a copy of c/1, which needs 20.0 GiB of memory: n1 has 1.2 GiB of memory free; n2 has a full disk; n3 has 6.0"
        " GiB of memory free; n4 has 6.0 GiB of memory free"
    )
    assert place([], [wish("a")], {}).problems == {ModelRef("a", "1"): "there is no node"}
    many = place([node(f"n{number}", 0) for number in range(20)], [wish("a")], {}).problems[ModelRef("a", "1")]
    assert many.endswith("; 12 other nodes can't either")


def test_while_memory_is_not_known_the_weights_count() -> None:
    one = msgspec.structs.replace(wish("a", gib=0), workers=4)
    assert need_bytes(one) == 4000
    assert need_bytes(msgspec.structs.replace(one, workers=None)) == 1000
    assert need_bytes(msgspec.structs.replace(one, workers=0)) == 0
