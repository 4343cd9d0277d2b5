//! A server that violates the protocol: its responses to a lookup are changed on the way.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_user_session::{
    Error, ErrorKind, PgSessionStore, SessionService,
    session::SessionToken,
    tokio_postgres::{Config, types::Type},
};

use crate::support::{
    PgSessions, User, database,
    proxy::{Stream, dial, pool_through},
    sessions, sign_out,
};

const DEADLINE: Duration = Duration::from_millis(500);

/// How the response to a lookup is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    None,
    /// It arrives in two parts, the first of this many bytes.
    SplitAt(usize),
    /// It arrives twice.
    Twice,
    /// It arrives again as the response to the next query on this connection.
    Again,
    /// It does not arrive.
    Dropped,
    /// Its one significant message does not arrive.
    WithoutRows,
    /// Its rows are truncated, and their length says so.
    ShortRow,
    /// Its rows end too early.
    TruncatedRow,
    /// Its rows have an extra column.
    ExtraColumn,
    /// A row claims a length that exceeds all memory.
    HugeRow,
    /// It is followed by an unsolicited error.
    ThenError,
    /// It is followed by the end of another query.
    ReadyTwice,
    /// The connection ends in the middle of a row.
    EndsInRow,
    /// When the statement is prepared, the server reports other column types.
    WrongTypes,
}

/// Whether this ends with the end of a response, in any transaction state.
fn is_whole(answer: &[u8]) -> bool {
    answer
        .rchunks(6)
        .next()
        .is_some_and(|end| end.starts_with(b"Z\0\0\0\x05"))
}

#[derive(Clone)]
struct Liar {
    port: u16,
    config: Config,
    lie: Arc<Mutex<Lie>>,
    connections: Arc<AtomicUsize>,
    /// The length of the last response to a lookup.
    length: Arc<AtomicUsize>,
}

impl Liar {
    async fn before(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let liar = Self {
            port: listener.local_addr().unwrap().port(),
            config,
            lie: Arc::new(Mutex::new(Lie::None)),
            connections: Arc::default(),
            length: Arc::default(),
        };
        let serving = liar.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                client.set_nodelay(true).unwrap();
                serving.connections.fetch_add(1, SeqCst);
                if let Some(server) = dial(&serving.config).await {
                    tokio::spawn(serving.clone().relay(client, server));
                }
            }
        });
        liar
    }

    fn tell(&self, lie: Lie) {
        *self.lie.lock().unwrap() = lie;
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    fn sessions(&self) -> PgSessions {
        let pool = pool_through(self.port, &self.config, 2);
        SessionService::builder(PgSessionStore::new(pool))
            .deadline(DEADLINE)
            .build()
            .unwrap()
    }

    async fn relay(self, mut client: TcpStream, mut server: Box<dyn Stream>) -> Option<()> {
        let (mut from_client, mut from_server) = ([0; 8192], [0; 8192]);
        let mut answer = Vec::new();
        let mut again = Vec::new();
        loop {
            tokio::select! {
                read = client.read(&mut from_client) => {
                    let read = read.ok().filter(|read| *read > 0)?;
                    if !again.is_empty() {
                        client.write_all(&std::mem::take(&mut again)).await.ok()?;
                    }
                    server.write_all(&from_client[..read]).await.ok()?;
                }
                read = server.read(&mut from_server) => {
                    let read = read.ok().filter(|read| *read > 0)?;
                    answer.extend_from_slice(&from_server[..read]);
                    if !is_whole(&answer) {
                        // The handshake's messages; every other response ends with this.
                        if answer.starts_with(b"R") {
                            client.write_all(&std::mem::take(&mut answer)).await.ok()?;
                        }
                        continue;
                    }
                    let answer = std::mem::take(&mut answer);
                    let messages = messages(&answer);
                    let lie = *self.lie.lock().unwrap();
                    let types = ['1', 't', 'T'].map(u32::from);
                    let tags: Vec<_> = messages.iter().map(|(tag, _)| u32::from(*tag)).collect();
                    if tags.starts_with(&types) && lie == Lie::WrongTypes {
                        client.write_all(&with_other_types(&messages)).await.ok()?;
                        continue;
                    }
                    // Only a lookup binds, returns rows, and has a digest as its first value.
                    let lookup = messages.first()?.0 == b'2'
                        && messages.get(1).is_some_and(|(tag, body)| {
                            *tag == b'D' && body.get(2..6) == Some(&[0, 0, 0, 32])
                        });
                    if !lookup {
                        client.write_all(&answer).await.ok()?;
                        continue;
                    }
                    self.length.store(answer.len(), SeqCst);
                    match lie {
                        Lie::SplitAt(at) => {
                            let (first, second) = answer.split_at(at.min(answer.len()));
                            client.write_all(first).await.ok()?;
                            tokio::time::sleep(Duration::from_millis(1)).await;
                            client.write_all(second).await.ok()?;
                        }
                        Lie::Dropped => {}
                        Lie::EndsInRow => {
                            client.write_all(&answer[..40]).await.ok()?;
                            return None;
                        }
                        Lie::Again => {
                            client.write_all(&answer).await.ok()?;
                            again = answer;
                        }
                        _ => client.write_all(&changed(&messages, lie)).await.ok()?,
                    }
                }
            }
        }
    }
}

type Message = (u8, Vec<u8>);

fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let [tag, a, b, c, d, rest @ ..] = bytes {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize - 4;
        messages.push((*tag, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    messages
}

fn bytes(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, body) in messages {
        bytes.push(*tag);
        bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
    }
    bytes
}

fn changed(answer: &[Message], lie: Lie) -> Vec<u8> {
    let mut lying = answer.to_vec();
    let is_row = |message: &Message| message.0 == b'D';
    let fields = |body: &[u8]| u16::from_be_bytes([body[0], body[1]]);
    match lie {
        Lie::Twice => lying.extend_from_slice(answer),
        Lie::WithoutRows => lying.retain(|message| !is_row(message)),
        Lie::ThenError => {
            lying.push((b'E', b"SFATAL\0VFATAL\0C57P01\0Mgo away\0\0".to_vec()));
        }
        Lie::ReadyTwice => lying.extend(answer.last().cloned()),
        _ => {}
    }
    for (_, body) in lying.iter_mut().filter(|message| is_row(message)) {
        match lie {
            Lie::ShortRow => {
                // One column, the digest.
                body.truncate(2 + 4 + 32);
                body[..2].copy_from_slice(&1u16.to_be_bytes());
            }
            Lie::TruncatedRow => body.truncate(45),
            Lie::ExtraColumn => {
                let more = fields(body) + 1;
                body[..2].copy_from_slice(&more.to_be_bytes());
                body.extend([0, 0, 0, 1, b'x']);
            }
            _ => {}
        }
    }
    let mut lying = bytes(&lying);
    if lie == Lie::HugeRow {
        let row = 5; // after `BindComplete`
        lying[row + 1..row + 5].copy_from_slice(&(1u32 << 30).to_be_bytes());
    }
    lying
}

/// The prepared statement's description, with another type for each column that it returns.
fn with_other_types(answer: &[Message]) -> Vec<u8> {
    let mut lying = answer.to_vec();
    let columns = &mut lying[2].1;
    let mut at = 2;
    while at < columns.len() {
        let name = columns[at..].iter().position(|byte| *byte == 0).unwrap();
        let kind = at + name + 1 + 6; // after the table and the column's number in it
        columns[kind..kind + 4].copy_from_slice(&Type::POINT.oid().to_be_bytes());
        at = kind + 4 + 8;
    }
    bytes(&lying)
}

/// E02: a response gives the same result wherever it is split.
#[tokio::test]
async fn a_response_split_across_packets_is_read_correctly() {
    let database = database().await;
    let liar = Liar::before(database.config()).await;
    let sessions = liar.sessions();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    let opened = liar.connections();
    let length = liar.length.load(SeqCst);
    assert!(length > 100);
    for at in 1..length {
        liar.tell(Lie::SplitAt(at));
        let (found, other) = tokio::join!(sessions.user(ada.token()), sessions.user(eve.token()));
        assert_eq!(found.unwrap(), Some(User::ada()), "split at {at}");
        assert_eq!(other.unwrap(), Some(User::eve()), "split at {at}");
    }
    // The second lookup of a pair has its own connection.
    assert!(liar.connections() <= opened + 1);
}

/// E03, F21: a malformed response is an error or makes the lookup be retried. It is never accepted,
/// and its connection is not used again.
#[tokio::test]
async fn a_malformed_response_is_an_error_and_closes_the_connection() {
    let database = database().await;
    let liar = Liar::before(database.config()).await;
    for (lie, refused) in [
        (Lie::Twice, None),
        (Lie::Dropped, Some(ErrorKind::Deadline)),
        (Lie::WithoutRows, Some(ErrorKind::Protocol)),
        (Lie::ShortRow, Some(ErrorKind::Connection)),
        (Lie::TruncatedRow, Some(ErrorKind::Connection)),
        (Lie::ExtraColumn, Some(ErrorKind::Connection)),
        (Lie::HugeRow, Some(ErrorKind::Deadline)),
        (Lie::ThenError, None),
        (Lie::ReadyTwice, None),
        (Lie::EndsInRow, Some(ErrorKind::Connection)),
        (Lie::WrongTypes, Some(ErrorKind::Decode)),
    ] {
        let sessions = liar.sessions();
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        liar.tell(lie);
        let before = liar.connections();
        let answer = sessions.user(ada.token()).await;
        let kind = answer.as_ref().map_err(Error::kind);
        match refused {
            Some(refused) => assert_eq!(kind, Err(refused), "{lie:?}"),
            // The response was correct; the message after it was not.
            None => assert_eq!(kind, Ok(&Some(User::ada())), "{lie:?}"),
        }
        liar.tell(Lie::None);
        let opened = liar.connections();
        assert!(opened > before, "{lie:?}");
        let answer = sessions.user(ada.token()).await;
        assert_eq!(answer.unwrap(), Some(User::ada()), "{lie:?}");
        assert_eq!(liar.connections(), opened + 1, "{lie:?}: used again");
    }
    assert!(memory_in_use() < 1 << 30);
}

/// E03: a replayed response is not accepted for a later query about another token.
#[tokio::test]
async fn a_replayed_response_never_resolves_another_token() {
    let database = database().await;
    let liar = Liar::before(database.config()).await;
    let sessions = liar.sessions();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    liar.tell(Lie::Again);
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    let opened = liar.connections();
    let error = sessions.user(eve.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    liar.tell(Lie::None);
    assert_eq!(sessions.user(eve.token()).await.unwrap(), Some(User::eve()));
    assert_eq!(liar.connections(), opened + 1);
}

/// E03, E05: nor for the same query, repeated after the session has ended.
#[tokio::test]
async fn a_replayed_response_does_not_outlive_the_session() {
    let database = database().await;
    let honest = sessions(&database);
    let liar = Liar::before(database.config()).await;
    let sessions = liar.sessions();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    liar.tell(Lie::Again);
    assert_eq!(sessions.user(ada.token()).await.unwrap(), Some(User::ada()));
    assert!(sign_out(&honest, ada.token()).await.unwrap());
    let opened = liar.connections();
    let error = sessions.user(ada.token()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    liar.tell(Lie::None);
    assert_eq!(sessions.user(ada.token()).await.unwrap(), None);
    assert_eq!(liar.connections(), opened + 1);
}

/// F22: a server that demands years of work during authentication is rejected at once, and no other
/// caller waits for it.
#[tokio::test]
async fn an_excessive_scram_iteration_count_is_rejected() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let demanding = async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut said = [0; 8192];
        assert!(client.read(&mut said).await.unwrap() > 0);
        let mechanisms = [&10_u32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat();
        let demand = bytes(&[(b'R', mechanisms)]);
        client.write_all(&demand).await.unwrap();
        let read = client.read(&mut said).await.unwrap();
        let said = String::from_utf8_lossy(&said[..read]);
        let (_, nonce) = said.split_once("r=").unwrap();
        let challenge = format!("r={nonce}0,s=c2FsdA==,i={}", u32::MAX);
        let challenge = [&11_u32.to_be_bytes()[..], challenge.as_bytes()].concat();
        let demand = bytes(&[(b'R', challenge)]);
        client.write_all(&demand).await.unwrap();
        // The server waits as long as the client works.
        let _ = client.read(&mut [0; 1]).await;
    };
    let mut config = Config::new();
    config.user("ada").password("secret").dbname("app");
    let sessions = SessionService::builder(PgSessionStore::<User>::new(pool_through(
        port,
        config.host("127.0.0.1"),
        1,
    )))
    .deadline(DEADLINE)
    .build()
    .unwrap();
    let start = std::time::Instant::now();
    let token = SessionToken::generate().unwrap();
    let (refused, ()) = tokio::join!(sessions.user(&token), demanding);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Authentication);
    assert!(start.elapsed() < DEADLINE);
}

/// The memory of this process in bytes; zero if the system does not report it.
fn memory_in_use() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes.map_or(0, |kilobytes| kilobytes.parse::<usize>().unwrap() * 1024)
}
