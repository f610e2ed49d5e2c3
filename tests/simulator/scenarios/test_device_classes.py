from statistics import median

from simulator.scenarios.device_classes import CLASSES, ClassSettings, DeviceClass


def test_factor_is_lognormal_about_one_and_a_function_of_seed_and_id() -> None:
    """The median device is as fast as its class says; one device is the same whenever it is asked."""
    spread = DeviceClass(seconds_per_batch=2, spread=0.5)
    factors = [spread.factor(1, f"d{i}") for i in range(1000)]
    assert 0.93 < median(factors) < 1.07
    assert 0.55 < sorted(factors)[159] < 0.67  # exp(-0.5) = 0.61 at the 16th percentile
    assert factors == [spread.factor(1, f"d{i}") for i in range(1000)]
    assert spread.factor(2, "d0") != spread.factor(1, "d0")


def test_class_without_spread_is_exact() -> None:
    """No dice are asked."""
    assert DeviceClass(seconds_per_batch=2).batch_s(1, "d") == 2
    assert DeviceClass().batch_s(1, "d") is None


def test_own_numbers_go_over_the_built_in_ones() -> None:
    """What is not written stays."""
    own = ClassSettings(seconds_per_batch=0.2).over(CLASSES["pi-4"])
    assert own == CLASSES["pi-4"].model_copy(update={"seconds_per_batch": 0.2})
    assert ClassSettings(seconds_per_batch=0.2).over(None) == DeviceClass(seconds_per_batch=0.2)
