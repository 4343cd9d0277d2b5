//! Sign-up, sign-in and sign-out.

use example_application::{AccountError, Application, Client, Credentials, SIGNED_OUT_HERE};
use http::HeaderMap;
use tonic::{Code, Extensions, Request, Response, Status, metadata::MetadataMap};

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
    ) -> Result<Response<proto::SignedIn>, Status> {
        let ip = request.remote_addr().map(|client| client.ip());
        let (metadata, _, credentials) = request.into_parts();
        let headers = metadata.into_headers();
        let client = Client {
            headers: &headers,
            ip,
        };
        let signed_in = self
            .0
            .sign_in(&credentials.into(), client, false)
            .await
            .map_err(status)?;
        // A browser uses the cookie, and a program uses the token.
        let token = signed_in.token().expose();
        Ok(answer(proto::SignedIn { token }, |headers| {
            signed_in.write_to(headers);
        }))
    }

    async fn sign_out(&self, request: Request<Nothing>) -> Result<Response<Done>, Status> {
        let headers = request.into_parts().0.into_headers();
        let signed_out = self.0.sign_out(&headers).await;
        if signed_out.ended().is_ok() {
            return Ok(answer(Done {}, |headers| signed_out.write_to(headers)));
        }
        let (metadata, ..) = answer((), |headers| signed_out.write_to(headers)).into_parts();
        Err(Status::with_metadata(
            Code::Unavailable,
            SIGNED_OUT_HERE,
            metadata,
        ))
    }
}

/// Returns a response whose metadata are the headers that `write` sets.
fn answer<T>(message: T, write: impl FnOnce(&mut HeaderMap)) -> Response<T> {
    let mut headers = HeaderMap::new();
    write(&mut headers);
    let metadata = MetadataMap::from_headers(headers);
    Response::from_parts(metadata, message, Extensions::default())
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
            tracing::error!(%cause, "sign-up or sign-in failed");
            Status::unavailable(message)
        }
    }
}

impl From<proto::Credentials> for Credentials {
    fn from(proto::Credentials { email, password }: proto::Credentials) -> Self {
        Self { email, password }
    }
}
