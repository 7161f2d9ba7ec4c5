"""Who may begin a handshake."""

from batchhub.transport.admission import Admission, AdmissionSettings


def test_a_burst_then_a_rate_for_each_address() -> None:
    door = Admission(AdmissionSettings(unknown=1000, burst=3, rate=2.0))
    assert [door.admit("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert door.admit("b", 0.0)
    assert [door.admit("a", 0.5) for _ in range(2)] == [True, False]
    assert [door.admit("a", 100.0) for _ in range(4)] == [True, True, True, False]
    assert door.refused == 4


def test_so_many_at_once_whoever_they_are() -> None:
    door = Admission(AdmissionSettings(unknown=2, burst=100, rate=100.0))
    assert [door.admit(name, 0.0) for name in "abc"] == [True, True, False]
    door.settled("a")
    assert door.admit("c", 0.0)
    assert door.unknown == 2


def test_one_address_does_not_take_every_place() -> None:
    door = Admission(AdmissionSettings(unknown=4, each=2, burst=100, rate=100.0))
    assert [door.admit("hostile", 0.0) for _ in range(4)] == [True, True, False, False]
    assert [door.admit("a", 0.0), door.admit("b", 0.0)] == [True, True]
    door.settled("hostile")
    assert [door.admit("hostile", 0.0), door.admit("hostile", 0.0)] == [True, False]
    for name in ("hostile", "hostile", "a", "b"):
        door.settled(name)
    assert (door.unknown, dict(door._unknown)) == (0, {})


def test_the_memory_of_addresses_is_bounded() -> None:
    door = Admission(AdmissionSettings(unknown=10**6, burst=1, rate=0.0))
    for number in range(5000):
        assert door.admit(str(number), 0.0)
    assert len(door._buckets) == 4096
    assert not door.admit("4999", 0.0)
    assert door.admit("0", 0.0)  # forgotten
