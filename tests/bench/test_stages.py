from time import process_time

from bench.stages import StageTimes
from shared.topics import Topics
from shared.wire_fields import for_people


def test_time_goes_to_the_stage_that_has_it() -> None:
    """Half a second of nothing but topics is the wire's; afterwards nobody looks any more."""
    topics = Topics("fleet")
    with StageTimes() as stages:
        end = process_time() + 0.2
        while process_time() < end:
            for number in range(500):
                topics.parse(f"{topics.root}/to/device-{number}/receipt")
                for_people("one\ntwo")
    n_looks = stages.looks.total()
    assert stages.looks["wire"] > n_looks / 2
    before = stages.looks.copy()
    end = process_time() + 0.05
    while process_time() < end:
        pass
    assert stages.looks == before


def test_stages_share_the_time_that_was_taken() -> None:
    """Two of three looks at the wire, 3 s for 1000 pieces: 2000 microseconds each there."""
    stages = StageTimes()
    stages.looks.update({"wire": 2, "train": 1})
    assert stages.microseconds_each(1000, 3.0) == {"wire": 2000.0, "train": 1000.0}
