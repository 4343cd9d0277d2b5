//! The application over a socket, in both versions of HTTP, with a real PostgreSQL.

use bytes::Bytes;
use ephemeral_postgres::TestDatabase;
use example_application::Application;
use http::{Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, sync::oneshot};

const ADA: &str = "email=ada%40example.com&password=correct+horse";

#[tokio::test]
async fn over_http_1_and_2_a_person_signs_up_signs_in_and_signs_out() {
    let database = TestDatabase::create("").await;
    let application = Application::open(database.config()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = oneshot::channel();
    let serving = tokio::spawn(example_hyper::serve(listener, application, async {
        drop(ended.await);
    }));

    for version in [Version::HTTP_11, Version::HTTP_2] {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(version == Version::HTTP_2)
            .build_http();
        let send =
            async |method: Method, path: &str, cookie: &str, site: &str, form: &'static str| {
                let request = Request::builder()
                    .method(method)
                    .uri(format!("http://{address}{path}"))
                    .header(header::COOKIE, cookie)
                    .header("sec-fetch-site", site)
                    .body(Full::<Bytes>::from(form))
                    .unwrap();
                let response = client.request(request).await.unwrap();
                assert_eq!(response.version(), version);
                let (head, body) = response.into_parts();
                Response::from_parts(head, body.collect().await.unwrap().to_bytes())
            };

        send(Method::POST, "/sign-up", "", "none", ADA).await;
        let wrong = "email=ada%40example.com&password=wrong+horse";
        let refused = send(Method::POST, "/sign-in", "", "none", wrong).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert!(!refused.headers().contains_key(header::SET_COOKIE));
        let forged = send(Method::POST, "/sign-in", "", "cross-site", ADA).await;
        assert_eq!(forged.status(), StatusCode::FORBIDDEN);

        let signed_in = send(Method::POST, "/sign-in", "", "none", ADA).await;
        assert_eq!(signed_in.status(), StatusCode::SEE_OTHER);
        let cookie = signed_in.headers()[header::SET_COOKIE].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap();
        let me = send(Method::GET, "/api/me", cookie, "none", "").await;
        assert_eq!(me.status(), StatusCode::OK);
        assert_eq!(&me.body()[..], br#"{"id":1,"email":"ada@example.com"}"#);

        let forged = send(Method::POST, "/sign-out", cookie, "cross-site", "").await;
        assert_eq!(forged.status(), StatusCode::FORBIDDEN);
        let signed_out = send(Method::POST, "/sign-out", cookie, "none", "").await;
        assert_eq!(signed_out.status(), StatusCode::SEE_OTHER);
        let me = send(Method::GET, "/api/me", cookie, "none", "").await;
        assert_eq!(me.status(), StatusCode::UNAUTHORIZED);
    }

    end.send(()).unwrap();
    serving.await.unwrap();
}
