from bench.cases import Case
from bench.table import Results, Spread, cpu_ms, ratios, ratios_table, round_s, values_table
from tests.bench.turns import a_turn

CASE = Case.parse("10x1MiB")


def test_round_is_the_median_of_its_turn() -> None:
    """One slow round in a turn does not count."""
    assert round_s(a_turn(1.0, 9.0, 2.0)) == 2.0


def test_cpu_of_an_update_counts_the_broker_in() -> None:
    """Two rounds of ten devices, 3 s of the server and 1 s of the broker: 4 s for 20 updates are 200 ms."""
    assert cpu_ms(a_turn(1.0, 1.0, cpu_s=3.0, broker_cpu_s=1.0), CASE) == 200


def test_ratio_compares_turns_that_stood_side_by_side() -> None:
    """When the machine is twice as slow for a while, for both, the ratio stays what it was."""
    ours, theirs = [a_turn(1.0), a_turn(2.0), a_turn(1.0)], [a_turn(3.0), a_turn(6.0), a_turn(3.0)]
    assert ratios(ours, theirs, round_s) == Spread(median=3.0, least=3.0, most=3.0)


def test_ratio_of_an_interrupted_turn_taking_leaves_out_who_has_no_partner() -> None:
    """Ours had two turns, Flower one: only the first are compared."""
    assert ratios([a_turn(1.0), a_turn(100.0)], [a_turn(2.0)], round_s) == Spread(median=2.0, least=2.0, most=2.0)
    assert ratios([a_turn(1.0)], [], round_s) is None


def test_spread_is_written_with_its_ends_when_there_are_any() -> None:
    """A figure measured once has no brackets; three digits are enough."""
    assert str(Spread.of([0.12345])) == "0.123"
    assert str(Spread.of([1234.5, 0.5, 2.0])) == "2 (0.5–1234)"


def test_values_table_shows_what_a_contender_has_and_a_dash_for_the_rest() -> None:
    """Flower has no broker and says nothing of its loop; of memory and lag the worst turn is shown."""
    turns = [a_turn(0.2, rss=2**20, broker_rss=2**21, broker_cpu_s=1.0, loop_lag_ms=lag) for lag in (5.0, 7.0)]
    head, ours, flower = values_table({CASE: {"ours": turns, "flower": [a_turn(0.4)]}})
    assert len(head) == len(ours) == len(flower)
    assert ours == ["10x1MiB", "FedMQ", "0.2", "105", "200", "100", "50", "1", "2", "7"]
    assert flower == ["10x1MiB", "Flower gRPC", "0.4", "52.4", "100", "–", "50", "1", "–", "–"]


def test_ratios_table_says_how_many_times_more_flower_needs() -> None:
    """Time, CPU with the broker's and without digests, memory with the broker's, the pipe's speed, and with int8."""
    results: Results = {
        CASE: {
            "ours": [a_turn(1.0, cpu_s=1.0, broker_cpu_s=1.0, rss=2**20, broker_rss=2**20)],
            "int8": [a_turn(0.5, cpu_s=0.5, broker_cpu_s=0.3)],
            "undigested": [a_turn(1.0, cpu_s=0.5, broker_cpu_s=0.5)],
            "flower": [a_turn(1.5, cpu_s=4.0, rss=2**23)],
            "pipe": [a_turn(0.25)],
        }
    }
    head, row = ratios_table(results)
    assert len(head) == len(row)
    assert row == ["10x1MiB", "1.5", "2", "4", "4", "25", "3", "5"]


def test_ratios_table_is_empty_when_there_is_nothing_to_compare() -> None:
    """Ours alone, or others without ours, give values and no ratios."""
    assert ratios_table({CASE: {"ours": [a_turn(1.0)]}}) == []
    assert ratios_table({CASE: {"flower": [a_turn(1.0)], "pipe": [a_turn(1.0)]}}) == []
