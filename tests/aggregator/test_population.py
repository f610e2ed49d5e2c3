"""Who has checked in, and who waits for work."""

from aggregator.population import CHECK_INS_MISSED, FORGET_S, RETURN_S, Population
from shared.errors import Reason

INTERVAL_S = 30.0


def waiting(population: Population, now: float = 0.0) -> list[str]:
    """Return who may be asked."""
    candidates = population.candidates(now, INTERVAL_S)
    assert len(candidates) == len(list(candidates))
    return list(candidates)


def nobody(device: str) -> bool:
    """Nobody has counted."""
    return False


def test_device_waits_from_its_check_in_until_it_is_given_work() -> None:
    """And again after its next."""
    population = Population()
    population.check_in("a", 0.0, refusal=None)
    population.check_in("b", 0.0, refusal=None)
    assert waiting(population) == ["a", "b"]
    population.assigned("a")
    assert waiting(population) == ["b"]
    population.check_in("a", 1.0, refusal=None)
    assert waiting(population) == ["b", "a"]


def test_refused_device_does_not_wait() -> None:
    """Whether it says so itself or we do; it is known all the same."""
    population = Population()
    population.check_in("a", 0.0, refusal=None)
    population.check_in("a", 1.0, refusal=Reason.SPEC, detail="another model")
    assert waiting(population) == []
    member = population.get("a")
    assert member is not None
    assert (member.refusal, member.detail) == (Reason.SPEC, "another model")
    assert population.counts() == {"known": 1, "online": 1, "waiting": 0, "refused": 1}


def test_device_that_left_does_not_wait() -> None:
    """Until it checks in again; a device that nobody knows may leave."""
    population = Population()
    population.check_in("a", 0.0, refusal=None)
    population.offline("a")
    population.offline("stranger")
    assert waiting(population) == []
    assert population.counts()["online"] == 0
    population.check_in("a", 1.0, refusal=None)
    assert waiting(population) == ["a"]


def test_device_that_missed_three_check_ins_is_not_asked() -> None:
    """Its check-in may be three intervals old, and no older."""
    population = Population()
    population.check_in("old", 0.0, refusal=None)
    population.check_in("new", 60.0, refusal=None)
    assert waiting(population, CHECK_INS_MISSED * INTERVAL_S) == ["old", "new"]
    assert waiting(population, CHECK_INS_MISSED * INTERVAL_S + 0.1) == ["new"]
    assert len(population) == 2


def test_barred_device_is_left_out_of_its_round_only() -> None:
    """Evaluation and the next round may ask it."""
    population = Population()
    population.begin_to_ask(1, nobody)
    population.check_in("a", 0.0, refusal=None)
    population.bar("a", 1)
    population.bar("never-checked-in", 1)
    assert waiting(population) == []
    assert list(population.waiting(0.0, INTERVAL_S)) == ["a"]
    population.check_in("a", 1.0, refusal=None)
    assert waiting(population) == []
    population.begin_to_ask(1, nobody)  # the same round still
    assert waiting(population) == []
    population.begin_to_ask(2, nobody)
    assert waiting(population) == ["a"]
    population.bar("a", 1)  # a late failure of the round before
    assert waiting(population) == ["a"]


def test_device_that_sits_out_waits_on_as_long_as_it_has_to() -> None:
    """It is no candidate, until a round asks for which it need not sit out; leaving or work end that, too."""
    population = Population()
    for device in ("a", "b", "c"):
        population.check_in(device, 0.0, refusal=None, device_class="pi-4")
        population.sits_out(device)
    population.sits_out("stranger")
    assert waiting(population) == []
    population.begin_to_ask(1, lambda device: device == "a")
    candidates = population.candidates(0.0, INTERVAL_S)
    assert dict(candidates) == {"b": "pi-4", "c": "pi-4"}
    assert "a" not in candidates
    population.offline("a")
    population.assigned("b")
    population.check_in("b", 1.0, refusal=None)
    assert set(candidates) == {"b", "c"}  # a view: it changes with the population
    population.check_in("a", 2.0, refusal=None)
    assert "a" in candidates


def test_names_that_somebody_makes_up_do_not_fill_the_memory() -> None:
    """The stalest is forgotten, and no longer asked."""
    population = Population(max_devices=3)
    for i, device in enumerate(["a", "b", "c", "a", "d"]):
        population.check_in(device, float(i), refusal=None)
    assert len(population) == 3
    assert waiting(population) == ["c", "a", "d"]
    population.offline("b")
    assert population.get("b") is None


def test_device_is_believed_once_it_has_come_back_or_was_given_work() -> None:
    """A burst of check-ins is no return, and leaving takes nothing away."""
    population = Population()
    for device in ("once", "burst", "burst", "worker", "back"):
        population.check_in(device, 0.0, refusal=None)
    assert population.n_believed == 0
    population.assigned("worker")
    population.assigned("worker")
    population.check_in("back", RETURN_S, refusal=Reason.DATA)
    assert population.n_believed == 2
    population.offline("back")
    population.offline("once")
    assert population.n_believed == 2


def test_device_that_was_silent_for_long_is_forgotten_when_others_come() -> None:
    """Two for each that is new, so that a flood of names is gone in time; who spoke stays."""
    population = Population()
    for device in ("a", "b", "c", "d"):
        population.check_in(device, 0.0, refusal=None)
    population.assigned("a")
    population.check_in("d", FORGET_S, refusal=None)
    assert population.n_believed == 2
    population.check_in("new", FORGET_S + 1, refusal=None)
    assert [device for device in "abcd" if population.get(device)] == ["c", "d"]
    assert population.n_believed == 1
    population.check_in("newer", FORGET_S + 1, refusal=None)
    assert [device for device in "abcd" if population.get(device)] == ["d"]
