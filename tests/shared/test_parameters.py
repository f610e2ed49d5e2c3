from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from shared.errors import ConfigError, PeerError, Reason
from shared.parameters import MAX_ENTRIES, ParameterSpec, Role, constants_of, delta_of
from shared.task import Arrays, Initial, Trained


def a_model() -> Initial:
    """A weight, a bias in half precision, running statistics, a counter."""
    return Initial(
        {
            "w": np.arange(6, dtype=np.float32).reshape(2, 3),
            "b": np.array([0.5, -2], dtype=np.float16),
            "mean": np.array([1.5], dtype=np.float64),
            "count": np.array(7),
        },
        buffers=frozenset({"mean"}),
    )


def trained(parameters: Arrays | None = None, gradient: Arrays | None = None, num_examples: Any = 1) -> Trained:
    """What a task returns."""
    return Trained(parameters=parameters, gradient=gradient, num_examples=num_examples, n_steps=1)


def test_a_spec_by_hand() -> None:
    """Slices in the order of the names, roles by the buffers, integers left out."""
    spec = ParameterSpec.of(a_model())
    assert [str(entry) for entry in spec.entries] == [
        "w float32[2, 3] trainable",
        "b float16[2] trainable",
        "mean float64[1] buffer",
    ]
    assert [entry.slice for entry in spec.entries] == [slice(0, 6), slice(6, 8), slice(8, 9)]
    assert spec.n_params == 9
    assert spec.is_trainable.tolist() == [True] * 8 + [False]
    assert not spec.is_trainable.flags.writeable
    assert spec.flatten(a_model().parameters).tolist() == [0, 1, 2, 3, 4, 5, 0.5, -2, 1.5]
    assert constants_of(a_model()) == {"count": np.array(7)}


floats = st.sampled_from([np.float16, np.float32, np.float64]).flatmap(
    lambda kind: st_numpy.arrays(
        kind,
        st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4),
        # what float16 holds, every dtype returns exactly
        elements=st.floats(width=16, allow_nan=False, allow_infinity=False),
    )
)


@given(st.dictionaries(st.text(min_size=1, max_size=9), floats, min_size=1, max_size=5))
def test_arrays_return_as_they_were(arrays: dict[str, Any]) -> None:
    """Name, shape, dtype and value; and the spec survives the wire."""
    spec = ParameterSpec.of(Initial(arrays))
    back = spec.unflatten(spec.flatten(arrays))
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert np.array_equal(back[name], array)
    assert ParameterSpec.from_wire(spec.to_wire()) == spec
    assert ParameterSpec.from_wire(spec.to_wire()).digest == spec.digest


def test_a_scalar_is_a_model() -> None:
    """Of shape (), one parameter."""
    spec = ParameterSpec.of(Initial({"w": np.array(2.0)}))
    assert spec.n_params == 1
    assert spec.unflatten(spec.flatten({"w": np.array(3.0)}))["w"].shape == ()


def test_tied_names_travel_once_and_come_back_as_one_array() -> None:
    """One memory under two names is one entry; the same values elsewhere, or a part of it, are not."""
    w = np.ones((2, 2), dtype=np.float32)
    spec = ParameterSpec.of(Initial({"a": w, "copy": w.copy(), "b": w, "row": w[0], "turned": w.T}))
    assert [entry.names for entry in spec.entries] == [("a", "b"), ("copy",), ("row",), ("turned",)]
    back = spec.unflatten(np.zeros(spec.n_params, dtype=np.float32))
    assert back["a"] is back["b"]
    assert spec.flatten({n: a for n, a in back.items() if n != "a"}).tolist() == [0] * spec.n_params


def test_empty_arrays_are_not_tied() -> None:
    """They share no memory, for they have none; and they return too."""
    spec = ParameterSpec.of(Initial({"a": np.empty((0, 3)), "b": np.empty((0, 3)), "w": np.ones(2)}))
    assert [entry.names for entry in spec.entries] == [("a",), ("b",), ("w",)]
    assert spec.unflatten(np.ones(2, dtype=np.float32))["b"].shape == (0, 3)


def test_unflattened_arrays_are_the_tasks_own() -> None:
    """What a task does to them changes nothing here."""
    spec = ParameterSpec.of(a_model())
    vector = spec.flatten(a_model().parameters)
    before = vector.copy()
    for array in spec.unflatten(vector).values():
        array += 1
    assert np.array_equal(vector, before)


def test_memory_in_another_order_flattens_by_index() -> None:
    """A transposed and a strided array flatten as they are read."""
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    spec = ParameterSpec.of(Initial({"w": w.T}))
    assert spec.flatten({"w": w.T}).tolist() == [0, 3, 1, 4, 2, 5]
    assert spec.flatten({"w": np.asfortranarray(w.T)}).tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("initial", "cause"),
    [
        (Initial({}), "no floating parameter"),
        (Initial({"n": np.array(1)}), "no floating parameter"),
        (Initial({"w": np.empty(0)}), "no floating parameter"),
        (Initial({"w": np.ones(1)}, frozenset({"mean"})), r"buffers name \['mean'\]"),
        (Initial({"w": [1.0]}), "'w' is a list, not a numpy array"),  # type: ignore[dict-item]
        (Initial({"w": np.ones(1, dtype=complex)}), "'w' has dtype complex128"),
        (Initial({"w": np.ones(1, dtype=np.longdouble)}), "'w' has dtype"),
        (Initial({"w": np.ones(1, dtype=">f4")}), "'w' has dtype >f4"),
        (Initial({"w": np.array(["x"])}), "'w' has dtype <U1"),
        (Initial({"w": np.array([None])}), "'w' has dtype object"),
        (Initial({"": np.ones(1)}), "a name has 1 to 256 bytes"),
        (Initial({"ü" * 129: np.ones(1)}), "a name has 1 to 256 bytes"),
        (Initial({f"w{i}": np.ones(1) for i in range(MAX_ENTRIES + 1)}), "16385 parameters under 16385 names"),
        ({"w": np.ones(1)}, r"must return Initial\(parameters\)"),
        (None, r"must return Initial\(parameters\)"),
    ],
)
def test_a_model_that_cannot_travel_says_why(initial: Any, cause: str) -> None:
    """The parameter is named."""
    with pytest.raises(ConfigError, match=cause):
        ParameterSpec.of(initial)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"w": None}, "'w' is missing"),
        ({"w": np.ones(6)}, r"'w' is float64\[6\], expected w float32\[2, 3\] trainable"),
        ({"w": np.ones((2, 3), dtype=complex)}, "'w' is complex128"),
        ({"w": [[1, 2], [3]]}, "'w' is no array"),
        ({"w": "x"}, "'w' is <U1"),
    ],
)
def test_a_result_of_another_form_is_refused(change: dict[str, Any], cause: str) -> None:
    """Name, what it is and what was expected."""
    spec = ParameterSpec.of(a_model())
    with pytest.raises(PeerError, match=cause) as caught:
        spec.flatten({**a_model().parameters, **change})
    assert caught.value.reason is Reason.RESULT
    with pytest.raises(PeerError, match="a list instead of a dict"):
        spec.flatten([1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"w": np.ones((3, 2), np.float32)}, "w float32[2, 3] trainable here, w float32[3, 2] trainable there"),
        ({"b": np.ones(2)}, "b float16[2] trainable here, b float64[2] trainable there"),
        ({"more": np.ones(1)}, "more float64[1] trainable only there"),
    ],
)
def test_two_specs_differ_in_words(change: Arrays, words: str) -> None:
    """The first parameter that differs, on both sides."""
    ours, theirs = (ParameterSpec.of(Initial({**a_model().parameters, **c}, frozenset({"mean"}))) for c in ({}, change))
    assert ours.difference(theirs) == words
    assert theirs.difference(ours) == _turned(words)
    assert (ours.digest == theirs.digest) is (words == "")


def _turned(words: str) -> str:
    left, comma, right = words.removesuffix(" there").partition(" here, ")
    return f"{right} here, {left} there" if comma else words.replace("only there", "only here")


def test_names_that_are_tied_elsewhere_are_another_spec() -> None:
    """Ties decide how long the vector is."""
    w = np.ones(2, dtype=np.float32)
    tied, loose = ParameterSpec.of(Initial({"a": w, "b": w})), ParameterSpec.of(Initial({"a": w, "b": w.copy()}))
    assert tied.difference(loose) == "a=b float32[2] trainable here, a float32[2] trainable there"


GOOD_ROW: list[Any] = [["w"], [2, 3], "float32", "trainable"]


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [],
        {},
        "w",
        b"w",
        (GOOD_ROW,),
        [None],
        [[]],
        ["abcd"],
        [dict.fromkeys("abcd")],
        [GOOD_ROW[:3]],
        [[*GOOD_ROW, 1]],
        [["w", [2], "float32", "trainable"]],
        [[[], [2], "float32", "trainable"]],
        [[[""], [2], "float32", "trainable"]],
        [[[1], [2], "float32", "trainable"]],
        [[["w"], b"\x02", "float32", "trainable"]],
        [[["w"], 2, "float32", "trainable"]],
        [[["w"], [-1], "float32", "trainable"]],
        [[["w"], [True], "float32", "trainable"]],
        [[["w"], [2.0], "float32", "trainable"]],
        [[["w"], [0], "float32", "trainable"]],
        [[["w"], [1] * 33, "float32", "trainable"]],
        [[["w"], [2**31 + 1], "float32", "trainable"]],
        [[["w"], [2**16, 2**16], "float32", "trainable"]],
        [[["w"], [2**32, 2**32], "float32", "trainable"]],
        [[["w"], [2**31] * 32, "float32", "trainable"]],
        [[["w"], [2], "bfloat16", "trainable"]],
        [[["w"], [2], "complex64", "trainable"]],
        [[["w"], [2], ["float32"], "trainable"]],
        [[["w"], [2], "float32", "boss"]],
        [[["w"], [2], "float32", ["trainable"]]],
        [GOOD_ROW, GOOD_ROW],
        [[["w", "w"], [2], "float32", "trainable"]],
        [[[f"w{i}"], [1], "float32", "trainable"] for i in range(MAX_ENTRIES + 1)],
    ],
)
def test_hostile_rows_are_refused(rows: object) -> None:
    """Wrong types, sizes that overflow, names twice: one `PeerError`, and no memory for what they claim."""
    with pytest.raises(PeerError) as caught:
        ParameterSpec.from_wire(rows)
    assert caught.value.reason is Reason.FIELDS


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.tuples(junk, junk, junk, junk).map(list) | junk, max_size=3) | junk)
def test_rows_of_anything_are_a_spec_or_one_refusal(rows: object) -> None:
    """Nothing else gets out."""
    try:
        assert ParameterSpec.from_wire(rows).to_wire() == rows
    except PeerError:
        return


def test_a_delta_is_trained_minus_received() -> None:
    """By hand: from 1 to 1.25 is + 0.25; a gradient of 3 counts as - 3; buffers it does not name stay."""
    spec = ParameterSpec.of(Initial({"w": np.ones(1), "mean": np.ones(1)}, frozenset({"mean"})))
    received = np.ones(2, dtype=np.float32)
    moved = delta_of(trained({"w": np.array([1.25]), "mean": np.array([0.5])}), received, spec)
    assert moved.tolist() == [0.25, -0.5]
    assert delta_of(trained(gradient={"w": np.array([3.0])}), received, spec).tolist() == [-3, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_task_that_returns_what_it_was_given_has_a_delta_of_nothing(dtype: Any) -> None:
    """Whatever the received model loses on its way to the task's own dtype."""
    spec = ParameterSpec.of(Initial({"w": np.ones(3, dtype=dtype)}))
    received = np.array([0.1, 1.00001, 1e-9], dtype=np.float32)
    assert not delta_of(trained(spec.unflatten(received)), received, spec).any()


def test_a_small_step_of_a_float64_model_is_not_lost() -> None:
    """1e-9 beside 1 is nothing in float32, but it is all of the delta."""
    spec = ParameterSpec.of(Initial({"w": np.ones(1)}))
    delta = delta_of(trained({"w": np.array([1 + 1e-9])}), np.ones(1, dtype=np.float32), spec)
    assert delta == pytest.approx([1e-9], rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["parameters", "gradient"])
def test_nan_and_inf_name_the_parameter(bad: float, where: str) -> None:
    """Found in the one pass over the result, wherever they stand."""
    spec = ParameterSpec.of(Initial({"a": np.ones(3), "b": np.ones(3)}))
    arrays = {"a": np.ones(3), "b": np.array([1, bad, 1])}
    with pytest.raises(PeerError, match="'b' has NaN or Inf") as caught:
        delta_of(trained(**{where: arrays}), np.ones(6, dtype=np.float32), spec)
    assert caught.value.reason is Reason.NOT_FINITE


def test_values_whose_squares_overflow_are_finite_all_the_same() -> None:
    """1e30 squared is beyond float32, the delta itself is not; 1e39 is."""
    spec = ParameterSpec.of(Initial({"a": np.ones(2)}))
    received = np.zeros(2, dtype=np.float32)
    assert delta_of(trained({"a": np.array([1e30, -1e30])}), received, spec) == pytest.approx([1e30, -1e30])
    with pytest.raises(PeerError, match="'a' has NaN or Inf"):
        delta_of(trained({"a": np.array([1e39, 0])}), received, spec)


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        (trained(), "exactly one of parameters and gradient"),
        (trained({"a": np.ones(1)}, {"a": np.ones(1)}), "exactly one of parameters and gradient"),
        (trained({"b": np.ones(1)}), "'a' is missing"),
        (trained({"a": np.ones(2)}), "expected a float64"),
        (trained(gradient={}), "'a' is missing"),
        (trained({"a": np.ones(1)}, num_examples=0), "num_examples is 0"),
        (trained({"a": np.ones(1)}, num_examples=-1), "num_examples is -1"),
        (trained({"a": np.ones(1)}, num_examples=True), "num_examples is True"),
        (trained({"a": np.ones(1)}, num_examples=1.0), "num_examples is 1.0"),
        (None, "returned NoneType, not a Trained"),
        ({"a": np.ones(1)}, "returned dict, not a Trained"),
    ],
)
def test_what_a_task_must_not_return(result: Any, cause: str) -> None:
    """Each is the task's failure, said in words, and not ours."""
    with pytest.raises(PeerError, match=cause) as caught:
        delta_of(result, np.ones(1, dtype=np.float32), ParameterSpec.of(Initial({"a": np.ones(1)})))
    assert caught.value.reason is Reason.RESULT


def test_an_auxiliary_role_survives_the_wire() -> None:
    """A control variate travels beside the model under a rule of its own."""
    spec = ParameterSpec.from_wire([[["w"], [2], "float32", "trainable"], [["c"], [2], "float32", "auxiliary"]])
    assert spec.entries[1].role is Role.AUXILIARY
    assert spec.is_trainable.tolist() == [True, True, False, False]
    assert ParameterSpec.from_wire(spec.to_wire()) == spec == spec.own.with_auxiliary("c", 2)
    assert [str(entry) for entry in spec.own.entries] == ["w float32[2] trainable"]
    assert spec.own.own is spec.own


@pytest.mark.parametrize("roles", [["auxiliary"], ["auxiliary", "trainable"], ["trainable", "auxiliary", "buffer"]])
def test_auxiliary_entries_come_behind_a_model(roles: list[str]) -> None:
    """Whoever cuts the vector at the end of the model cuts nothing else off."""
    with pytest.raises(PeerError, match="behind those of the model"):
        ParameterSpec.from_wire([[[f"p{i}"], [2], "float32", role] for i, role in enumerate(roles)])


def test_auxiliary_entry_needs_a_name_of_its_own_and_room() -> None:
    """Refused before a run begins with it."""
    spec = ParameterSpec.of(Initial({"c": np.ones(2)}))
    with pytest.raises(ConfigError, match="'c': that name is taken"):
        spec.with_auxiliary("c", 2)
    with pytest.raises(ConfigError, match="2147483647 more are to travel"):
        spec.with_auxiliary("d", 2**31 - 1)


def test_values_of_the_trainables_have_their_names_and_shapes() -> None:
    """In the order of the vector, buffers left out, tied names each."""
    tied = np.zeros((2, 1), np.float16)
    initial = Initial({"b": np.zeros(2), "w": tied, "v": tied, "s": np.zeros((), np.float32)}, buffers=frozenset({"b"}))
    named = ParameterSpec.of(initial).named_trainables(np.array([1, 2, 3], np.float32))
    assert {name: array.tolist() for name, array in named.items()} == {"w": [[1], [2]], "v": [[1], [2]], "s": 3}
    assert {array.dtype.name for array in named.values()} == {"float32"}
