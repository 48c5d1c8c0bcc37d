from __future__ import annotations

from lightning_autoresearch.seeds import SeedStream, derive_seed


def test_the_stream_depends_on_the_study_seed_alone():
    first, again, other = SeedStream(0), SeedStream(0), SeedStream(1)
    drawn = [first.fresh() for _ in range(50)]
    assert drawn == [again.fresh() for _ in range(50)]
    assert not set(drawn) & {other.fresh() for _ in range(50)}


def test_no_seed_is_drawn_twice_and_all_fit_31_bits():
    stream = SeedStream(7)
    drawn = [stream.fresh() for _ in range(5000)]
    assert len(set(drawn)) == 5000
    assert all(0 <= seed < 2**31 for seed in drawn)


def test_a_seed_has_a_number_that_does_not_tell_it():
    stream = SeedStream(7)
    drawn = [stream.fresh() for _ in range(3)]
    assert [stream.number(seed) for seed in drawn] == [1, 2, 3]


def test_derived_seeds_differ_by_every_part():
    assert len({derive_seed(0, "a", 1), derive_seed(0, "a", 2), derive_seed(0, "b", 1), derive_seed(1, "a", 1)}) == 4
