//! Tokens and digests in `Debug`, errors and logs.

mod debug;
mod server_log;
