//! Types of the application's columns, which only the server knows.
//!
//! To look up types that are not built in, the driver uses a prepared statement. If prepared
//! statements are not available, these queries look up the types.

use std::sync::OnceLock;

use tokio_postgres::{
    Client,
    types::{FromSql, Kind, Oid, ToSql, Type},
};

use crate::{
    error::{BoxError, Error, ErrorKind},
    postgres::{
        decode::column,
        errors,
        sql::{
            session_columns,
            text::{BASE_TYPE, types_query},
        },
        user::PgUser,
    },
};

/// The types in [`PgUser`], as the server reports them.
#[derive(Debug)]
pub(crate) struct UserTypes {
    key: &'static str,
    columns: &'static str,
    from: &'static str,
    session_columns: &'static [&'static str],
    accepts_key: fn(&Type) -> bool,
    cached_key: OnceLock<Type>,
}

impl UserTypes {
    pub(crate) fn new<U: PgUser>() -> Self {
        Self {
            key: U::KEY,
            columns: U::COLUMNS,
            from: U::FROM,
            session_columns: U::SESSION_COLUMNS,
            accepts_key: <U::Id as ToSql>::accepts,
            cached_key: OnceLock::new(),
        }
    }

    /// Returns the type of the users' key. The type is cached if it matches [`PgUser::Id`].
    pub(crate) async fn key_type_on(&self, client: &Client, table: &str) -> Result<Type, Error> {
        if let Some(known) = self.cached_key.get() {
            return Ok(known.clone());
        }
        let types = self.precondition_types(client, table, &[self.key]).await?;
        let key = types.into_iter().next();
        let key = key.ok_or(Error::from_kind(ErrorKind::Decode))?;
        if (self.accepts_key)(&key) {
            // A concurrent caller may have stored the same value first.
            let _ = self.cached_key.set(key.clone());
        }
        Ok(key)
    }

    /// Returns the types of parameters that are compared with these expressions over the user's
    /// tables.
    pub(crate) async fn precondition_types(
        &self,
        client: &Client,
        table: &str,
        expressions: &[&'static str],
    ) -> Result<Vec<Type>, Error> {
        if expressions.is_empty() {
            return Ok(Vec::new());
        }
        // Parenthesized, as in the statements.
        let expressions = format!("({})", expressions.join("), ("));
        let oids = self.oids(client, table, &expressions).await?;
        parameter_types(client, oids, "a column that is compared").await
    }

    /// Returns the types of parameters for these session columns.
    pub(crate) async fn session_column_types(
        &self,
        client: &Client,
        table: &str,
        columns: &[&'static str],
    ) -> Result<Vec<Type>, Error> {
        if columns.is_empty() {
            return Ok(Vec::new());
        }
        let oids = session_oids(client, table, columns).await?;
        parameter_types(client, oids, "a session column").await
    }

    /// Verifies that the types of the user's columns are built in. The driver needs no query to
    /// read them then.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the driver cannot read them.
    pub(crate) async fn check_columns(&self, client: &Client, table: &str) -> Result<(), Error> {
        let of_user = self.oids(client, table, self.columns).await?;
        all_built_in(client, of_user, "PgUser::COLUMNS").await?;
        if self.session_columns.is_empty() {
            return Ok(());
        }
        let of_session = session_oids(client, table, self.session_columns).await?;
        all_built_in(client, of_session, "PgUser::SESSION_COLUMNS").await
    }

    async fn oids(
        &self,
        client: &Client,
        table: &str,
        expressions: &str,
    ) -> Result<Vec<Oid>, Error> {
        let live_session = session_columns::null_session(self.session_columns, table);
        oids(client, &types_query(&live_session, self.from, expressions)).await
    }
}

async fn session_oids(client: &Client, table: &str, columns: &[&str]) -> Result<Vec<Oid>, Error> {
    let columns = session_columns::selected(columns);
    oids(client, &types_query("", &format!("{table} AS s"), &columns)).await
}

async fn oids(client: &Client, types_query: &str) -> Result<Vec<Oid>, Error> {
    let row = client.query_typed_one(types_query, &[]).await;
    let types: FieldTypes = column(&row.map_err(errors::statement)?, 0)?;
    Ok(types.0)
}

async fn parameter_types(client: &Client, oids: Vec<Oid>, place: &str) -> Result<Vec<Type>, Error> {
    let mut types = Vec::with_capacity(oids.len());
    for oid in oids {
        types.push(match base_type(client, oid).await? {
            Base::BuiltIn(built_in) => built_in,
            Base::Simple(simple) => simple,
            Base::Other(name) => return Err(not_built_in(place, &name)),
        });
    }
    Ok(types)
}

async fn all_built_in(client: &Client, oids: Vec<Oid>, place: &str) -> Result<(), Error> {
    for oid in oids {
        match base_type(client, oid).await? {
            Base::BuiltIn(_) => {}
            Base::Simple(other) => return Err(not_built_in(place, other.name())),
            Base::Other(name) => return Err(not_built_in(place, &name)),
        }
    }
    Ok(())
}

fn not_built_in(place: &str, name: &str) -> Error {
    let text = format!(
        "{place} has the type \"{name}\", which is not built in: behind a transaction pooler, \
         cast it (column::text)"
    );
    Error::new(ErrorKind::Configuration, text)
}

/// A type after its domains are resolved to their base type.
enum Base {
    BuiltIn(Type),
    /// An extension's type without components, such as `citext`.
    Simple(Type),
    /// The name of another type: an enum, an array of enums, a composite and so on.
    Other(String),
}

async fn base_type(client: &Client, oid: Oid) -> Result<Base, Error> {
    if let Some(built_in) = Type::from_oid(oid) {
        return Ok(Base::BuiltIn(built_in));
    }
    let row = client
        .query_typed_one(&BASE_TYPE, &[(&oid, Type::OID)])
        .await
        .map_err(errors::statement)?;
    let base: Oid = column(&row, 0)?;
    if let Some(built_in) = Type::from_oid(base) {
        return Ok(Base::BuiltIn(built_in));
    }
    let name: String = column(&row, 1)?;
    Ok(if column(&row, 3)? {
        Base::Simple(Type::new(name, base, Kind::Simple, column(&row, 2)?))
    } else {
        Base::Other(name)
    })
}

/// The types of a record's fields, which the binary format contains.
#[derive(Debug, PartialEq)]
struct FieldTypes(Vec<Oid>);

impl FromSql<'_> for FieldTypes {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, BoxError> {
        let mut rest = raw;
        let mut number = || {
            let (number, after) = rest.split_first_chunk().ok_or("the record is too short")?;
            rest = after;
            Ok::<_, BoxError>(u32::from_be_bytes(*number))
        };
        let mut types = Vec::new();
        for _ in 0..number()? {
            types.push(number()?);
            if number()? != NULL {
                return Err("a field of the record is not NULL".into());
            }
        }
        Ok(Self(types))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::RECORD
    }
}

/// The length field of a NULL value: -1.
const NULL: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_contains_the_types_of_its_fields() {
        let raw = [
            [0, 0, 0, 2],
            [0, 0, 0, 20],
            [255; 4],
            [0, 0, 0, 25],
            [255; 4],
        ];
        let raw = raw.concat();
        let types = |raw: &[u8]| FieldTypes::from_sql(&Type::RECORD, raw);
        assert_eq!(types(&raw).unwrap(), FieldTypes(vec![20, 25]));
        assert_eq!(types(&[0; 4]).unwrap(), FieldTypes(vec![]));
        for end in 0..raw.len() {
            assert!(types(&raw[..end]).is_err());
        }
        assert!(types(&[[0, 0, 0, 1], [0, 0, 0, 20], [0; 4]].concat()).is_err());
    }
}
