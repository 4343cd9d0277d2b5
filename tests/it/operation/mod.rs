//! What an operator sees and does: metrics, events, and the statements of `docs/operating.md`.

mod events;
mod metrics;
mod outages;
mod runbook;
mod spans;
