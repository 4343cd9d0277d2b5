//! A serving process: a service with a cache, controlled by one command per line.

use std::{
    future::poll_fn,
    ops::Range,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_core::Stream;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    runtime::Handle,
    task::JoinSet,
};
use tower_user_session::{
    BoxError, CurrentSession, Error,
    feed::EndReason,
    tokio_postgres::{Config, NoTls},
};

use crate::{
    clock,
    ground::{Sessions, User, headers, sessions, token},
    watching,
};

const KEPT: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(2);
    let mut config = || -> Result<Config, BoxError> {
        Ok(arguments.next().ok_or("an argument is missing")?.parse()?)
    };
    let (database, feed) = (config()?, config()?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(&database, feed))
}

async fn serve(database: &Config, feed: Config) -> Result<(), BoxError> {
    let sessions = sessions(database, 4)?;
    let feed = sessions.store().feed(feed, NoTls);
    sessions.enable_cache(feed, KEPT).await?;
    let watching = watching::start(sessions.clone(), Handle::current());
    println!("ready 0");
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await? {
        let (sessions, watching) = (sessions.clone(), watching.clone());
        tokio::spawn(async move {
            if let Err(error) = obey(&order, &sessions, &watching).await {
                eprintln!("error: {order}: {error}");
            }
        });
    }
    Ok(())
}

async fn obey(
    order: &str,
    sessions: &Sessions,
    watching: &mpsc::Sender<u64>,
) -> Result<(), BoxError> {
    let mut words = order.split(' ');
    let word = words.next().unwrap_or_default();
    let numbers: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>()?;
    match (word, numbers.as_slice()) {
        ("keep", [from, to]) => keep(sessions, *from..*to).await,
        ("watch", [session]) => Ok(watching.send(*session)?),
        ("open", [from, to]) => open(sessions, *from..*to).await,
        (way, [session]) => end(sessions, way, *session).await,
        _ => Err("no such order".into()),
    }
}

/// Until all of them are answered from the cache.
async fn keep(sessions: &Sessions, range: Range<u64>) -> Result<(), BoxError> {
    let start = Instant::now();
    loop {
        let before = sessions.metrics().from_cache;
        look_up(sessions, range.clone()).await?;
        if sessions.metrics().from_cache - before == range.end - range.start {
            println!("kept {}", range.start);
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err("they are not kept".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn look_up(
    sessions: &Sessions,
    range: Range<u64>,
) -> Result<Vec<CurrentSession<User>>, BoxError> {
    let mut asking = JoinSet::new();
    let mut found = Vec::new();
    for session in range {
        let (sessions, token) = (sessions.clone(), token(session)?);
        asking.spawn(async move { sessions.resolve(&token).await });
        if asking.len() >= 256 {
            found.extend(asking.join_next().await.transpose()?.transpose()?);
        }
    }
    while let Some(answer) = asking.join_next().await {
        found.push(answer??);
    }
    let live = found
        .into_iter()
        .map(|live| live.map(|live| CurrentSession::new(live.session)));
    live.collect::<Option<_>>()
        .ok_or_else(|| "a session is not live".into())
}

/// Ends a session, and reports when the call began and when it returned.
async fn end(sessions: &Sessions, way: &str, session: u64) -> Result<(), BoxError> {
    let user = i64::try_from(session)?;
    let (headers, token) = (headers(session)?, token(session)?);
    let live = match way {
        "revoke" => sessions.resolve(&token).await?,
        _ => None,
    };
    let start = clock::now();
    let ended = match way {
        "sign_out" => sessions
            .sign_out(&headers)
            .await
            .ended()
            .map_err(Error::clone)?,
        "revoke" => {
            let live = live.ok_or("it is over already")?;
            sessions.revoke(&user, live.session.id()).await?
        }
        "revoke_all" => sessions.revoke_all(&user).await? > 0,
        "revoke_everyone" => sessions.revoke_everyone().await? > 0,
        _ => return Err("no such order".into()),
    };
    let end = clock::now();
    if !ended {
        return Err("there was nothing to end".into());
    }
    println!("ended {session} {start} {end}");
    Ok(())
}

/// A stream without items.
struct Silent;

impl Stream for Silent {
    type Item = ();

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<()>> {
        Poll::Pending
    }
}

/// Opens a stream per session, each in its own task. Reports their memory and when the last one has
/// closed.
async fn open(sessions: &Sessions, range: Range<u64>) -> Result<(), BoxError> {
    let current = look_up(sessions, range).await?;
    let count = current.len() as u64;
    let (open, last) = (Arc::new(AtomicU64::new(count)), Arc::new(AtomicU64::new(0)));
    let before = clock::resident()?;
    let allocated = allocation_counter::measure(|| {
        for session in &current {
            let ended = sessions.ended(session);
            let (open, last) = (Arc::clone(&open), Arc::clone(&last));
            tokio::spawn(async move {
                let mut stream = pin!(ended.close_stream_with(Silent, |because| {
                    (because == EndReason::Revoked).then_some(())
                }));
                // Its final item, if it was closed for the right reason.
                let next = poll_fn(|cx| stream.as_mut().poll_next(cx)).await;
                last.fetch_max(clock::now(), SeqCst);
                if next.is_none() {
                    println!("failed 0");
                }
                open.fetch_sub(1, SeqCst);
            });
        }
    });
    // Until all have been checked once.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = clock::resident()?;
    println!(
        "opened 0 {} {} {}",
        after.saturating_sub(before),
        allocated.bytes_current,
        open.load(SeqCst)
    );
    while open.load(SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("closed 0 {}", last.load(SeqCst));
    Ok(())
}
