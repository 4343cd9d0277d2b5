//! What the crate promises, with every source that this machine has.

mod behaviour;
