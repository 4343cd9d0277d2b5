use std::{fmt, marker::PhantomData};

use tower_layer::Layer;

use super::RequireUser;
use crate::DefaultResponseForRejection;

/// Layer that applies [`RequireUser`]. See the [module's documentation](crate::require_user).
///
/// `U` is the application's user type, the same as that of the `LoadUserLayer` outside.
#[must_use]
pub struct RequireUserLayer<U, R = DefaultResponseForRejection> {
    rejection: R,
    user: PhantomData<fn() -> U>,
}

impl<U> RequireUserLayer<U> {
    /// A layer that demands a user.
    pub const fn new() -> Self {
        Self {
            rejection: DefaultResponseForRejection,
            user: PhantomData,
        }
    }
}

impl<U, R> RequireUserLayer<U, R> {
    /// Builds the response to whoever is turned away in another way.
    pub fn rejection_response<T>(self, response: T) -> RequireUserLayer<U, T> {
        RequireUserLayer {
            rejection: response,
            user: PhantomData,
        }
    }
}

impl<U> Default for RequireUserLayer<U> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, U, R: Clone> Layer<S> for RequireUserLayer<U, R> {
    type Service = RequireUser<S, U, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireUser::new(inner, self.rejection.clone())
    }
}

impl<U, R: Clone> Clone for RequireUserLayer<U, R> {
    fn clone(&self) -> Self {
        Self {
            rejection: self.rejection.clone(),
            user: PhantomData,
        }
    }
}

impl<U, R> fmt::Debug for RequireUserLayer<U, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireUserLayer").finish_non_exhaustive()
    }
}
