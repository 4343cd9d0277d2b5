//! Values that the driver must not log.

use std::fmt;

use bytes::BytesMut;
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type};

use crate::error::BoxError;

/// A value of the application for a parameter. The driver logs the parameters of a statement at
/// the level `debug`, by their `Debug` output. This value is not part of that output.
pub(super) struct PrivateValue(Box<dyn ToSql + Send + Sync>);

impl PrivateValue {
    pub(super) fn new(value: impl ToSql + Send + Sync + 'static) -> Self {
        Self(Box::new(value))
    }
}

impl ToSql for PrivateValue {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        self.0.to_sql_checked(base_type(ty), out)
    }

    fn accepts(_: &Type) -> bool {
        // `to_sql_checked` checks the type of the inner value.
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        self.0.to_sql_checked(base_type(ty), out)
    }

    fn encode_format(&self, ty: &Type) -> Format {
        self.0.encode_format(base_type(ty))
    }
}

/// Returns the type of the values of a domain. A prepared statement has a parameter of the domain's
/// type, which the driver converts no value to.
fn base_type(ty: &Type) -> &Type {
    match ty.kind() {
        Kind::Domain(base) => base_type(base),
        _ => ty,
    }
}

impl fmt::Debug for PrivateValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateValue")
    }
}
