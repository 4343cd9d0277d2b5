//! Session columns of the in-memory store.

use std::{any::Any, fmt, hash::Hash, sync::Arc};

use crate::{
    error::{BoxError, Error, ErrorKind},
    store::{MemorySessionStore, SetSessionColumn},
};

/// Sets what a lookup returns of the session columns in the user.
pub(super) type Apply<U> =
    Box<dyn Fn(&mut U, &MemorySessionRow<'_>) -> Result<(), BoxError> + Send + Sync>;

impl<I, U> MemorySessionStore<I, U> {
    /// Sets the names of the session columns, and how a lookup changes the user by their values.
    /// The default is no session columns.
    ///
    /// `apply` has the part of `PgUser::from_row` that reads the session columns. An error fails
    /// the lookup with [`ErrorKind::Decode`].
    ///
    /// A column can have values of any type with equality. Use one type for each column, such as
    /// `String`, or the type and its `Option`. Constraints and defaults of a database do not exist,
    /// and `None` equals `None`.
    ///
    /// ```
    /// use tower_user_session::{SessionService, store::MemorySessionStore};
    ///
    /// #[derive(Clone, Debug, PartialEq)]
    /// struct User { id: i64, org: Option<i64> }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_user_session::Error> {
    /// let store = MemorySessionStore::new().with_session_columns(
    ///     &["active_org_id"],
    ///     |user: &mut User, row| {
    ///         user.org = row.get("active_org_id")?;
    ///         Ok(())
    ///     },
    /// );
    /// store.add_user(7, User { id: 7, org: None });
    /// let sessions = SessionService::new(store);
    ///
    /// let signed_in = sessions.sign_in_without_request(7).set("active_org_id", 3_i64).await?;
    /// let user = sessions.user(signed_in.token()).await?;
    /// assert_eq!(user, Some(User { id: 7, org: Some(3) }));
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_session_columns(
        mut self,
        columns: &'static [&'static str],
        apply: impl Fn(&mut U, &MemorySessionRow<'_>) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.session_columns = columns;
        self.apply = Some(Box::new(apply));
        self
    }
}

impl<I, U: Clone> MemorySessionStore<I, U> {
    /// Returns the user with the session columns applied.
    pub(super) fn applied(
        &self,
        user: &Arc<U>,
        values: &MemorySessionValues,
    ) -> Result<Arc<U>, BoxError> {
        let Some(apply) = &self.apply else {
            return Ok(Arc::clone(user));
        };
        let mut user = U::clone(user);
        apply(
            &mut user,
            &MemorySessionRow::new(self.session_columns, values),
        )?;
        Ok(Arc::new(user))
    }
}

impl<I, U, T> SetSessionColumn<T> for MemorySessionStore<I, U>
where
    I: Clone + Eq + Hash + Send + Sync + 'static,
    U: Clone + Send + Sync + 'static,
    T: PartialEq + Send + Sync + 'static,
{
    fn set(values: &mut MemorySessionValues, column: &'static str, value: T) {
        values.set(column, value);
    }
}

/// Values for session columns of a [`MemorySessionStore`].
#[derive(Clone, Default)]
pub struct MemorySessionValues(Vec<(&'static str, Arc<dyn Value>)>);

impl MemorySessionValues {
    pub(super) fn set<T: PartialEq + Send + Sync + 'static>(
        &mut self,
        column: &'static str,
        value: T,
    ) {
        self.insert(column, Arc::new(value));
    }

    /// Copies these values, and replaces earlier values of the same columns.
    pub(super) fn extend(&mut self, values: &Self) {
        for (column, value) in &values.0 {
            self.insert(column, Arc::clone(value));
        }
    }

    /// Returns whether each of these values equals the value of the same column.
    pub(super) fn match_all(&self, values: &Self) -> bool {
        values.0.iter().all(|(column, value)| {
            self.get(column)
                .is_some_and(|own| own.equals(&**value) || value.equals(own))
        })
    }

    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if a column is not in this list.
    pub(super) fn check(&self, columns: &[&str]) -> Result<(), Error> {
        match self.0.iter().find(|(column, _)| !columns.contains(column)) {
            None => Ok(()),
            Some((column, _)) => Err(Error::new(
                ErrorKind::Configuration,
                format!("MemorySessionStore::with_session_columns has no column \"{column}\""),
            )),
        }
    }

    fn insert(&mut self, column: &'static str, value: Arc<dyn Value>) {
        self.0.retain(|(earlier, _)| *earlier != column);
        self.0.push((column, value));
    }

    fn get(&self, column: &str) -> Option<&dyn Value> {
        let mut values = self.0.iter();
        let (_, value) = values.find(|(each, _)| *each == column)?;
        Some(&**value)
    }
}

impl fmt::Debug for MemorySessionValues {
    /// Omits the values, as the values of the PostgreSQL store do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(column, _)| column))
            .finish()
    }
}

/// The session columns of a session in a [`MemorySessionStore`].
pub struct MemorySessionRow<'a> {
    columns: &'static [&'static str],
    values: &'a MemorySessionValues,
}

impl<'a> MemorySessionRow<'a> {
    pub(super) const fn new(
        columns: &'static [&'static str],
        values: &'a MemorySessionValues,
    ) -> Self {
        Self { columns, values }
    }

    /// Returns the value of a column, or `None` if no value or `None` was set.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Decode`] if the store has no such column, or if the column was set with a value
    /// that is neither a `T` nor an `Option<T>`.
    pub fn get<T: Clone + 'static>(&self, column: &str) -> Result<Option<T>, Error> {
        let decode_error = |text: String| Error::new(ErrorKind::Decode, text);
        if !self.columns.contains(&column) {
            let text = format!("the store has no session column \"{column}\"");
            return Err(decode_error(text));
        }
        let Some(value) = self.values.get(column) else {
            return Ok(None);
        };
        let value: &dyn Any = value;
        if let Some(value) = value.downcast_ref::<T>() {
            return Ok(Some(value.clone()));
        }
        value.downcast_ref::<Option<T>>().cloned().ok_or_else(|| {
            let name = std::any::type_name::<T>();
            decode_error(format!("the session column \"{column}\" is not a {name}"))
        })
    }
}

impl fmt::Debug for MemorySessionRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.columns).finish()
    }
}

/// A value of any type with equality.
trait Value: Any + Send + Sync {
    /// Returns whether the other value is equal, or is equal in an [`Option`].
    fn equals(&self, other: &dyn Value) -> bool;
}

impl<T: PartialEq + Send + Sync + 'static> Value for T {
    fn equals(&self, other: &dyn Value) -> bool {
        let other: &dyn Any = other;
        let optional = other.downcast_ref::<Option<T>>();
        other.downcast_ref::<T>() == Some(self) || optional.and_then(Option::as_ref) == Some(self)
    }
}
