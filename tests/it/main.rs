//! What the crate promises, a module a behaviour, against real servers.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test says what went wrong by panicking, and its modules share with nobody else"
)]

mod allocations;
mod announced_users;
mod announcements;
mod announcing;
mod application_code;
mod batching;
mod bouncer;
mod bounds;
mod browser;
mod cache_headers;
mod catalogue;
mod causes;
mod clear_text;
mod connections;
mod cookie_reading;
mod cookie_writing;
mod corrupt_index;
mod devices;
mod encodings;
mod ended;
mod every_log;
mod failover;
mod faults;
mod feed;
mod feed_connection;
mod frameworks;
mod fuzzing;
mod grpc;
mod guards;
mod history;
mod identities;
mod keys_and_names;
mod least_privilege;
mod life_cycle;
mod lifetimes;
mod load_user;
mod locks;
mod lookup;
mod loopback;
mod lying_server;
mod migrations;
mod mutations;
mod natural_keys;
mod navigation;
mod pass_through;
mod pgbouncer;
mod plans;
mod planted;
mod proof;
mod proxy;
#[path = "../reference/mod.rs"]
mod reference;
mod refusals;
mod runtimes;
mod secrets;
#[cfg(feature = "serde")]
mod serialization;
mod server_log;
mod several_cookies;
mod signing_out;
mod statements;
mod store_conformance;
mod supply_chain;
mod support;
mod surroundings;
#[cfg(feature = "rustls")]
mod tls_server;
mod told;
mod tower_contract;
mod transaction_pooling;
#[cfg(feature = "rustls")]
mod transport;
mod unfit;
mod unreliable_stores;
mod wire;
mod wrong_clock;
