use std::{net::IpAddr, time::SystemTime};

use tower_user_session::session::SessionId;

use crate::{AccountError, Accounts};

/// How many events the page shows.
const MOST: i64 = 20;

/// An event of one of the user's sessions, from the audit trail.
#[derive(Clone, Debug)]
pub struct Activity {
    /// What happened: `began`, `rotated`, `reassigned`, `ended` or `expired`.
    pub event: String,
    /// When it happened.
    pub happened_at: SystemTime,
    /// The session's public id.
    pub session: SessionId,
    /// The `User-Agent` of the sign-in.
    pub user_agent: Option<String>,
    /// The address of the sign-in.
    pub ip: Option<IpAddr>,
    /// Whether the session began on a client from which the user had not signed in before. The first
    /// sign-in of a user is not on a new client.
    pub is_new_client: bool,
}

impl Accounts {
    /// Returns the user's latest events, the last one first.
    pub async fn recent_activity(&self, user_id: i64) -> Result<Vec<Activity>, AccountError> {
        let client = self.pool().get().await.map_err(AccountError::unavailable)?;
        let rows = client
            .query(include_str!("recent_activity.sql"), &[&user_id, &MOST])
            .await
            .map_err(AccountError::unavailable)?;
        let activity = rows.iter().map(|row| {
            let session: &str = row.get("session_id");
            Ok(Activity {
                event: row.get("event"),
                happened_at: row.get("happened_at"),
                session: session.parse().map_err(AccountError::unavailable)?,
                user_agent: row.get("user_agent"),
                ip: row.get("ip"),
                is_new_client: row.get("is_new_client"),
            })
        });
        activity.collect()
    }
}
