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
        sql::text::{BASE_TYPE, types_query},
        user::PgUser,
    },
};

/// The types in [`PgUser`], as the server reports them.
#[derive(Debug)]
pub(crate) struct UserTypes {
    key: &'static str,
    columns: &'static str,
    from: &'static str,
    accepts_key: fn(&Type) -> bool,
    cached_key: OnceLock<Type>,
}

impl UserTypes {
    pub(crate) fn new<U: PgUser>() -> Self {
        Self {
            key: U::KEY,
            columns: U::COLUMNS,
            from: U::FROM,
            accepts_key: <U::Id as ToSql>::accepts,
            cached_key: OnceLock::new(),
        }
    }

    /// Returns the type of the users' key. The type is cached if it matches [`PgUser::Id`].
    pub(crate) async fn key_type_on(&self, client: &Client) -> Result<Type, Error> {
        if let Some(known) = self.cached_key.get() {
            return Ok(known.clone());
        }
        let types = self.parameter_types(client, &[self.key]).await?;
        let key = types.into_iter().next();
        let key = key.ok_or(Error::from_kind(ErrorKind::Decode))?;
        if (self.accepts_key)(&key) {
            // A concurrent caller may have stored the same value first.
            let _ = self.cached_key.set(key.clone());
        }
        Ok(key)
    }

    /// Returns the types of parameters that are compared with these expressions.
    pub(crate) async fn parameter_types(
        &self,
        client: &Client,
        expressions: &[&'static str],
    ) -> Result<Vec<Type>, Error> {
        let mut types = Vec::with_capacity(expressions.len());
        if expressions.is_empty() {
            return Ok(types);
        }
        // Parenthesized, as in the statements.
        let expressions = format!("({})", expressions.join("), ("));
        for oid in self.oids(client, &expressions).await? {
            types.push(match base_type(client, oid).await? {
                Base::BuiltIn(built_in) => built_in,
                Base::Simple(simple) => simple,
                Base::Other(name) => {
                    return Err(not_built_in("a column that is compared", &name));
                }
            });
        }
        Ok(types)
    }

    /// Verifies that the types of the user's columns are built in. The driver needs no query to
    /// read them then.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the driver cannot read them.
    pub(crate) async fn check_columns(&self, client: &Client) -> Result<(), Error> {
        for oid in self.oids(client, self.columns).await? {
            match base_type(client, oid).await? {
                Base::BuiltIn(_) => {}
                Base::Simple(other) => return Err(not_built_in("PgUser::COLUMNS", other.name())),
                Base::Other(name) => return Err(not_built_in("PgUser::COLUMNS", &name)),
            }
        }
        Ok(())
    }

    async fn oids(&self, client: &Client, expressions: &str) -> Result<Vec<Oid>, Error> {
        let sql = types_query(self.from, expressions);
        let row = client.query_typed_one(&sql, &[]).await;
        let types: FieldTypes = column(&row.map_err(errors::statement)?, 0)?;
        Ok(types.0)
    }
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
