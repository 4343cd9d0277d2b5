//! How many cases a property test tries.

use proptest::test_runner::{Config as ProptestConfig, RngSeed};

/// A configuration for this many cases, the same in each run. `PROPTEST_RNG_SEED` tries others.
pub fn cases(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: match default.rng_seed {
            RngSeed::Random => RngSeed::Fixed(6265),
            fixed @ RngSeed::Fixed(_) => fixed,
        },
        ..default
    }
}
