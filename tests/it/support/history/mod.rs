//! The history checker: processes that share a database work at random while faults strike, and
//! their records are checked against the documented guarantees. The tests are in
//! `extended/linearizability`.

pub mod by_hand;
pub mod checker;
pub mod dice;
pub mod nemesis;
pub mod other_process;
pub mod record;
pub mod report;
mod updates;
mod worker;
pub mod workload;
pub mod world;
