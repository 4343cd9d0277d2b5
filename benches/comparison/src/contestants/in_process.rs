//! A contestant whose service runs in this process.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::Router;

use super::{Contestant, app::App};
use crate::{
    load::{self, Load, Sample},
    request::Requests,
};

/// A service and the requests that it understands.
pub(super) struct InProcess<S> {
    service: S,
    requests: Arc<Requests>,
}

impl<S: App> InProcess<S> {
    pub(super) fn boxed(service: S, requests: Arc<Requests>) -> Box<dyn Contestant> {
        Box::new(Self { service, requests })
    }
}

#[async_trait]
impl<S: App> Contestant for InProcess<S> {
    fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    async fn closed(
        &self,
        load: Load,
        time: Duration,
        server: Option<crate::cpu::Server>,
    ) -> Sample {
        load::closed(&self.service, &self.requests, load, time, server).await
    }

    async fn open(&self, rate: u32, time: Duration, server: Option<crate::cpu::Server>) -> Sample {
        load::open(&self.service, &self.requests, rate, time, server).await
    }

    async fn exactly(&self, tasks: u32, requests: u32) -> u64 {
        load::exactly(&self.service, &self.requests, tasks, requests).await
    }

    fn router(&self) -> Router {
        Router::new().route_service("/me", self.service.clone())
    }
}
