//! Guides: one page per task. The tests compile the programs.
//!
//! | task | guide |
//! |---|---|
//! | use the crate in an axum application | [`axum`] |
//! | use it in a gRPC service, with streams and gRPC-Web | [`tonic`] |
//! | use it in hyper, or in a stack with a timeout and load shedding | [`tower_stack`] |
//! | move an application from axum-login or tower-sessions | [`from_axum_login`] |
//! | keep sqlx, Diesel or SeaORM for everything but the sessions | [`sqlx`] |
//! | sign in with OAuth, OpenID Connect, passkeys or links by email | [`sign_in_methods`] |
//! | ask for a second factor, or let an administrator act as a user | [`session_columns`] |
//! | restrict statements to the rows of the current user | [`row_level_security`] |
//! | test an application | [`testing`] |
//! | describe the users table: types, roles, tenants | [`users_table`] |
//!
//! The modules contain nothing but documentation.

pub mod axum;
#[doc(alias("axum-login", "tower-sessions"))]
pub mod from_axum_login;
#[doc(alias("rls", "policy", "tenants"))]
pub mod row_level_security;
#[doc(alias("2fa", "impersonation", "mfa", "step_up", "totp"))]
pub mod session_columns;
#[doc(alias("magic_link", "oauth2", "oidc", "openid", "passkey", "webauthn"))]
pub mod sign_in_methods;
#[doc(alias("diesel", "sea-orm"))]
pub mod sqlx;
#[doc(alias("mock", "test", "tests"))]
pub mod testing;
#[doc(alias("grpc", "grpc-web"))]
pub mod tonic;
#[doc(alias("hyper", "load_shed", "timeout"))]
pub mod tower_stack;
#[doc(alias("citext", "enum", "roles", "tenants"))]
pub mod users_table;
