//! The warning about an unencrypted connection to a database on another host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use ephemeral_postgres::skip;
use tower_user_session::{PgSessionStore, SessionService, postgres::PgPoolBuilder};

use crate::support::{
    Logs, PgSessions, User, pool,
    tls_server::{Listening, authority, signed},
};

const BY_CHECK: &str = "the connection to the database on another host is not encrypted";
const BY_FEED: &str =
    "the session feed's connection to the database on another host is not encrypted";

/// An address of this machine that is not a loopback address. To the server, a client from there is
/// on another host.
fn address_in_the_network() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent: the address is reserved for documentation.
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then_some(address)
}

/// L03: `check` and the feed warn about clear text to another host, and about nothing else.
#[tokio::test]
async fn an_unencrypted_connection_to_another_host_is_logged() {
    let test = "postgres::unencrypted::an_unencrypted_connection_to_another_host_is_logged";
    let Some(network) = address_in_the_network() else {
        skip(test, "this machine has no address but loopback ones");
        return;
    };
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    let has_v6 = UdpSocket::bind((v6, 0)).is_ok();
    let listened = if has_v6 {
        &[network, v6][..]
    } else {
        &[network]
    };
    let Some(listening) = Listening::start_on(test, listened).await else {
        return;
    };
    let ours = authority("ours");
    listening.write("root.crt", &ours.pem());
    listening
        .present(signed(&ours, &["db.example"], "server", 4000))
        .await;
    listening.let_in("host all postgres samehost trust").await;
    let store = PgSessionStore::<User>::new(pool(&listening.database, 1));
    store.migrate().notify_on_user_change().await.unwrap();

    let (port, name) = (listening.port, listening.database.name());
    for (address, encrypted, is_warned_of) in [
        (network, false, true),
        (network, true, false),
        (v4, false, false),
        (v4, true, false),
        (v6, false, false),
        (v6, true, false),
    ] {
        if address == v6 && !has_v6 {
            continue;
        }
        let mode = if encrypted { "require" } else { "disable" };
        let url = format!(
            "postgres://postgres@db.example:{port}/{name}?hostaddr={address}&sslmode={mode}"
        );
        let builder = PgPoolBuilder::from_url(&url).unwrap().max_size(2);
        let builder = if encrypted {
            builder.root_certificates(ours.pem())
        } else {
            builder.insecure_clear_text()
        };
        let (pool, connector) = builder.build_with_connector().unwrap();
        let sessions: PgSessions = SessionService::new(PgSessionStore::new(pool));
        let logs = Logs::capture();
        let check = sessions.store().check().await.unwrap();
        assert_eq!(check.encrypted(), Some(encrypted));
        let feed = sessions.store().feed_with(&connector);
        sessions.subscribe(feed).await.unwrap();
        let logged = logs.text();
        for warning in [BY_CHECK, BY_FEED] {
            let warned = logged
                .lines()
                .filter(|line| line.contains("WARN") && line.contains(warning));
            let expected = usize::from(is_warned_of);
            assert_eq!(warned.count(), expected, "{url}: {warning}\n{logged}");
        }
    }
}
