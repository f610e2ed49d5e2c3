"""A version is written whole or not at all, and a user gets back the model as it was."""

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from aggregator.model_store import ModelStore, ServerState, export, warm_start
from shared.errors import ConfigError
from shared.parameters import ParameterSpec, constants_of
from shared.task import Initial


def a_model() -> Initial:
    """Return a model with tied weights, three dtypes, a buffer, a scalar and an integer."""
    embedding = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    return Initial(
        {
            "embedding": embedding,
            "layer.weight": np.array([[0.1, 0.2]], dtype=np.float64),
            "head": embedding,
            "scale": np.array(1.5, dtype=np.float16),
            "running_var": np.ones(2, dtype=np.float32),
            "num_batches_tracked": np.array(7, dtype=np.int64),
        },
        buffers=frozenset({"running_var"}),
    )


def a_state(version: int = 3) -> ServerState:
    """Return the server at a version."""
    model = a_model()
    spec = ParameterSpec.of(model)
    return ServerState(
        version=version,
        round_id=version + 1,
        spec=spec,
        parameters=spec.flatten(model.parameters),
        optimizer={"momentum": np.full(spec.n_params, 0.25, dtype=np.float32)},
        constants=constants_of(model),
        counters={"best_version": 2, "best_value": 0.1 + 0.2, "metric": "accuracy", "missed": None},
    )


def test_version_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """All that decides the next version survives a restart, to the bit."""
    state, store = a_state(), ModelStore(tmp_path)
    store.save(state)
    found = store.load(3)
    assert (found.version, found.round_id, found.spec, found.counters) == (3, 4, state.spec, state.counters)
    assert found.parameters.tobytes() == state.parameters.tobytes()
    assert found.optimizer["momentum"].tobytes() == state.optimizer["momentum"].tobytes()
    assert found.constants["num_batches_tracked"].shape == ()
    assert found.constants["num_batches_tracked"] == 7


def test_save_leaves_only_whole_versions(tmp_path: Path) -> None:
    """No file beside the versions stays, and writing one again is allowed."""
    store = ModelStore(tmp_path)
    for version in (2, 1, 10, 10):
        store.save(a_state(version))
    assert store.versions() == [1, 2, 10]
    assert len(list(tmp_path.iterdir())) == 3


def test_delete_all_but_keeps_what_is_named(tmp_path: Path) -> None:
    """The last and the best stay."""
    store = ModelStore(tmp_path)
    for version in range(5):
        store.save(a_state(version))
    assert store.delete_all_but({1, 4, 99}) == [0, 2, 3]
    assert store.versions() == [1, 4]


def test_load_of_a_version_that_is_missing_names_those_that_are_there(tmp_path: Path) -> None:
    """The operator sees what there is."""
    store = ModelStore(tmp_path)
    store.save(a_state(3))
    with pytest.raises(ConfigError, match=r"(?s)00000004.*no such version.*: 3"):
        store.load(4)


@pytest.mark.parametrize("where", [0, 60, -1])
def test_load_of_a_damaged_version_is_refused(tmp_path: Path, where: int) -> None:
    """A flipped bit in header, names or numbers is noticed and the file named."""
    store = ModelStore(tmp_path)
    path = store.save(a_state())
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="00000003"):
        store.load(3)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 1000])
def test_load_of_a_file_that_is_no_version_is_refused(tmp_path: Path, content: bytes) -> None:
    """Garbage is an error with a name, not a traceback."""
    store = ModelStore(tmp_path)
    store.path(1).write_bytes(content)
    with pytest.raises(ConfigError, match="00000001"):
        store.load(1)


def test_export_has_the_names_dtypes_and_shapes_of_the_users_model(tmp_path: Path) -> None:
    """Tied names each, integers included, float64 and float16 as they were."""
    export(a_state(), tmp_path / "final.safetensors")
    found, expected = load_file(tmp_path / "final.safetensors"), a_model().parameters
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name].astype(np.float32), array.astype(np.float32))


def test_export_loads_into_a_torch_module(tmp_path: Path) -> None:
    """`net.load_state_dict(load_file("final.safetensors"))` works, batch norm and tied weights included."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_tensors

    def a_net() -> Any:
        net: Any = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3)).double()
        net[2].weight = net[0].weight
        return net

    torch.manual_seed(1)
    arrays = {name: tensor.numpy() for name, tensor in a_net().state_dict().items()}
    model = Initial(arrays, buffers=frozenset({"1.running_mean", "1.running_var"}))
    spec = ParameterSpec.of(model)
    state = ServerState(
        version=1, round_id=1, spec=spec, parameters=spec.flatten(arrays), constants=constants_of(model)
    )
    export(state, tmp_path / "final.safetensors")
    net = a_net()
    net.load_state_dict(load_tensors(tmp_path / "final.safetensors"))
    assert net[0].weight.dtype == torch.float64
    np.testing.assert_array_equal(net[2].weight.detach().numpy().astype(np.float32), arrays["0.weight"].astype("f4"))


def test_warm_start_takes_over_an_exported_model(tmp_path: Path) -> None:
    """What one run ends with, another begins with, to the bit."""
    state = a_state()
    export(state, tmp_path / "final.safetensors")
    zeros = {"num_batches_tracked": np.array(0, dtype=np.int64)}
    vector, constants = warm_start(tmp_path / "final.safetensors", state.spec, zeros)
    assert vector.tobytes() == state.parameters.tobytes()
    assert constants["num_batches_tracked"] == 7


def test_warm_start_reads_bfloat16(tmp_path: Path) -> None:
    """A format that NumPy does not know is no reason to refuse."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_tensors

    values = torch.tensor([1.5, -2.25], dtype=torch.bfloat16)
    save_tensors({"w": values, "n": torch.tensor(3)}, tmp_path / "start.safetensors")
    spec = ParameterSpec.of(Initial({"w": np.zeros(2, np.float32)}))
    vector, constants = warm_start(tmp_path / "start.safetensors", spec, {"n": np.array(0)})
    assert vector.tolist() == [1.5, -2.25]
    assert constants["n"] == 3


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"scale": None}, "'scale' is missing"),
        ({"scale": np.zeros(2, np.float16)}, r"'scale' has shape \[2\], the model's has \[\]"),
        ({"other": np.zeros(2, np.float32)}, "no parameter 'other'"),
        ({"running_var": np.array([1, np.nan], np.float32)}, "'running_var' has NaN"),
        ({"num_batches_tracked": np.zeros(3, np.int64)}, "'num_batches_tracked' has shape"),
    ],
)
def test_warm_start_that_does_not_fit_names_the_parameter(
    tmp_path: Path, change: dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None"], names: str
) -> None:
    """The operator reads which parameter differs, and how."""
    model = a_model()
    arrays = {name: array for name, array in {**model.parameters, **change}.items() if array is not None}
    save_file(arrays, tmp_path / "start.safetensors")
    with pytest.raises(ConfigError, match=names):
        warm_start(tmp_path / "start.safetensors", ParameterSpec.of(model), constants_of(model))


def test_warm_start_from_what_is_no_model_is_refused(tmp_path: Path) -> None:
    """A missing file and a wrong format name the setting."""
    spec = ParameterSpec.of(a_model())
    (tmp_path / "text").write_text("hello")
    for name in ("absent", "text"):
        with pytest.raises(ConfigError, match=r"server\.init_from"):
            warm_start(tmp_path / name, spec, {})


def test_equal_models_are_exported_as_equal_files(tmp_path: Path) -> None:
    """Whoever compares the files of two runs of one seed sees that they are one model, of whatever version."""
    files = []
    for version in range(8):
        export(a_state(version), tmp_path / "model.safetensors")
        files.append((tmp_path / "model.safetensors").read_bytes())
    assert len(set(files)) == 1
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_disk_that_takes_no_more_is_an_os_error(tmp_path: Path) -> None:
    """Safetensors has an error of its own for it; callers wait for room on an OSError, and the old version stays."""
    store = ModelStore(tmp_path)
    store.save(a_state(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(OSError, match="cannot be written"):
            store.save(a_state(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.versions() == [1]


def test_copies_that_a_user_made_are_no_versions(tmp_path: Path) -> None:
    """Only our own names count."""
    store = ModelStore(tmp_path)
    copy = store.save(a_state(1)).read_bytes()
    (tmp_path / "00000001 (copy).safetensors").write_bytes(copy)
    assert store.versions() == [1]


def test_what_travels_behind_a_model_is_not_exported(tmp_path: Path) -> None:
    """A user's file has the user's names, and a version keeps the rest."""
    own = ParameterSpec.of(Initial({"w": np.zeros(2, np.float32)}))
    spec = own.with_auxiliary("fedmq/c", 2)
    more = {"algorithm/n": np.array(3, np.int64), "algorithm/sum": np.ones(2)}
    state = ServerState(version=1, round_id=1, spec=spec, parameters=np.arange(4, dtype=np.float32), optimizer=more)
    export(state, tmp_path / "model.safetensors")
    exported = load_file(tmp_path / "model.safetensors")
    assert {name: array.tolist() for name, array in exported.items()} == {"w": [0.0, 1.0]}
    store = ModelStore(tmp_path / "versions")
    store.save(state)
    loaded = store.load(1)
    assert (loaded.spec, loaded.model[1], loaded.model[0].tolist()) == (spec, own, [0.0, 1.0])
    assert {name: (array.dtype.name, array.tolist()) for name, array in loaded.optimizer.items()} == {
        "algorithm/n": ("int64", 3),
        "algorithm/sum": ("float64", [1.0, 1.0]),
    }
