//! From PostgreSQL's values to this crate's and back.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use tokio_postgres::{
    Row,
    types::{FromSql, IsNull, ToSql, Type, to_sql_checked},
};

use super::user::{LookupRow, PgUser};
use crate::{
    BoxError, Error, ErrorKind, LookupAnswer, Session, SessionId, SessionTimes, TokenDigest,
    UserKey,
};

/// The columns of `find.sql` before the user's.
pub(super) const FIRST_USER_COLUMN: usize = 10;

/// What one row of `find.sql` says.
pub(super) struct FoundRow<U> {
    pub(super) answer: LookupAnswer<U>,
    pub(super) in_recovery: bool,
    /// The number of the question that it answers.
    pub(super) question: i64,
}

/// Reads a row of `find.sql`, by position. A user that cannot be read fails this digest alone.
pub(super) fn found<U: PgUser>(row: &Row, absolute_limit: Duration) -> Result<FoundRow<U>, Error> {
    let mut digest: TokenDigest = column(row, 0)?;
    let question = column(row, 1)?;
    let in_recovery = column(row, 2)?;
    let session = (|| {
        if column::<Option<SessionId>>(row, 4)?.is_none() {
            return Ok(None);
        }
        // A row of another session is not the answer to what was asked, which the caller notices.
        digest = column::<Option<TokenDigest>>(row, row.len() - 1)?.ok_or_else(|| {
            Error::bare(ErrorKind::Protocol).saying(
                "the database returned another user than the session's: its index may be corrupt",
            )
        })?;
        let session = current(row, 3)?.limited(absolute_limit);
        Ok(session.map(|session| (session, user_key(row, 9))))
    })();
    let answer = match session {
        Ok(None) => LookupAnswer::absent(digest),
        Ok(Some((session, key))) => match (user(row), key) {
            (Ok(user), Ok(key)) => {
                let live = LookupAnswer::live(digest, user, session);
                match key {
                    Some(key) => live.with_user_key(key),
                    None => live,
                }
            }
            (Err(error), _) | (_, Err(error)) => LookupAnswer::failed(digest, error),
        },
        Err(error) => LookupAnswer::failed(digest, error),
    };
    Ok(FoundRow {
        // An announcement may have arrived before the replica had replayed what it announces.
        answer: if in_recovery {
            answer.without_caching()
        } else {
            answer
        },
        in_recovery,
        question,
    })
}

/// Reads the user. `from_row` is the application's code: a panic in it fails this row alone, and its message is
/// not kept, because it may contain the user's data.
pub(super) fn user<U: PgUser>(row: &Row) -> Result<U, Error> {
    let read = catch_unwind(AssertUnwindSafe(|| U::from_row(&LookupRow::new(row))));
    match read {
        Ok(read) => read.map_err(|error| Error::new(ErrorKind::Row, error)),
        Err(_) => Err(Error::bare(ErrorKind::Panicked)),
    }
}

/// Reads `now, id, created_at, authenticated_at, last_seen_at, expires_at` from `first` on.
pub(super) fn current(row: &Row, first: usize) -> Result<Session, Error> {
    let time = |offset| column::<Timestamp>(row, first + offset).map(|time| time.0);
    let times = SessionTimes {
        now: time(0)?,
        created_at: time(2)?,
        authenticated_at: time(3)?,
        last_seen_at: time(4)?,
        expires_at: time(5)?,
    };
    Ok(Session::new(column(row, first + 1)?, times))
}

/// Reads the hash of `user_key.sql`, if the key has one.
pub(super) fn user_key(row: &Row, place: usize) -> Result<Option<UserKey>, Error> {
    let hash: Option<i64> = column(row, place)?;
    Ok(hash.map(|hash| UserKey::from_hash(hash.cast_unsigned())))
}

pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, place: usize) -> Result<T, Error> {
    row.try_get(place)
        .map_err(|error| Error::new(ErrorKind::Row, error))
}

/// A `timestamptz`. Unlike the driver's own conversion it refuses `infinity` and whatever else this
/// machine's clock cannot say.
struct Timestamp(SystemTime);

impl FromSql<'_> for Timestamp {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, BoxError> {
        /// From 1970, where Unix time begins, to 2000, where PostgreSQL's does.
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

/// The bytes of a text that another program may have written in another encoding, as a database of `SQL_ASCII` allows.
/// What is not UTF-8 is replaced.
pub(super) struct AnyText(pub(super) String);

impl FromSql<'_> for AnyText {
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
    fn times_that_this_machine_cannot_say_are_refused() {
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
