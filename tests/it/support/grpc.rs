//! A gRPC service and its client, with bytes as messages, so that no generated code is needed.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::tokio_stream::{self, StreamExt as _},
};
use tower::Service;

use super::{users::User, waiting::patiently};

/// Messages are bytes, so that no generated code is needed.
#[derive(Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }
}

/// `test.Who/One` responds with one message, `test.Who/Many` with three and then an error.
#[derive(Clone)]
pub struct Who;

fn email<T>(request: &tonic::Request<T>) -> Vec<u8> {
    let user = request.extensions().get::<User>();
    user.map_or(b"anonymous".to_vec(), |user| {
        user.email.clone().into_bytes()
    })
}

impl tonic::server::UnaryService<Vec<u8>> for Who {
    type Response = Vec<u8>;
    type Future = std::future::Ready<Result<tonic::Response<Vec<u8>>, Status>>;

    fn call(&mut self, request: tonic::Request<Vec<u8>>) -> Self::Future {
        let mut response = tonic::Response::new(email(&request));
        response
            .metadata_mut()
            .insert("x-kept", "yes".parse().unwrap());
        std::future::ready(Ok(response))
    }
}

impl tonic::server::ServerStreamingService<Vec<u8>> for Who {
    type Response = Vec<u8>;
    type ResponseStream = tokio_stream::Iter<std::vec::IntoIter<Result<Vec<u8>, Status>>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Vec<u8>>) -> Self::Future {
        let email = email(&request);
        let mut all: Vec<_> = vec![Ok(email.clone()), Ok(email.clone()), Ok(email)];
        all.push(Err(Status::data_loss("made up")));
        std::future::ready(Ok(tonic::Response::new(tokio_stream::iter(all))))
    }
}

impl Service<Request<tonic::body::Body>> for Who {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(match request.uri().path() {
                "/test.Who/One" => grpc.unary(Who, request).await,
                _ => grpc.server_streaming(Who, request).await,
            })
        })
    }
}

impl tonic::server::NamedService for Who {
    const NAME: &'static str = "test.Who";
}

pub struct GrpcClient(tonic::client::Grpc<tonic::transport::Channel>);

impl GrpcClient {
    pub async fn connect(address: SocketAddr) -> Self {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let channel = patiently(endpoint.unwrap().connect()).await.unwrap();
        Self(tonic::client::Grpc::new(channel))
    }

    fn request(cookies: &[&str]) -> tonic::Request<Vec<u8>> {
        let mut request = tonic::Request::new(b"hello".to_vec());
        for cookie in cookies {
            request
                .metadata_mut()
                .append("cookie", cookie.parse().unwrap());
        }
        request
    }

    pub async fn one(&mut self, cookies: &[&str]) -> Result<String, Status> {
        self.0.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/test.Who/One");
        let response = patiently(self.0.unary(Self::request(cookies), path, Raw)).await?;
        Ok(String::from_utf8(response.into_inner()).unwrap())
    }

    pub async fn many(&mut self, cookies: &[&str]) -> Result<(Vec<String>, Status), Status> {
        self.0.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/test.Who/Many");
        let call = self.0.server_streaming(Self::request(cookies), path, Raw);
        let mut stream = patiently(call).await?.into_inner();
        let mut messages = Vec::new();
        loop {
            match patiently(stream.next()).await.unwrap() {
                Ok(message) => messages.push(String::from_utf8(message).unwrap()),
                Err(status) => return Ok((messages, status)),
            }
        }
    }
}
