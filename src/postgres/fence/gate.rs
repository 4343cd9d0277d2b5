//! The fence as one connection applies it.

use std::{borrow::Cow, sync::LazyLock};

use futures_core::future::BoxFuture;
use tokio_postgres::{
    Client, Row,
    error::SqlState,
    types::{FromSql, Type},
};

use super::{Fence, Position, Timeline};
use crate::{
    error::{BoxError, Error, ErrorKind},
    postgres::{decode::column, errors},
};

/// The timeline of a primary, as eight hexadecimal digits; null in recovery. It needs no privilege
/// by default. `pg_current_wal_lsn` raises an error in recovery.
const TIMELINE: &str = "CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
     THEN pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END";

static POSITION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT system.system_identifier, {TIMELINE} FROM pg_catalog.pg_control_system() AS system"
    )
});

/// The server that a response came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgres) enum Server {
    Primary(Position),
    InRecovery,
    /// The role may not read the position, or the server has no such functions.
    Unknown,
}

/// The server's state in a row of a lookup. [`Gate::lookup_sql`] decides whether it has a timeline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum ServerState {
    InRecovery,
    Primary,
    OnTimeline(Timeline),
}

/// The fence of one connection.
///
/// A server changes its timeline only when recovery ends. It enters recovery only when it starts,
/// and a start closes all connections. Therefore a connection that was opened to a primary stays on
/// one timeline, and the store reads it once, after connecting. If the server was in recovery at that
/// time, it may have been promoted since. Behind a transaction pooler, each transaction can run on
/// another server. In both cases each statement reads the timeline.
pub(in crate::postgres) struct Gate {
    fence: Fence,
    /// The server when the connection was opened.
    first: Server,
    pooled: bool,
}

impl Gate {
    /// Reads the position of the server on a new connection. `pooled` states that a transaction
    /// pooler may be in between.
    ///
    /// # Errors
    ///
    /// As for [`Self::admit`], and those of a query. A server without the functions is not an error.
    pub(in crate::postgres) async fn new(
        fence: &Fence,
        client: &Client,
        pooled: bool,
    ) -> Result<Self, Error> {
        let first = match position(client).await {
            Ok(row) => server(&row)?,
            Err(error) if is_unsupported(&error) => Server::Unknown,
            Err(error) => return Err(errors::statement(error)),
        };
        let gate = Self {
            fence: fence.clone(),
            first,
            pooled,
        };
        gate.admit(first)?;
        Ok(gate)
    }

    /// Returns whether a replaced server is detected.
    pub(in crate::postgres) fn is_fenced(&self) -> bool {
        self.first != Server::Unknown
    }

    /// Returns the server that runs the statements sent together with this call.
    ///
    /// # Errors
    ///
    /// As for [`Self::admit`], and no others.
    pub(in crate::postgres) async fn server(&self, client: &Client) -> Result<Server, Error> {
        let server = match self.first {
            Server::Primary(_) if !self.pooled => self.first,
            Server::Unknown => Server::Unknown,
            _ => match position(client).await {
                Ok(row) => server(&row)?,
                // The statements that were sent with it report the cause.
                Err(_) => Server::Unknown,
            },
        };
        self.admit(server)?;
        Ok(server)
    }

    /// Returns the text of a lookup. It returns the server's timeline instead of whether the server
    /// is in recovery, if the timeline may have changed.
    pub(in crate::postgres) fn lookup_sql<'a>(&self, sql: &'a str) -> Cow<'a, str> {
        if self.pooled && self.is_fenced() {
            Cow::Owned(sql.replacen("pg_catalog.pg_is_in_recovery()", TIMELINE, 1))
        } else {
            Cow::Borrowed(sql)
        }
    }

    /// Accepts a response of this server, or rejects it because the server was replaced.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Recovery`]. The connection must be closed.
    pub(in crate::postgres) fn admit(&self, server: Server) -> Result<(), Error> {
        match server {
            Server::Primary(position) => self.fence.admit(position),
            Server::InRecovery | Server::Unknown => Ok(()),
        }
    }

    /// Accepts a row of a lookup or rejects it, as [`Self::admit`] does. Returns whether the server
    /// is in recovery.
    pub(in crate::postgres) fn admit_state(&self, state: ServerState) -> Result<bool, Error> {
        let server = match (state, self.first) {
            (ServerState::InRecovery, _) => return Ok(true),
            (ServerState::OnTimeline(timeline), Server::Primary(first)) => {
                Server::Primary(Position { timeline, ..first })
            }
            (_, Server::InRecovery) => {
                return Err(Error::from_kind(ErrorKind::Recovery)
                    .with_message("the server was promoted after the connection was opened"));
            }
            (_, first) => first,
        };
        self.admit(server)?;
        Ok(false)
    }
}

/// Boxed, because it would be a large part of every write's future, and is rarely awaited there.
fn position(client: &Client) -> BoxFuture<'_, Result<Row, tokio_postgres::Error>> {
    Box::pin(client.query_typed_one(&POSITION, &[]))
}

fn server(row: &Row) -> Result<Server, Error> {
    let Some(timeline) = column(row, 1)? else {
        return Ok(Server::InRecovery);
    };
    let system = column(row, 0)?;
    Ok(Server::Primary(Position { system, timeline }))
}

/// Returns whether the server lacks one of the functions, or the role may not execute it. Other
/// engines have none of them, or reject the call.
fn is_unsupported(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        *code == SqlState::FEATURE_NOT_SUPPORTED || code.code().starts_with("42")
    })
}

impl FromSql<'_> for ServerState {
    fn from_sql(ty: &Type, raw: &[u8]) -> Result<Self, BoxError> {
        if *ty == Type::TEXT {
            return Timeline::from_sql(ty, raw).map(Self::OnTimeline);
        }
        Ok(if bool::from_sql(ty, raw)? {
            Self::InRecovery
        } else {
            Self::Primary
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, BoxError> {
        Ok(Self::InRecovery)
    }

    fn accepts(ty: &Type) -> bool {
        [Type::BOOL, Type::TEXT].contains(ty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn on(timeline: u32) -> Position {
        Position {
            system: 1,
            timeline: Timeline(timeline),
        }
    }

    /// N09: a primary keeps its timeline, except behind a pooler. A replica may become a primary.
    #[test]
    fn each_row_is_admitted_by_the_server_that_returned_it() {
        use ServerState::{InRecovery, OnTimeline, Primary};
        let primary = Server::Primary(on(2));
        for (first, rows) in [
            (
                primary,
                vec![
                    (Primary, Some(false)),
                    (InRecovery, Some(true)),
                    (Primary, Some(false)),
                ],
            ),
            (
                Server::InRecovery,
                vec![(InRecovery, Some(true)), (Primary, None)],
            ),
            (
                Server::Unknown,
                vec![(InRecovery, Some(true)), (Primary, Some(false))],
            ),
            (
                primary,
                vec![
                    (OnTimeline(Timeline(2)), Some(false)),
                    (OnTimeline(Timeline(1)), None),
                    (OnTimeline(Timeline(3)), Some(false)),
                    (OnTimeline(Timeline(2)), None),
                    // The server that the connection was opened to was replaced.
                    (Primary, None),
                ],
            ),
        ] {
            let gate = Gate {
                fence: Fence::default(),
                first,
                pooled: false,
            };
            for (place, (state, in_recovery)) in rows.into_iter().enumerate() {
                let admitted = gate.admit_state(state).ok();
                assert_eq!(admitted, in_recovery, "{first:?}, row {place}");
            }
        }
    }
}
