//! Applications with more than one kind of user: each layer and each guard has its own user type.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder, ServiceExt as _, service_fn, util::BoxCloneSyncService};
use tower_user_session::{
    CurrentSession, CurrentUser, LoadUserLayer, RequireUserLayer, SessionService,
    cookie::SessionCookie, rejection::EmptyResponseForRejection, store::MemorySessionStore,
};

use crate::support::{
    Logs,
    grpc::{GrpcClient, Who},
    loopback::{Client, Http, serve},
    signed_in_cookie,
};

#[derive(Clone, Debug, PartialEq)]
struct Staff(&'static str);

#[derive(Clone, Debug, PartialEq)]
struct Customer(&'static str);

type Sessions<U> = SessionService<MemorySessionStore<i64, U>>;

/// The guards require an authentication no older than this.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// The state of one user type's session for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    NoCookie,
    UnknownCookie,
    OldAuthentication,
    FreshAuthentication,
}

impl Has {
    const ALL: [Self; 4] = [
        Self::NoCookie,
        Self::UnknownCookie,
        Self::OldAuthentication,
        Self::FreshAuthentication,
    ];
}

/// One service with its own cookie, and a cookie for each state.
struct Identity<U: Clone + Send + Sync + 'static> {
    sessions: Sessions<U>,
    unknown: String,
    old: String,
    fresh: String,
}

impl<U: Clone + Send + Sync + 'static> Identity<U> {
    async fn new(cookie_name: &str, user: U) -> Self {
        let store = MemorySessionStore::new();
        store.add_user(1, user);
        let sessions = SessionService::builder(store)
            .cookie(SessionCookie::named(cookie_name).unwrap())
            .build()
            .unwrap();
        let unknown = signed_in_cookie(&sessions, 1).await;
        sessions.revoke_all(&1).await.unwrap();
        let old = signed_in_cookie(&sessions, 1).await;
        sessions.store().advance(FRESH + Duration::from_secs(1));
        let fresh = signed_in_cookie(&sessions, 1).await;
        Self {
            sessions,
            unknown,
            old,
            fresh,
        }
    }

    fn cookie(&self, has: Has) -> Option<&str> {
        match has {
            Has::NoCookie => None,
            Has::UnknownCookie => Some(&self.unknown),
            Has::OldAuthentication => Some(&self.old),
            Has::FreshAuthentication => Some(&self.fresh),
        }
    }
}

struct Both {
    staff: Identity<Staff>,
    customers: Identity<Customer>,
}

impl Both {
    async fn new() -> Self {
        Self {
            staff: Identity::new("staff", Staff("Ada")).await,
            customers: Identity::new("customer", Customer("Eve")).await,
        }
    }

    /// Each pair of states with the cookies that it sends.
    fn states(&self) -> impl Iterator<Item = (Has, Has, Vec<&str>)> {
        let pairs = Has::ALL
            .into_iter()
            .flat_map(|staff| Has::ALL.map(|customer| (staff, customer)));
        pairs.map(|(staff, customer)| {
            let cookies = [self.staff.cookie(staff), self.customers.cookie(customer)];
            (staff, customer, cookies.into_iter().flatten().collect())
        })
    }
}

fn guard<U>() -> RequireUserLayer<U> {
    RequireUserLayer::new().max_auth_age(FRESH)
}

/// Which layer is the outer one.
#[derive(Clone, Copy, Debug)]
enum Outer {
    Staff,
    Customers,
}

const ORDERS: [Outer; 2] = [Outer::Staff, Outer::Customers];

/// axum, with the guards inside nested routers and the layers outside.
async fn on_axum(both: &Both, outer: Outer) -> (Http, SocketAddr) {
    async fn staff(
        CurrentUser(Staff(name)): CurrentUser<Staff>,
        _: CurrentSession<Staff>,
    ) -> &'static str {
        name
    }
    async fn customer(
        CurrentUser(Customer(name)): CurrentUser<Customer>,
        _: CurrentSession<Customer>,
    ) -> &'static str {
        name
    }
    let staff = Router::new()
        .route("/account", get(staff))
        .layer(guard::<Staff>());
    let customers = Router::new()
        .route("/account", get(customer))
        .layer(guard::<Customer>());
    let app = Router::new()
        .nest("/staff", staff)
        .nest("/customers", customers);
    let staff = LoadUserLayer::new(both.staff.sessions.clone());
    let customers = LoadUserLayer::new(both.customers.sessions.clone());
    let app = match outer {
        Outer::Staff => app.layer(customers).layer(staff),
        Outer::Customers => app.layer(staff).layer(customers),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (Http::One, address)
}

type Page = Response<Full<Bytes>>;

async fn page<U>(request: Request<Incoming>) -> Result<Page, Infallible>
where
    U: Clone + Send + Sync + 'static,
{
    let user = request.extensions().get::<U>();
    let session = request.extensions().get::<CurrentSession<U>>();
    assert!(user.is_some() && session.is_some());
    Ok(Response::default())
}

/// hyper's HTTP/2, without a framework.
async fn on_hyper(both: &Both, outer: Outer) -> (Http, SocketAddr) {
    let staff = ServiceBuilder::new()
        .layer(guard::<Staff>())
        .service_fn(page::<Staff>);
    let customers = ServiceBuilder::new()
        .layer(guard::<Customer>())
        .service_fn(page::<Customer>);
    let routes = service_fn(move |request: Request<Incoming>| {
        let (mut staff, mut customers) = (staff.clone(), customers.clone());
        async move {
            if request.uri().path().starts_with("/staff") {
                staff.call(request).await
            } else {
                customers.call(request).await
            }
        }
    });
    let staff = LoadUserLayer::new(both.staff.sessions.clone());
    let customers = LoadUserLayer::new(both.customers.sessions.clone());
    let app = match outer {
        Outer::Staff => BoxCloneSyncService::new(
            ServiceBuilder::new()
                .layer(staff)
                .layer(customers)
                .service(routes),
        ),
        Outer::Customers => BoxCloneSyncService::new(
            ServiceBuilder::new()
                .layer(customers)
                .layer(staff)
                .service(routes),
        ),
    };
    (Http::Two, serve(Http::Two, app).await)
}

/// O01, O02: for each order of the layers and each combination of cookies, each guard reads the
/// session of its own user type.
#[tokio::test]
async fn each_guard_reads_the_session_of_its_own_user_type() {
    let both = Both::new().await;
    for outer in ORDERS {
        for (http, address) in [on_axum(&both, outer).await, on_hyper(&both, outer).await] {
            let client = Client::connect(http, address).await;
            for (staff, customer, cookies) in both.states() {
                for (path, has) in [("/staff/account", staff), ("/customers/account", customer)] {
                    let expected = if has == Has::FreshAuthentication {
                        StatusCode::OK
                    } else {
                        StatusCode::UNAUTHORIZED
                    };
                    let (status, ..) = client.get(path, &cookies).await;
                    assert_eq!(
                        status, expected,
                        "{path}, {outer:?} outside, staff {staff:?}, customer {customer:?}, {http:?}"
                    );
                }
            }
        }
    }
}

/// A tonic server with both layers in this order, and with this guard.
fn on_tonic<U: Send + Sync + 'static>(both: &Both, outer: Outer) -> SocketAddr {
    let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap());
    let incoming = incoming.unwrap();
    let address = incoming.local_addr().unwrap();
    let staff = LoadUserLayer::new(both.staff.sessions.clone())
        .rejection_response(EmptyResponseForRejection);
    let customers = LoadUserLayer::new(both.customers.sessions.clone())
        .rejection_response(EmptyResponseForRejection);
    let guard = guard::<U>().rejection_response(EmptyResponseForRejection);
    let server = tonic::transport::Server::builder();
    match outer {
        Outer::Staff => {
            let mut server = server.layer(staff).layer(customers).layer(guard);
            let server = server.add_service(Who);
            tokio::spawn(server.serve_with_incoming(incoming));
        }
        Outer::Customers => {
            let mut server = server.layer(customers).layer(staff).layer(guard);
            let server = server.add_service(Who);
            tokio::spawn(server.serve_with_incoming(incoming));
        }
    }
    address
}

/// O01, O02 over gRPC.
#[tokio::test]
async fn each_guard_reads_the_session_of_its_own_user_type_over_grpc() {
    let both = Both::new().await;
    for outer in ORDERS {
        let mut staff_client = GrpcClient::connect(on_tonic::<Staff>(&both, outer)).await;
        let mut customer_client = GrpcClient::connect(on_tonic::<Customer>(&both, outer)).await;
        for (staff, customer, cookies) in both.states() {
            for (client, has) in [(&mut staff_client, staff), (&mut customer_client, customer)] {
                let code = client
                    .one(&cookies)
                    .await
                    .map_or_else(|status| status.code(), |_| tonic::Code::Ok);
                let expected = if has == Has::FreshAuthentication {
                    tonic::Code::Ok
                } else {
                    tonic::Code::Unauthenticated
                };
                assert_eq!(
                    code, expected,
                    "{outer:?} outside, staff {staff:?}, customer {customer:?}"
                );
            }
        }
    }
}

/// Two layers for one user type: those of one service agree, and a disagreement between two
/// services is reported. The inner layer decides.
#[tokio::test]
async fn two_layers_for_one_user_type_agree_or_are_reported() {
    for (outer, inner, cookies, seen, reported) in [
        (0, 0, &[0][..], Some("Ada"), false),
        (0, 0, &[1], None, false),
        (0, 1, &[0], None, true),
        (0, 1, &[1], Some("Eve"), false),
        (0, 1, &[0, 1], Some("Eve"), true),
        (1, 0, &[0, 1], Some("Ada"), true),
    ] {
        let services = [
            Identity::new("first", Staff("Ada")).await,
            Identity::new("second", Staff("Eve")).await,
        ];
        let (outer, inner) = (&services[outer], &services[inner]);
        let cookies: Vec<_> = cookies
            .iter()
            .map(|&n: &usize| &*services[n].fresh)
            .collect();
        let logs = Logs::capture();
        let app = ServiceBuilder::new()
            .layer(LoadUserLayer::new(outer.sessions.clone()))
            .layer(LoadUserLayer::new(inner.sessions.clone()))
            .service_fn(|request: Request<String>| async move {
                let name = request.extensions().get::<Staff>().map(|Staff(name)| *name);
                let session = request.extensions().get::<CurrentSession<Staff>>();
                assert_eq!(name.is_some(), session.is_some());
                Ok::<_, Infallible>(Response::new(name.unwrap_or_default().to_owned()))
            });
        let request = Request::builder().header("cookie", cookies.join("; "));
        let response = app.oneshot(request.body(String::new()).unwrap()).await;
        assert_eq!(response.unwrap().body(), seen.unwrap_or_default());
        let events = logs.events();
        let errors = events.iter().filter(|line| line.contains("ERROR"));
        assert_eq!(errors.count(), usize::from(reported), "{events:?}");
    }
}
