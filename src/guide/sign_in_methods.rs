//! Sign-in by OAuth, OpenID Connect, passkeys, and links by email.
//!
//! Each method ends in the same call: [`sign_in`](crate::SessionService::sign_in) with the user's
//! key, after the user has been authenticated. What differs is the state before it. This crate
//! creates no row for an anonymous visitor, so the state lives in a short-lived cookie or in a
//! table of yours.
//!
//! # OAuth and OpenID Connect
//!
//! The crates [`openidconnect`](https://docs.rs/openidconnect) and
//! [`oauth2`](https://docs.rs/oauth2) make the URL of the provider and check its response. Between
//! the two requests, the browser keeps the `state`, the PKCE verifier and the nonce in a cookie. With
//! the prefix `__Host-`, no sibling domain can set it (RFC 6265bis §4.1.3.2):
//!
//! ```
//! use axum::http::{HeaderMap, HeaderValue, header};
//! use cookie::{Cookie, SameSite, time::Duration};
//!
//! const NAME: &str = "__Host-oauth";
//!
//! /// The values are base64url, so a dot separates them.
//! fn remember(state: &str, verifier: &str, nonce: &str) -> Cookie<'static> {
//!     Cookie::build((NAME, format!("{state}.{verifier}.{nonce}")))
//!         .path("/")
//!         .secure(true)
//!         .http_only(true)
//!         .same_site(SameSite::Lax)
//!         .max_age(Duration::minutes(10))
//!         .build()
//! }
//!
//! /// Returns the verifier and the nonce if the state is the one of this browser.
//! fn recall(headers: &HeaderMap, state: &str) -> Option<(String, String)> {
//!     let cookies = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
//!     let mut cookies = cookies.flat_map(Cookie::split_parse).flatten();
//!     let value = cookies.find(|cookie| cookie.name() == NAME)?.value().to_owned();
//!     let mut parts = value.split('.');
//!     let same = parts.next() == Some(state) && !state.is_empty();
//!     let parts = (parts.next()?.to_owned(), parts.next()?.to_owned());
//!     same.then_some(parts)
//! }
//! # let mut headers = HeaderMap::new();
//! # let cookie = remember("s", "v", "n");
//! # let cookie = cookie.stripped().to_string();
//! # headers.insert(header::COOKIE, HeaderValue::from_str(&cookie).unwrap());
//! # assert_eq!(recall(&headers, "s"), Some(("v".to_owned(), "n".to_owned())));
//! # assert_eq!(recall(&headers, "x"), None);
//! # assert_eq!(recall(&headers, ""), None);
//! ```
//!
//! The callback compares the state, exchanges the code, finds the user by the provider's subject,
//! and signs in. It also removes the cookie:
//!
//! ```
//! # use axum::{extract::{Query, State}, http::{HeaderMap, StatusCode, header},
//! #     response::{AppendHeaders, IntoResponse, Redirect, Result}};
//! # use tower_user_session::{SessionService, store::MemorySessionStore};
//! # #[derive(Clone)] struct User;
//! # type Sessions = SessionService<MemorySessionStore<i64, User>>;
//! # fn recall(_: &HeaderMap, _: &str) -> Option<(String, String)> { None }
//! # async fn exchange(_: String, _: String, _: String) -> Option<String> { None }
//! # async fn find_or_create_user(_: String) -> Result<i64> { Ok(7) }
//! #[derive(serde::Deserialize)]
//! struct Callback { code: String, state: String }
//!
//! async fn callback(
//!     State(sessions): State<Sessions>,
//!     headers: HeaderMap,
//!     Query(Callback { code, state }): Query<Callback>,
//! ) -> Result<impl IntoResponse> {
//!     let (verifier, nonce) = recall(&headers, &state).ok_or(StatusCode::BAD_REQUEST)?;
//!     let subject = exchange(code, verifier, nonce).await.ok_or(StatusCode::UNAUTHORIZED)?;
//!     let user_id = find_or_create_user(subject).await?;
//!     let signed_in = sessions.sign_in(user_id, &headers).await?;
//!     let forget = "__Host-oauth=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0";
//!     // Appended, so that the cookie of the session stays.
//!     Ok((AppendHeaders([(header::SET_COOKIE, forget)]), signed_in, Redirect::to("/")))
//! }
//! # let _: axum::routing::MethodRouter<Sessions> = axum::routing::get(callback);
//! ```
//!
//! * Find the user by issuer and subject. An email address can change its owner. Link an existing
//!   account only after its user has signed in by another method.
//! * Send no access token to the browser. This crate has no place for it: store it in a table of
//!   yours, if you need it at all.
//! * With a session cookie that is `SameSite=Strict`, the first page after the redirect is
//!   anonymous, because the provider's site began the navigation. The default `Lax` is sent.
//!
//! ## `form_post`
//!
//! Some providers send the callback as a `POST` from their page (`response_mode=form_post`). Then
//! two things differ. The browser sends a cookie with this request only if it is `SameSite=None`,
//! so the cookie above needs that attribute. And the CSRF layer must let this one path pass. The
//! comparison of the state protects it:
//!
//! ```
//! use tower_http::csrf::CsrfLayer;
//!
//! let csrf = CsrfLayer::new()
//!     .with_insecure_bypass(|method, uri| method == "POST" && uri.path() == "/oauth/callback");
//! # let _: CsrfLayer = csrf;
//! ```
//!
//! The browser does not send the session cookie with this request, because it is `SameSite=Lax`. An
//! earlier session of the same browser therefore stays live until it expires.
//!
//! # Passkeys
//!
//! [`webauthn-rs`](https://docs.rs/webauthn-rs) checks the signatures. A ceremony has two requests,
//! and its state must stay **on the server** between them: a client that can replace the state can
//! replace the challenge. Keep it in a map or a table under a random key, for five minutes at most.
//! Put the key into a short-lived cookie like the one above, and remove the state when it is read,
//! so that it counts once.
//!
//! The last request is a `fetch` with JSON. Return the [`SignedIn`](crate::SignedIn) with it, and
//! let the page navigate. `examples/passkey` in the repository is a complete program.
//!
//! A passkey also renews an authentication: run the same ceremony for the signed-in user, then call
//! [`reauthenticate`](crate::SessionService::reauthenticate).
//!
//! # Links by email
//!
//! A link has a random token of its own, and works once:
//!
//! 1. Generate 32 random bytes. Store their SHA-256 with the user's key and a time a few minutes
//!    ahead.
//! 2. Send the link, and respond in the same way and time if no user has the address.
//! 3. The link opens a page with a button. The button's `POST` signs in. Programs that scan mail
//!    open every link, but they press no button.
//! 4. The `POST` deletes the row and signs in. Both must be one transaction, so that a failure does
//!    not consume the link:
//!
//! ```no_run
//! use http::HeaderMap;
//! use tower_user_session::{BoxError, PgSessionStore, PgUser, SessionService, SignedIn};
//!
//! async fn redeem<U: PgUser<Id = i64>>(
//!     sessions: &SessionService<PgSessionStore<U>>, digest: &[u8], headers: &HeaderMap,
//! ) -> Result<Option<SignedIn>, BoxError> {
//!     let mut client = sessions.store().pool().get().await?;
//!     let transaction = client.transaction().await?;
//!     let redeem = "DELETE FROM sign_in_links
//!         WHERE token_digest = $1 AND expires_at > now() RETURNING user_id";
//!     let Some(link) = transaction.query_opt(redeem, &[&digest]).await? else {
//!         return Ok(None); // unknown, used or expired
//!     };
//!     let sign_in = sessions.sign_in(link.get("user_id"), headers);
//!     let signed_in = sign_in.in_transaction(&transaction).await?;
//!     transaction.commit().await?;
//!     Ok(Some(signed_in)) // only now: the session exists
//! }
//! ```
//!
//! 5. Limit how many links an address and a client can request. Send `Referrer-Policy: same-origin`
//!    with the page, because its address contains the token.
//!
//! `examples/email-link` in the repository is a complete program.
