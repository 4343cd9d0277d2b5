//! Second factors, step-up authentication and impersonation, with session columns.
//!
//! A session column has what is true of this session and not of the user: see
//! [session columns](crate::postgres#session-columns). The repository's `examples/session-columns`
//! is a whole application with the patterns of this page, and its tests have each rule as a line of
//! a table.
//!
//! # Second factor
//!
//! The column `factors text[] NOT NULL DEFAULT '{}'` has what the user proved at the last
//! authentication. A guard reads it from the user type:
//!
//! ```
//! use std::time::Duration;
//! use tower_user_session::RequireUserLayer;
//!
//! # #[derive(Clone)]
//! struct User { factors: Vec<String> }
//!
//! let payments = RequireUserLayer::<User>::new()
//!     .allow_if(|user| user.factors.iter().any(|factor| factor == "totp"))
//!     .forbidden_page("/code")
//!     .max_auth_age(Duration::from_secs(5 * 60))
//!     .reauthentication_page("/confirm");
//! # let _: RequireUserLayer<User> = payments;
//! ```
//!
//! Both conditions must hold: the last authentication had a second factor, and it is recent (OWASP
//! ASVS 5.0, 7.5.3). A user without the factor is sent to `/code`, and a user whose authentication
//! is too old to `/confirm`.
//!
//! Each authentication sets the column to what it has proven:
//!
//! ```
//! # use http::HeaderMap;
//! # use tower_user_session::{Error, PgSessionStore, PgUser, SessionService, SignedIn};
//! # async fn example<U: PgUser<Id = i64>>(
//! #     sessions: SessionService<PgSessionStore<U>>, user_id: i64, headers: HeaderMap,
//! # ) -> Result<(SignedIn, SignedIn, SignedIn), Error> {
//! let password = || vec!["password".to_owned()];
//! let both = || vec!["password".to_owned(), "totp".to_owned()];
//! // After the password was checked:
//! let signed_in = sessions.sign_in(user_id, &headers).set("factors", password()).await?;
//! // On the page /confirm, after the password was checked again:
//! let confirmed = sessions.reauthenticate(user_id, &headers).set("factors", password()).await?;
//! // On the page /code, after the one-time code was checked:
//! let stepped_up = sessions.reauthenticate(user_id, &headers).set("factors", both()).await?;
//! # Ok((signed_in, confirmed, stepped_up)) }
//! ```
//!
//! * **A re-authentication without `set` keeps the old factors.** It renews the time of the
//!   authentication. An old code and a new password would then pass as a new code.
//! * Use `reauthenticate` and not `update`. The session gets a new token when its privileges grow
//!   (OWASP ASVS 5.0, 7.2.4), and `authenticated_at` is renewed.
//! * Accept each code once (RFC 6238, section 5.2), and limit the attempts.
//! * The page for the code must need the first factor.
//!
//! # Impersonation
//!
//! An administrator acts as a user in a session **of the user**. Everything that belongs to the user
//! then works without a change. A column names the administrator's session:
//!
//! ```sql
//! ALTER TABLE sessions ADD COLUMN impersonator_session uuid REFERENCES sessions ON DELETE CASCADE;
//! ```
//!
//! | rule | where |
//! |---|---|
//! | the sessions end together | the foreign key cascades |
//! | the administrator's session is within its limits | [`PgUser::CONDITION`](crate::PgUser::CONDITION) compares them: a limit deletes no row |
//! | the administrator is neither disabled nor demoted | the condition |
//! | no impersonation within an impersonation, and none of an administrator | the condition |
//! | shorter than other sessions | [`max_lifetime`](crate::service::SignIn::max_lifetime) |
//! | not on routes such as the change of the password | a guard: `allow_if(\|user\| user.impersonator.is_none())` |
//! | the administrator has a recent second factor | a guard on the route that starts it |
//! | visible on each page | a banner, if the user type has an impersonator |
//! | both sessions in each event | the setting `audit_columns` of `migrations/optional/audit_sessions.sql` |
//!
//! An impersonation begins with a sign-in, so that `max_auth_age` alone accepts it as a recent
//! authentication of the user. Each guard with `max_auth_age` therefore also needs the condition on
//! the impersonator, or a factor that an impersonation does not have.
//!
//! The joins find the administrator's session only if it is within its limits:
//!
//! ```text
//! FROM users AS u
//!     LEFT JOIN sessions AS own
//!         ON own.id = live_session.impersonator_session
//!         AND own.expires_at > now() AND own.last_seen_at > now() - interval '1 hour'
//!     LEFT JOIN users AS admin ON admin.id = own.user_id
//! WHERE u.disabled_at IS NULL
//!     AND (live_session.impersonator_session IS NULL
//!          OR admin.is_admin AND admin.disabled_at IS NULL
//!             AND own.impersonator_session IS NULL AND NOT u.is_admin)
//! ```
//!
//! The interval is the store's idle limit. Without an idle limit, the comparison is not needed.
//! With the cache, a change of the administrator's session or row has an effect within the
//! [re-check interval](crate::service::SessionServiceBuilder::recheck_interval), because it changes
//! a joined row. An end of the administrator's session deletes the other session, which is announced.
//!
//! [`sign_in`](crate::SessionService::sign_in) would end the administrator's session. The handler
//! calls [`sign_in_without_request`](crate::SessionService::sign_in_without_request) and moves the
//! administrator's token to a cookie of its own with the prefix `__Host-`. "Stop" ends the session
//! and moves the token back, if it belongs to the session that the column names. A sign-in and a
//! sign-out end both sessions.
