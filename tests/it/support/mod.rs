//! What the tests share, by topic. None of these modules contains a test.

mod cases;
mod database;
mod logs;
mod requests;
mod sources;
mod users;
mod waiting;
mod watched_store;

pub mod audit;
pub mod caching;
pub mod conformance;
pub mod fault;
pub mod grpc;
pub mod history;
pub mod hyper_app;
pub mod loopback;
pub mod manual_feed;
pub mod notifications;
pub mod organizations;
pub mod pair;
pub mod pgbouncer;
pub mod proxy;
pub mod recorded_logs;
#[path = "../../reference/mod.rs"]
pub mod reference;
pub mod scripted_store;
pub mod secrets;
pub mod time_limit;
#[cfg(feature = "rustls")]
pub mod tls_server;

pub use self::{
    cases::*, database::*, logs::*, requests::*, sources::*, users::*, waiting::*, watched_store::*,
};
