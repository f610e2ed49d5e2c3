import pickle

import pytest

from shared.errors import (
    AlreadyServed,
    ConfigError,
    CredentialsRefused,
    FederationError,
    InvalidState,
    PeerError,
    Reason,
    TransportError,
)


def test_every_error_has_one_root_and_nothing_else_is_shared() -> None:
    """Whose fault it is decides what is done: no branch catches another's."""
    branches = (ConfigError, PeerError, InvalidState, TransportError)
    assert all(issubclass(branch, FederationError) for branch in branches)
    assert not any(issubclass(one, other) for one in branches for other in branches if one is not other)


@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (CredentialsRefused, 3), (AlreadyServed, 4)])
def test_an_operators_error_has_its_exit_code(kind: type[ConfigError], code: int) -> None:
    """Scripts tell them apart by the code alone."""
    assert kind("it cannot work").exit_code == code


@pytest.mark.parametrize(
    ("where", "hint", "told"),
    [
        ("", "", "goal is 0"),
        ("run.toml", "", "run.toml: goal is 0"),
        ("run.toml", "say 1", "run.toml: goal is 0\n  say 1"),
    ],
)
def test_a_config_error_says_where_what_and_what_to_do(where: str, hint: str, told: str) -> None:
    """The parts stay readable as attributes too."""
    error = ConfigError("goal is 0", where=where, hint=hint)
    assert str(error) == told
    assert (error.what, error.where, error.hint) == ("goal is 0", where, hint)


def test_a_peer_error_carries_its_reason_and_its_words() -> None:
    """The reason goes into reply and label, the detail into the log."""
    error = PeerError(Reason.NORM, "3.2 is over 1")
    assert (error.reason, error.detail, str(error)) == (Reason.NORM, "3.2 is over 1", "norm: 3.2 is over 1")
    assert str(PeerError(Reason.NORM)) == "norm"


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("what", where="where", hint="hint"),
        PeerError(Reason.DIGEST, "detail"),
        TransportError("what", taken_over=True),
        InvalidState("what"),
    ],
)
def test_errors_pass_from_one_process_to_another(error: FederationError) -> None:
    """Evaluation runs in a process of its own: what it raises arrives whole."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_reasons_are_words_that_fit_into_labels() -> None:
    """Lower case, digits and underscores, no two alike."""
    assert all(reason.value.replace("_", "").isalnum() and reason.value.islower() for reason in Reason)
