//! Signing up, in and out.

use std::net::SocketAddr;

use example_application::{AccountError, Application, Credentials};
use http::HeaderMap;
use tonic::{Extensions, Request, Response, Status, metadata::MetadataMap};
use tower_user_session::SignedIn;

use crate::proto::{self, Done, Nothing};

pub(crate) struct Accounts(pub(crate) Application);

#[tonic::async_trait]
impl proto::accounts_server::Accounts for Accounts {
    async fn sign_up(
        &self,
        request: Request<proto::Credentials>,
    ) -> Result<Response<Done>, Status> {
        let credentials = request.into_inner().into();
        let signed_up = self.0.accounts.sign_up(&credentials).await;
        signed_up.map_err(status)?;
        Ok(Response::new(Done {}))
    }

    async fn sign_in(
        &self,
        request: Request<proto::Credentials>,
    ) -> Result<Response<Done>, Status> {
        let client = request.remote_addr();
        let (metadata, _, credentials) = request.into_parts();
        let begun = self
            .begin_session(client, &metadata.into_headers(), &credentials.into())
            .await;
        let signed_in = begun.map_err(status)?;
        Ok(done(|headers| signed_in.write_to(headers)))
    }

    async fn sign_out(&self, request: Request<Nothing>) -> Result<Response<Done>, Status> {
        let headers = request.into_parts().0.into_headers();
        let signed_out = self.0.sessions.sign_out(&headers).await;
        Ok(done(|headers| signed_out.write_to(headers)))
    }
}

impl Accounts {
    async fn begin_session(
        &self,
        client: Option<SocketAddr>,
        headers: &HeaderMap,
        credentials: &Credentials,
    ) -> Result<SignedIn, AccountError> {
        let user_id = self.0.accounts.check_password(credentials).await?;
        let mut sign_in = self.0.sessions.sign_in(user_id).request(headers);
        if let Some(client) = client {
            sign_in = sign_in.ip(client.ip());
        }
        Ok(sign_in.await?)
    }
}

/// An answer whose metadata are what is written to its headers.
fn done(write: impl FnOnce(&mut HeaderMap)) -> Response<Done> {
    let mut headers = HeaderMap::new();
    write(&mut headers);
    Response::from_parts(
        MetadataMap::from_headers(headers),
        Done {},
        Extensions::default(),
    )
}

fn status(error: AccountError) -> Status {
    let message = error.to_string();
    match error {
        AccountError::NotAnEmail
        | AccountError::PasswordTooShort
        | AccountError::PasswordTooLong => Status::invalid_argument(message),
        AccountError::EmailTaken => Status::already_exists(message),
        AccountError::WrongCredentials => Status::unauthenticated(message),
        AccountError::Busy => Status::unavailable(message),
        AccountError::Unavailable(cause) => {
            tracing::error!(%cause, "nobody can sign up or in");
            Status::unavailable(message)
        }
    }
}

impl From<proto::Credentials> for Credentials {
    fn from(proto::Credentials { email, password }: proto::Credentials) -> Self {
        Self { email, password }
    }
}
