//! Conversions between PostgreSQL values and the types of this crate.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use tokio_postgres::{
    Row,
    types::{FromSql, IsNull, ToSql, Type, to_sql_checked},
};

use crate::{
    error::{BoxError, Error, ErrorKind},
    postgres::{
        fence::ServerState,
        user::{LookupRow, PgUser},
    },
    session::{Lifetime, Session, SessionId, SessionTimestamps, TokenDigest, UserKey},
    store::LookupResult,
};

/// The number of columns of `find.sql` that precede the user's columns.
pub(super) const FIRST_USER_COLUMN: usize = 8;

/// One decoded row of `find.sql`.
pub(super) struct FoundRow<U> {
    pub(super) result: LookupResult<U>,
    pub(super) state: ServerState,
    /// The sequence number of the query that the row belongs to.
    pub(super) query_seq: i64,
}

/// Decodes a row of `find.sql`, by column position. If the user cannot be decoded, only the lookup
/// of this digest fails.
pub(super) fn found<U: PgUser>(
    row: &Row,
    with_user_key: bool,
    lifetime: Lifetime,
) -> Result<FoundRow<U>, Error> {
    let digest = column(row, 0)?;
    let query_seq = column(row, 1)?;
    let state = column::<ServerState>(row, 2)?;
    let result = match live(row, with_user_key, lifetime) {
        Ok(Some((user, session, Some(key)))) => {
            LookupResult::live(digest, user, session).with_user_key(key)
        }
        Ok(Some((user, session, None))) => LookupResult::live(digest, user, session),
        Ok(None) => LookupResult::absent(digest),
        Err(error) => LookupResult::failed(digest, error),
    };
    Ok(FoundRow {
        // A notification may have arrived before the replica replayed the change that it announces.
        result: if matches!(state, ServerState::InRecovery) {
            result.without_caching()
        } else {
            result
        },
        state,
        query_seq,
    })
}

type Live<U> = Option<(U, Session, Option<UserKey>)>;

fn live<U: PgUser>(row: &Row, with_user_key: bool, lifetime: Lifetime) -> Result<Live<U>, Error> {
    let Some(id) = column(row, 4)? else {
        return Ok(None);
    };
    let after_row = row.len() - U::SESSION_COLUMNS.len();
    let after_user = after_row - 1 - usize::from(with_user_key);
    let created_at = column::<Option<Timestamp>>(row, after_user)?.ok_or_else(|| {
        Error::from_kind(ErrorKind::Protocol).with_message(
            "the lookup returned the row of another session or user: an index may be corrupt, \
             run REINDEX",
        )
    })?;
    let times = SessionTimestamps {
        now: time(row, 3)?,
        created_at: created_at.0,
        authenticated_at: time(row, 5)?,
        last_seen_at: time(row, 6)?,
        expires_at: time(row, 7)?,
    };
    let Some(session) = Session::new(id, times).limited(lifetime) else {
        return Ok(None);
    };
    let key = if with_user_key {
        user_key(row, after_user + 1)?
    } else {
        None
    };
    let columns = LookupRow::new(row, FIRST_USER_COLUMN..after_user, after_row..row.len());
    let user = user(&columns)?;
    Ok(Some((user, session, key)))
}

/// Decodes the user. `from_row` is application code, so a panic in it fails this row alone. The
/// panic message is dropped, because it may contain the user's data.
pub(super) fn user<U: PgUser>(row: &LookupRow<'_>) -> Result<U, Error> {
    let read = catch_unwind(AssertUnwindSafe(|| U::from_row(row)));
    match read {
        Ok(read) => read.map_err(|error| Error::new(ErrorKind::Decode, error)),
        Err(_) => Err(Error::from_kind(ErrorKind::Panicked)),
    }
}

/// Decodes `now, id, created_at, authenticated_at, last_seen_at, expires_at`, starting at column
/// `first`.
pub(super) fn current(row: &Row, first: usize) -> Result<Session, Error> {
    let time = |offset| time(row, first + offset);
    let times = SessionTimestamps {
        now: time(0)?,
        created_at: time(2)?,
        authenticated_at: time(3)?,
        last_seen_at: time(4)?,
        expires_at: time(5)?,
    };
    Ok(Session::new(column(row, first + 1)?, times))
}

fn time(row: &Row, place: usize) -> Result<SystemTime, Error> {
    column::<Timestamp>(row, place).map(|time| time.0)
}

/// Decodes the result of `user_key.sql`; `None` if the key has no hash.
pub(super) fn user_key(row: &Row, place: usize) -> Result<Option<UserKey>, Error> {
    let hash: Option<i64> = column(row, place)?;
    Ok(hash.map(|hash| UserKey::from_hash(hash.cast_unsigned())))
}

pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, place: usize) -> Result<T, Error> {
    row.try_get(place)
        .map_err(|error| Error::new(ErrorKind::Decode, error))
}

/// A `timestamptz`. Unlike the driver's own conversion, this conversion rejects `infinity` and any
/// time that `SystemTime` cannot represent.
struct Timestamp(SystemTime);

impl FromSql<'_> for Timestamp {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, BoxError> {
        /// From 1970, the Unix epoch, to 2000, PostgreSQL's epoch.
        const EPOCH: Duration = Duration::from_secs(946_684_800);
        let micros = i64::from_be_bytes(raw.try_into()?);
        let distance = Duration::from_micros(micros.unsigned_abs());
        let epoch = SystemTime::UNIX_EPOCH + EPOCH;
        let finite = micros != i64::MAX && micros != i64::MIN;
        let time = if micros < 0 {
            epoch.checked_sub(distance)
        } else {
            epoch.checked_add(distance)
        };
        time.filter(|_| finite)
            .map(Self)
            .ok_or_else(|| "the time is out of range".into())
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// Text that another client may have written in another encoding. A database with the encoding
/// `SQL_ASCII` allows this. Bytes that are not UTF-8 are replaced.
pub(super) struct LossyText(pub(super) String);

impl FromSql<'_> for LossyText {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, BoxError> {
        Ok(Self(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::BYTEA
    }
}

impl FromSql<'_> for TokenDigest {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, BoxError> {
        Ok(Self::from_bytes(raw.try_into()?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::BYTEA
    }
}

impl ToSql for TokenDigest {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        out.extend_from_slice(self.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::BYTEA
    }

    to_sql_checked!();
}

impl FromSql<'_> for SessionId {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, BoxError> {
        Ok(Self::from_bytes(raw.try_into()?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }
}

impl ToSql for SessionId {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        out.extend_from_slice(self.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_system_time_cannot_represent_are_rejected() {
        let read = |micros: i64| {
            Timestamp::from_sql(&Type::TIMESTAMPTZ, &micros.to_be_bytes()).map(|time| time.0)
        };
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        assert_eq!(read(0).unwrap(), at(946_684_800));
        assert_eq!(read(-946_684_800_000_000).unwrap(), at(0));
        assert_eq!(read(1_000_000).unwrap(), at(946_684_801));
        // PostgreSQL's infinity and -infinity.
        assert!(read(i64::MAX).is_err());
        assert!(read(i64::MIN).is_err());
        assert!(Timestamp::from_sql(&Type::TIMESTAMPTZ, &[0; 7]).is_err());
    }
}
