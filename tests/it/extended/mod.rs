//! Tests with a long form, which runs only if asked for (`--ignored`). Their short forms run with all others.

mod all_logs;
mod audit;
mod distance;
mod fuzz;
mod linearizability;
mod mutations;
mod patroni;
mod wrong_clock;
