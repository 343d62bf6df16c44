//! Seeds that CI runs, and the bugs that they must see.

use super::*;

/// Seeds that are run on each of two threads.
const SEEDS: u64 = 1000;
/// Seeds within which each bug is seen.
const SEEDS_OF_A_BUG: u64 = 400;

fn all_hold(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err(wrong) = run(seed, None) {
            panic!("seed {seed}: {wrong}");
        }
    }
}

#[test]
fn inv_1_to_8_hold_in_a_thousand_runs() {
    all_hold(0..SEEDS);
}

#[test]
fn inv_1_to_8_hold_in_another_thousand_runs() {
    all_hold(SEEDS..2 * SEEDS);
}

#[test]
fn a_seed_takes_the_same_course_again() {
    for seed in 0..20 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}

#[test]
fn every_deliberate_bug_is_seen() {
    let unseen: Vec<_> =
        Mutation::ALL.into_iter().filter(|bug| (0..SEEDS_OF_A_BUG).all(|seed| run(seed, Some(*bug)).is_ok())).collect();
    assert!(unseen.is_empty(), "not seen within {SEEDS_OF_A_BUG} seeds: {unseen:?}");
}
