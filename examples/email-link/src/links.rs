//! Links: each works once, and for fifteen minutes.

use axum::http::HeaderMap;
use tower_user_session::{BoxError, SignedIn, deadpool_postgres::Pool, session::SessionToken};

use crate::Sessions;

/// Creates a link for this address, and returns its token. Returns `None` if a link for the address
/// is less than a minute old, so that a mailbox is not flooded.
pub(crate) async fn create(pool: &Pool, email: &str) -> Result<Option<SessionToken>, BoxError> {
    // 32 bytes from the operating system: what a link needs, too.
    let token = SessionToken::generate()?;
    let insert = "INSERT INTO sign_in_links AS l (email, token_digest) VALUES ($1, $2)
        ON CONFLICT (email) DO UPDATE SET token_digest = EXCLUDED.token_digest, created_at = now()
        WHERE l.created_at < now() - interval '1 minute'";
    let digest = token.digest();
    let client = pool.get().await?;
    let created = client
        .execute(insert, &[&email, &digest.as_bytes().as_slice()])
        .await?;
    Ok((created == 1).then_some(token))
}

/// Consumes the link and signs its user in. The first link creates the account.
///
/// Everything is one transaction: a failure does not consume the link. Returns `None` for an
/// unknown, used or expired link.
pub(crate) async fn redeem(
    sessions: &Sessions,
    token: &str,
    headers: &HeaderMap,
) -> Result<Option<SignedIn>, BoxError> {
    let Some(token) = SessionToken::parse(token.as_bytes()) else {
        return Ok(None);
    };
    let redeem = "WITH link AS (
            DELETE FROM sign_in_links WHERE token_digest = $1
            RETURNING email, created_at
        )
        INSERT INTO link_users (email)
        SELECT email FROM link WHERE created_at > now() - interval '15 minutes'
        ON CONFLICT (email) DO UPDATE SET email = EXCLUDED.email
        RETURNING id";
    let mut client = sessions.store().pool().get().await?;
    let transaction = client.transaction().await?;
    let digest = token.digest();
    let user = transaction
        .query_opt(redeem, &[&digest.as_bytes().as_slice()])
        .await?;
    let Some(user) = user else {
        // Deletes a link that has expired.
        transaction.commit().await?;
        return Ok(None);
    };
    let sign_in = sessions.sign_in(user.get("id"), headers).remember(true);
    let signed_in = sign_in.in_transaction(&transaction).await?;
    transaction.commit().await?;
    Ok(Some(signed_in))
}
