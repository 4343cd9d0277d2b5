//! The layers as services: what they load, require, pass through and refuse.

mod allocations;
mod connections;
mod contract;
mod frameworks;
mod grpc;
mod load_user;
mod pass_through;
mod refusals;
mod require_user;
mod return_to;
mod several_user_types;
