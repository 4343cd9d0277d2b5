//! Spans of lookups, and the fields of the request's span.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex},
};

use http::Request;
use tower::{ServiceBuilder, ServiceExt as _};
use tower_http::trace::TraceLayer;
use tower_user_session::{LoadUserLayer, session::SessionToken};
use tracing::{
    Id, Subscriber, field,
    field::{Field, Visit},
    info_span,
    span::{Attributes, Record},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt as _},
};

use crate::support::{
    PgSessions,
    caching::{announced_database, caching, signed_in, until_cached},
    cookie, database, kill_lookups, sessions, who,
};

/// A closed span: its name, its parent's name and its fields.
#[derive(Clone, Debug, Default, PartialEq)]
struct Closed {
    name: &'static str,
    parent: Option<&'static str>,
    fields: BTreeMap<&'static str, String>,
}

#[derive(Clone, Default)]
struct Spans {
    open: Arc<Mutex<BTreeMap<u64, Closed>>>,
    closed: Arc<Mutex<Vec<Closed>>>,
}

struct Values<'a>(&'a mut BTreeMap<&'static str, String>);

impl Visit for Values<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let mut opened = Closed {
            name: span.name(),
            parent: span.parent().map(|parent| parent.name()),
            ..Closed::default()
        };
        attributes.record(&mut Values(&mut opened.fields));
        self.open.lock().unwrap().insert(id.into_u64(), opened);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, _: Context<'_, S>) {
        let mut open = self.open.lock().unwrap();
        record.record(&mut Values(
            &mut open.get_mut(&id.into_u64()).unwrap().fields,
        ));
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        let closed = self.open.lock().unwrap().remove(&id.into_u64()).unwrap();
        self.closed.lock().unwrap().push(closed);
    }
}

impl Spans {
    /// Takes the spans of lookups that were closed.
    fn lookups(&self) -> Vec<Closed> {
        let mut closed = std::mem::take(&mut *self.closed.lock().unwrap());
        closed.retain(|span| span.name == "session.lookup");
        closed
    }
}

/// Captures the spans of this thread while the guard lives.
fn capture() -> (Spans, tracing::subscriber::DefaultGuard) {
    let logs = crate::support::Logs::capture();
    drop(logs);
    let spans = Spans::default();
    let subscriber = Registry::default().with(spans.clone());
    (spans, tracing::subscriber::set_default(subscriber))
}

/// Q05: a lookup that the cache does not answer has a span, a child of the caller's, with its
/// outcome, the batch and its times. A hit has none.
#[tokio::test]
async fn a_lookup_that_misses_the_cache_has_a_span() {
    let (spans, _guard) = capture();
    let database = announced_database().await;
    let sessions = caching(&database).await;
    let ada = signed_in(&database, &sessions).await;
    let unknown = SessionToken::generate().unwrap();
    spans.lookups();
    let look_up = async |token: &SessionToken| {
        let outcome = {
            let parent = info_span!("request").entered();
            let lookup = sessions.user(token);
            let mut lookup = std::pin::pin!(lookup);
            let first = crate::support::poll_once(lookup.as_mut());
            drop(parent);
            match first {
                std::task::Poll::Ready(outcome) => outcome,
                std::task::Poll::Pending => lookup.await,
            }
        };
        (outcome, spans.lookups())
    };
    for (token, outcome) in [(&unknown, "absent"), (ada.token(), "live")] {
        let (_, closed) = look_up(token).await;
        let [span] = &closed[..] else {
            panic!("{closed:#?}")
        };
        assert_eq!(span.parent, Some("request"));
        assert_eq!(span.fields["outcome"], format!("{outcome:?}"));
        assert_eq!(span.fields["batch_size"], "1");
        assert_eq!(span.fields["retried"], "false");
        assert!(span.fields["query"].ends_with('s') && span.fields["wait"].ends_with('s'));
        let session = (outcome == "live").then(|| ada.session().id().to_string());
        assert_eq!(span.fields.get("session.id").cloned(), session);
    }
    until_cached(&sessions, ada.token()).await;
    spans.lookups();
    let (_, closed) = look_up(ada.token()).await;
    assert_eq!(closed, [], "a hit");

    drop(database);
}

/// Q05: the span says that the query was repeated, and the kind of a failure.
#[tokio::test]
async fn a_span_has_the_retry_and_the_kind_of_the_failure() {
    let (spans, _guard) = capture();
    let database = database().await;
    let sessions: PgSessions = sessions(&database);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    sessions.user(ada.token()).await.unwrap();
    spans.lookups();
    assert!(kill_lookups(&database).await >= 1);
    sessions.user(ada.token()).await.unwrap();
    let retried: Vec<_> = spans.lookups();
    // The driver may notice the loss before the query is sent.
    let again = sessions.metrics().store.lookups_retried > 0;
    assert_eq!(retried[0].fields["retried"], again.to_string());

    crate::support::sql(&database, "ALTER TABLE users RENAME TO hidden").await;
    assert!(sessions.user(ada.token()).await.is_err());
    let failed = spans.lookups();
    assert_eq!(failed[0].fields["outcome"], "\"failed\"");
    assert_eq!(failed[0].fields["error.type"], "Schema");
}

/// Q05: the layer records the session and the user on the span of the request, and only if the
/// application asks for it.
#[tokio::test]
async fn the_layer_records_the_session_on_the_requests_span() {
    let (spans, _guard) = capture();
    let database = announced_database().await;
    let sessions = caching(&database).await;
    let ada = signed_in(&database, &sessions).await;
    let request_span = |_: &Request<String>| {
        info_span!(
            "request",
            session.id = field::Empty,
            enduser.pseudo.id = field::Empty
        )
    };
    let layer = || LoadUserLayer::new(sessions.clone());
    let session = ("session.id", ada.session().id().to_string());
    let user = ("enduser.pseudo.id", "\"1\"".to_owned());
    let all = [session.clone(), user.clone()];
    for (layer, expected) in [
        (layer(), &all[..0]),
        (layer().record_session(), &all[..1]),
        (layer().record_user(|user| user.id), &all[1..]),
        (
            layer().record_session().record_user(|user| user.id),
            &all[..],
        ),
    ] {
        let app = ServiceBuilder::new()
            .layer(TraceLayer::new_for_http().make_span_with(request_span))
            .layer(layer)
            .service_fn(who::<String>);
        let mut cached = false;
        // A miss and a hit.
        while !cached {
            let before = sessions.metrics().from_cache;
            let mut request = Request::new(String::new());
            *request.headers_mut() = cookie(&sessions, ada.token());
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            drop(response);
            cached = sessions.metrics().from_cache > before;
            let closed = std::mem::take(&mut *spans.closed.lock().unwrap());
            let request = closed.iter().find(|span| span.name == "request").unwrap();
            assert_eq!(
                request.fields,
                expected.iter().cloned().collect::<BTreeMap<_, _>>()
            );
        }
        crate::support::sql(&database, "UPDATE sessions SET remembered = NOT remembered").await;
    }
}
