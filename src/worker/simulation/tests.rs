//! Seeds that CI runs, and the bugs that they must see.

use super::*;
use crate::projection::Store;

/// Seeds that are run on each of two threads.
const SEEDS: u64 = 1000;

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

/// The simulated disk is held against the real one: the same calls, the same answers.
#[test]
fn the_simulated_store_answers_like_sled() {
    let dir = tempfile::tempdir().unwrap();
    let (real, simulated) = (sled(dir.path()), SimStore::default());
    let mut random = Random(7);
    for step in 0..2000 {
        let (partition, key) = (random.below(3) as i32, random.below(20).to_be_bytes());
        match random.below(20) {
            0 => assert_eq!(real.drop_partition(partition), simulated.drop_partition(partition)),
            1..=4 => assert_eq!(real.remove(partition, &key), simulated.remove(partition, &key)),
            5..=11 => {
                let value = vec![step as u8; random.below(300) as usize];
                assert_eq!(real.put(partition, &key, &value), simulated.put(partition, &key, &value));
            }
            _ => assert_eq!(real.get(partition, &key), simulated.get(partition, &key)),
        }
        for partition in simulated.partitions() {
            assert!(real.partitions().contains(&partition), "a partition that has values is listed");
        }
    }
}
