//! Transactions of the store, whose `COMMIT` is sent together with the changes.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use deadpool_postgres::ClientWrapper;
use tokio::join;

use crate::{
    error::Error,
    postgres::{
        errors,
        fence::{Gate, Server},
        sql::execution::{Bounds, Execution, Executor, OwnTransaction},
    },
};

impl<'a> Executor<'a> {
    /// A transaction of the store, which [`begin`](Self::begin) begins.
    pub(crate) fn own_transaction(
        connection: &'a ClientWrapper,
        gate: &'a Gate,
        bounds: Bounds,
    ) -> Self {
        Self {
            own: Some(OwnTransaction { bounds, gate }),
            ..Self::connection(connection)
        }
    }

    /// Begins a transaction of the store, and returns its server. Does nothing in a transaction of
    /// the application.
    pub(crate) async fn begin(self) -> Result<Server, Error> {
        let Some(own) = self.own else {
            return Ok(Server::Unknown);
        };
        let (begun, server) = join!(
            biased;
            Execution::begin(self.client, own.bounds),
            own.gate.server(self.client),
        );
        begun?;
        server
    }

    /// Commits a transaction of the store on this server. Does nothing in a transaction of the
    /// application.
    ///
    /// The result of each statement decides. If a statement has failed, the server rolls back on
    /// `COMMIT` and still reports success.
    ///
    /// If the driver could not send a statement, the transaction is rolled back. The server would
    /// commit the other statements.
    pub(crate) async fn commit(self, statements: &Unsent, server: Server) -> Result<(), Error> {
        let Some(own) = self.own else {
            return Ok(());
        };
        let end = if statements.0.load(Relaxed) {
            "ROLLBACK"
        } else {
            "COMMIT"
        };
        let ended = self.client.batch_execute(end).await;
        ended.map_err(errors::commit)?;
        // If the server was replaced in the meantime, the committed changes may be lost.
        let admitted = own.gate.admit(server);
        admitted.map_err(Error::with_outcome_unknown)
    }

    /// Converts the error of a statement with which [`commit`](Self::commit) was sent.
    pub(crate) fn before_commit(self, error: Error) -> Error {
        if self.own.is_some() {
            errors::write(error)
        } else {
            error
        }
    }
}

/// Records whether the driver could not send a statement of a transaction. Such a query fails when
/// it is first polled, before the next statement is sent.
#[derive(Default)]
pub(crate) struct Unsent(AtomicBool);

impl Unsent {
    pub(crate) async fn watch<T>(
        &self,
        query: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let outcome = query.await;
        self.0.fetch_or(outcome.is_err(), Relaxed);
        outcome
    }
}
