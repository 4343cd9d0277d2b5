//! This crate, with every default.

use tower::{ServiceBuilder, service_fn};
use tower_user_session::{BoxError, LoadUserLayer, PgSessionStore, SessionService};

use super::{App, handler};
use crate::{database::Database, user::User};

pub(super) fn app(database: &Database) -> Result<App, BoxError> {
    let sessions = SessionService::new(PgSessionStore::<User>::new(database.pool(10)?));
    let layer = LoadUserLayer::new(sessions);
    Ok(App::new(
        ServiceBuilder::new()
            .layer(layer)
            .service(service_fn(handler)),
    ))
}
