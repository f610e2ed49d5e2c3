from simulator.runs.curves import Cost, Curve, best_of, common_target, reached


def _curve(values: list[float], *, is_falling: bool = False) -> Curve:
    costs = [Cost(at_s=10.0 * i, bytes_up=i, bytes_down=2 * i, device_s=0.5 * i) for i in range(len(values))]
    points = list(zip(costs, values, strict=True))
    return Curve(name="a", metric="m", is_falling=is_falling, points=points)


def test_target_is_reached_when_it_is_for_the_first_time() -> None:
    """Later falls change nothing; a loss is reached from above."""
    cost = reached(_curve([0.1, 0.8, 0.7, 0.9]), 0.75)
    assert cost is not None
    assert cost.at_s == 10
    assert reached(_curve([0.1, 0.8]), 0.9) is None
    falling = reached(_curve([3, 2, 1], is_falling=True), 2)
    assert falling is not None
    assert falling.at_s == 10


def test_axis_adds_both_ways_of_bytes() -> None:
    """Bytes are those up and down."""
    curve = _curve([0, 0, 0])
    assert curve.axis("bytes") == [0, 3, 6]
    assert curve.axis("at_s") == [0, 10, 20]
    assert curve.axis("device_s") == [0, 0.5, 1]


def test_common_target_is_the_first_wish_or_what_all_reach() -> None:
    """Without a wish, the worst of the bests."""
    curves = [_curve([0.2, 0.9]), _curve([0.5, 0.8, 0.7])]
    assert common_target(curves, {"a": None, "b": 0.6}) == 0.6
    assert common_target(curves, {}) == 0.8
    assert common_target([_curve([3, 1], is_falling=True), _curve([2], is_falling=True)], {}) == 2
    assert common_target([_curve([])], {}) is None
    assert best_of(_curve([])) is None
