//! What the crate promises, a module a behaviour, against real servers.

mod lookup;
mod support;
