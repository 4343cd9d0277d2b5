//! The service for signed-in users, behind `RequireUserLayer`.

use std::time::{Duration, Instant};

use example_application::{Sessions, User};
use tokio::time::interval;
use tokio_stream::{StreamExt as _, wrappers::IntervalStream};
use tonic::{Request, Response, Status, codegen::BoxStream};
use tower_user_session::{CurrentSession, feed::EndReason};

use crate::proto::{self, CountdownRequest, Nothing, Remaining};

pub(crate) struct Me(pub(crate) Sessions);

#[tonic::async_trait]
impl proto::me_server::Me for Me {
    async fn who_am_i(&self, request: Request<Nothing>) -> Result<Response<proto::User>, Status> {
        let User { id, email } = attached(&request)?;
        Ok(Response::new(proto::User { id, email }))
    }

    type CountdownStream = BoxStream<Remaining>;

    async fn countdown(
        &self,
        request: Request<CountdownRequest>,
    ) -> Result<Response<BoxStream<Remaining>>, Status> {
        let session: CurrentSession<User> = attached(&request)?;
        let times = usize::try_from(request.get_ref().times).unwrap_or(usize::MAX);
        let asked = Instant::now();
        let stream = IntervalStream::new(interval(Duration::from_secs(1)))
            .take(times)
            .map(move |_| session.remaining().saturating_sub(asked.elapsed()))
            .map(|remaining| {
                Ok(Remaining {
                    seconds: remaining.as_secs(),
                })
            });
        // `RequireUserLayer` checks once, before the first message. `ended` checks until the stream
        // ends.
        let stream = self
            .0
            .ended(&session)
            .close_stream_with(stream, |because| Some(Err(status(because))));
        Ok(Response::new(Box::pin(stream)))
    }
}

fn status(because: EndReason) -> Status {
    match because {
        EndReason::Revoked => Status::unauthenticated("signed out"),
        EndReason::Expired => Status::unauthenticated("the session has expired"),
        // This process is shutting down. The client should call again.
        _ => Status::unavailable("shutting down"),
    }
}

/// Returns the value that `LoadUserLayer` attached. `RequireUserLayer` rejects a request without
/// it.
fn attached<T: Clone + Send + Sync + 'static, M>(request: &Request<M>) -> Result<T, Status> {
    let attached = request.extensions().get().cloned();
    attached.ok_or_else(|| Status::internal("a layer is missing"))
}
