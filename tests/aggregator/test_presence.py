"""Which connection is the newest, and two devices with one id."""

from aggregator.presence import CLONE_WINDOW_S, Presences


def test_is_stale_of_an_older_connection_is_true_and_of_a_newer_one_false() -> None:
    """Within one boot the higher connection is the newer."""
    presences = Presences()
    assert not presences.is_stale("pi", "a", 1, 0.0)
    assert not presences.is_stale("pi", "a", 3, 1.0)
    assert presences.is_stale("pi", "a", 2, 2.0)
    assert presences["pi"].connection == 3


def test_is_stale_of_the_will_of_an_old_boot_is_true() -> None:
    """The will of the boot before, which comes after the new boot's first word, says nothing about the new one."""
    presences = Presences()
    presences.is_stale("pi", "a", 1, 0.0)
    assert not presences.is_stale("pi", "b", 1, 1.0)
    assert presences.is_stale("pi", "a", 1, 2.0, may_be_will=True)
    assert presences["pi"].boot == "b"


def test_is_cloned_after_reboots_is_false() -> None:
    """However often a device reboots, it never returns to an earlier boot."""
    presences = Presences()
    for i in range(20):
        presences.is_stale("pi", f"boot-{i}", 1, float(i))
        assert not presences.is_cloned("pi", float(i))


def test_is_cloned_of_two_boots_that_take_turns_is_true_and_is_forgotten() -> None:
    """Two devices with one id are noticed once each has come back, and believed again after the window."""
    presences = Presences()
    for now, boot in enumerate("abab"):
        presences.is_stale("pi", boot, 1 + now, float(now))
    assert presences.is_cloned("pi", 3.0)
    assert not presences.is_cloned("pi", 3.0 + CLONE_WINDOW_S)


def test_is_cloned_after_one_message_that_was_long_under_way_is_false() -> None:
    """One message of an old boot that arrives late accuses nobody."""
    presences = Presences()
    for now, boot in enumerate("aba"):
        presences.is_stale("pi", boot, 1 + now, float(now))
    assert not presences.is_cloned("pi", 2.0)


def test_is_cloned_of_a_device_that_was_switched_on_again_is_false_however_late_its_messages_are() -> None:
    """What an old boot said on connections that were seen may arrive between the words of the new one."""
    presences = Presences()
    for now, boot in enumerate("aaabababababab"):
        assert not presences.is_stale("pi", boot, 1, float(now))
        assert not presences.is_cloned("pi", float(now))
    assert presences["pi"].boot == "b"


def test_names_that_somebody_makes_up_do_not_fill_the_memory() -> None:
    """Whoever was silent longest is forgotten first."""
    presences = Presences(max_devices=3)
    for device in ("a", "b", "c", "a", "d", "e"):
        assert not presences.is_stale(device, "boot", 1, 0.0)
    assert len(presences) == 3
    assert presences.is_stale("a", "boot", 0, 0.0)
    assert not presences.is_stale("b", "boot", 0, 0.0)
