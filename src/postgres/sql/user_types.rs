//! The types of the application's own columns, which only the server knows.
//!
//! The driver learns types that are not built in by a prepared statement of its own. Where there may be
//! none, the server is asked here, in a way that needs none.

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
        sql::text::{BASE_TYPE, asking_for_types},
        user::PgUser,
    },
};

/// What the server says of the types in [`PgUser`].
#[derive(Debug)]
pub(crate) struct UsersTypes {
    key: &'static str,
    columns: &'static str,
    from: &'static str,
    accepts_key: fn(&Type) -> bool,
    known_key: OnceLock<Type>,
}

impl UsersTypes {
    pub(crate) fn new<U: PgUser>() -> Self {
        Self {
            key: U::KEY,
            columns: U::COLUMNS,
            from: U::FROM,
            accepts_key: <U::Id as ToSql>::accepts,
            known_key: OnceLock::new(),
        }
    }

    /// The type of the users' key. Remembered, once it is one that fits [`PgUser::Id`].
    pub(crate) async fn of_key(&self, client: &Client) -> Result<Type, Error> {
        if let Some(known) = self.known_key.get() {
            return Ok(known.clone());
        }
        let types = self.of(client, &[self.key]).await?;
        let key = types.into_iter().next();
        let key = key.ok_or(Error::from_kind(ErrorKind::Decode))?;
        if (self.accepts_key)(&key) {
            // Somebody else may have been faster, with the same.
            let _ = self.known_key.set(key.clone());
        }
        Ok(key)
    }

    /// The types that parameters need which are compared with these expressions.
    pub(crate) async fn of(
        &self,
        client: &Client,
        expressions: &[&'static str],
    ) -> Result<Vec<Type>, Error> {
        let mut types = Vec::with_capacity(expressions.len());
        if expressions.is_empty() {
            return Ok(types);
        }
        // In parentheses, as in the statements.
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

    /// Whether the driver can read the user's columns without asking for their types.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] where it cannot.
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
        let sql = asking_for_types(self.from, expressions);
        let row = client.query_typed_one(&sql, &[]).await;
        let types: FieldTypes = column(&row.map_err(errors::statement)?, 0)?;
        Ok(types.0)
    }
}

fn not_built_in(place: &str, name: &str) -> Error {
    let text = format!(
        "{place} has the type \"{name}\", which is not built in: under transaction pooling, cast it \
         (column::text)"
    );
    Error::new(ErrorKind::Configuration, text)
}

/// What a type is, once domains are taken off.
enum Base {
    BuiltIn(Type),
    /// An extension's type without parts, such as `citext`.
    Simple(Type),
    /// An enum, an array of one, a composite and so on, by name.
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

/// The types of a record's fields, which it carries with their values.
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
                return Err("a field of the record is not null".into());
            }
        }
        Ok(Self(types))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::RECORD
    }
}

/// The length of what is null: -1.
const NULL: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_of_which_types_its_fields_are() {
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
