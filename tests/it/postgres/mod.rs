//! `PgSessionStore` on real servers: statements, migrations, triggers, privileges, poolers, faults.

mod check;
mod connect;
mod corrupt_index;
mod encodings;
mod error_causes;
mod failover;
mod faults;
mod fence;
mod install_triggers;
mod keys;
mod locks;
mod lookup;
mod migrations;
mod natural_keys;
mod pgbouncer;
mod pipelined_writes;
mod pipelining;
mod plans;
mod privileges;
mod protocol;
mod revoke_functions;
mod revoke_functions_migration;
mod round_trips;
mod search_path;
mod settings;
mod statements;
#[cfg(feature = "rustls")]
mod tls;
mod transaction_pooling;
mod triggers;
mod unencrypted;
mod user_triggers;
mod wire;
