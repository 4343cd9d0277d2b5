//! The readers of client input agree with their references, for inputs that a grammar generates.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proptest::prelude::*;

use crate::support::{cases, reference::grammar};

/// Each kind that the references distinguish.
const KINDS: usize = 25;

/// Pseudo-random numbers (splitmix64), the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn bytes(&mut self, into: &mut Vec<u8>) {
        into.clear();
        let words = self.next() % 64;
        into.extend((0..words).flat_map(|_| self.next().to_le_bytes()));
    }
}

/// Counts the inputs of each kind. A panic reports the disagreement.
fn run(seed: u64, mut go_on: impl FnMut(u64) -> bool) -> BTreeMap<&'static str, u64> {
    let (mut numbers, mut bytes, mut tally) = (Numbers(seed), Vec::new(), BTreeMap::new());
    let mut done = 0;
    while go_on(done) {
        numbers.bytes(&mut bytes);
        *tally.entry(grammar::check(&bytes)).or_default() += 1;
        done += 1;
    }
    tally
}

proptest! {
    #![proptest_config(cases(10_000))]

    /// A02, A16, A19, A27: cookies, tokens, return paths and cookies planted by a sibling subdomain
    /// are read as the references read them.
    #[test]
    fn the_readers_agree_with_the_references(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        grammar::check(&bytes);
    }
}

/// A02: the grammar reaches each kind of input. Otherwise it would prove little.
#[test]
fn the_grammar_reaches_every_kind() {
    let tally = run(6265, |done| done < 30_000);
    assert_eq!(tally.len(), KINDS, "{tally:#?}");
    assert!(tally.values().all(|&number| number >= 10), "{tally:#?}");
}

/// The same with other inputs in each run: `FUZZ_MINUTES=60 cargo test --release --all-features
/// --test it fuzz::long -- --ignored --nocapture`. `FUZZ_SEED` repeats a run.
#[test]
#[ignore = "takes FUZZ_MINUTES, 60 by default"]
fn long() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let minutes: u64 = number("FUZZ_MINUTES").unwrap_or(60);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("FUZZ_SEED").unwrap_or(u64::from(now.subsec_nanos()) ^ now.as_secs());
    println!("FUZZ_SEED={seed}");
    let (start, length) = (Instant::now(), Duration::from_secs(60 * minutes));
    let tally = run(seed, |done| done % 1_000 != 0 || start.elapsed() < length);
    let all: u64 = tally.values().sum();
    println!(
        "{all} inputs, {} a second",
        all / start.elapsed().as_secs().max(1)
    );
    for (kind, number) in &tally {
        println!("{number:>12}  {kind}");
    }
    assert_eq!(tally.len(), KINDS);
}
