//! Column values of users in memory, and the conditions on them.

use std::{
    any::{Any, type_name},
    collections::HashMap,
    fmt,
    hash::Hash,
};

use crate::{
    error::{Error, ErrorKind},
    store::{ColumnConditions, MemorySessionStore},
};

impl<I: Clone + Eq + Hash, U> MemorySessionStore<I, U> {
    /// Sets a column of the user, for [`SignIn::if_unchanged`](crate::service::SignIn::if_unchanged).
    ///
    /// `name` is the text that the application passes to `if_unchanged`, and `value` has the same
    /// type. Otherwise such a sign-in fails with [`ErrorKind::Schema`].
    ///
    /// ```
    /// # use tower_user_session::{ErrorKind, SessionService, store::MemorySessionStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_user_session::Error> {
    /// let sessions = SessionService::new(MemorySessionStore::new());
    /// sessions.store().add_user(7, "Ada");
    /// sessions.store().set_column(7, "u.password_hash", "new hash".to_owned());
    ///
    /// let sign_in = sessions.sign_in_without_request(7);
    /// let error = sign_in.if_unchanged("u.password_hash", "old hash".to_owned()).await;
    /// assert_eq!(error.unwrap_err().kind(), ErrorKind::UserNotAllowed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_column<V>(&self, id: I, name: &'static str, value: V)
    where
        V: Send + Sync + 'static,
    {
        self.state().columns.set(id, name, value);
    }
}

/// The conditions of a sign-in to [`MemorySessionStore`]: column values
/// that the user must still have.
#[derive(Default)]
pub struct MemoryConditions(Vec<Condition>);

struct Condition {
    column: &'static str,
    value_type: &'static str,
    /// Compares a value of the same type. `None` means that the type differs.
    is_equal: Box<Comparison>,
}

type Comparison = dyn Fn(&dyn Any) -> Option<bool> + Send + Sync;

impl<V: PartialEq + Send + Sync + 'static> ColumnConditions<V> for MemoryConditions {
    fn add(&mut self, column: &'static str, value: V) {
        self.0.push(Condition {
            column,
            value_type: type_name::<V>(),
            is_equal: Box::new(move |current| Some(*current.downcast_ref::<V>()? == value)),
        });
    }
}

/// Omits the values, because they may be password hashes.
impl fmt::Debug for MemoryConditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|condition| condition.column))
            .finish()
    }
}

/// The columns that a test has set, by user and name.
pub(super) struct Columns<I>(HashMap<I, HashMap<&'static str, Column>>);

struct Column {
    value: Box<dyn Any + Send + Sync>,
    value_type: &'static str,
}

impl<I> Default for Columns<I> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<I: Eq + Hash> Columns<I> {
    pub(super) fn set<V: Send + Sync + 'static>(&mut self, id: I, name: &'static str, value: V) {
        let column = Column {
            value: Box::new(value),
            value_type: type_name::<V>(),
        };
        self.0.entry(id).or_default().insert(name, column);
    }

    pub(super) fn remove(&mut self, id: &I) {
        self.0.remove(id);
    }

    /// Returns whether the user meets the conditions.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] if a column is missing or has another type, as in PostgreSQL.
    pub(super) fn meet(&self, id: &I, conditions: &MemoryConditions) -> Result<bool, Error> {
        let columns = self.0.get(id);
        for condition in &conditions.0 {
            let name = condition.column;
            let column = columns
                .and_then(|columns| columns.get(name))
                .ok_or_else(|| {
                    let cause = format!("the user has no column {name}: call set_column");
                    Error::new(ErrorKind::Schema, cause)
                })?;
            let is_equal = (condition.is_equal)(&*column.value).ok_or_else(|| {
                let cause = format!(
                    "the column {name} has the type {}, and if_unchanged compares it with {}",
                    column.value_type, condition.value_type
                );
                Error::new(ErrorKind::Schema, cause)
            })?;
            if !is_equal {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
