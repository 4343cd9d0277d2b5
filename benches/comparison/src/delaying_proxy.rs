//! A process that stands for a distance: it forwards bytes between its clients and a server, and
//! delays each of them.
//!
//! One thread does all of it. The kernel wakes it at the nanosecond for which the next byte is due,
//! because a runtime's timers have a resolution of milliseconds. It is a process of its own, so
//! that its processor time counts toward no contestant.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    mem::MaybeUninit,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fd::OwnedFd,
    net::{Shutdown, accept, shutdown, sockopt::set_tcp_nodelay},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use crate::BoxError;

/// The port of every server and proxy here.
const PORT: u16 = 5432;

/// Where a server or a proxy listens, as connection strings name it: the directory of a Unix
/// socket, or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Directory(PathBuf),
    Address(Ipv4Addr),
}

impl Host {
    pub(crate) fn new(text: &str) -> Self {
        text.parse()
            .map_or_else(|_| Self::Directory(text.into()), Self::Address)
    }

    /// An address of the loopback interface that no other run uses.
    pub(crate) fn on_loopback(network: u8) -> Self {
        let [.., high, low] = std::process::id().to_be_bytes();
        Self::Address(Ipv4Addr::new(127, network, high, low))
    }

    fn listen(&self) -> Result<OwnedFd, BoxError> {
        Ok(match self {
            Self::Directory(directory) => UnixListener::bind(socket(directory))?.into(),
            Self::Address(address) => {
                let listener = TcpListener::bind((*address, PORT))?;
                // Linux sets it for each connection that the listener accepts.
                set_tcp_nodelay(&listener, true)?;
                listener.into()
            }
        })
    }

    fn connect(&self) -> Result<OwnedFd, BoxError> {
        Ok(match self {
            Self::Directory(directory) => UnixStream::connect(socket(directory))?.into(),
            Self::Address(address) => {
                let stream = TcpStream::connect((*address, PORT))?;
                stream.set_nodelay(true)?;
                stream.into()
            }
        })
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join(format!(".s.PGSQL.{PORT}"))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => directory.display().fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A running proxy. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct DelayingProxy {
    process: Child,
    host: Host,
}

impl DelayingProxy {
    /// Starts a proxy with this round trip to the server. It listens as the server does: on a Unix
    /// socket, or on an address.
    pub(crate) fn before(server: &Host, round_trip: Duration) -> Result<Self, BoxError> {
        let host = match server {
            Host::Address(_) => Host::on_loopback(PROXIES),
            Host::Directory(_) => {
                let name = format!("distance-{}-{}", std::process::id(), round_trip.as_nanos());
                let directory = std::env::temp_dir().join(name);
                match std::fs::remove_dir_all(&directory) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                    _ => {}
                }
                std::fs::create_dir_all(&directory)?;
                Host::Directory(directory)
            }
        };
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--delaying-proxy")
            .arg(host.to_string())
            .arg(server.to_string())
            .arg(round_trip.as_nanos().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = [0];
        let mut output = process.stdout.take().ok_or("the proxy has no output")?;
        let proxy = Self { process, host };
        output.read_exact(&mut ready)?;
        Ok(proxy)
    }

    /// The host to connect to instead of the server.
    pub(crate) const fn host(&self) -> &Host {
        &self.host
    }
}

impl Drop for DelayingProxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Host::Directory(directory) = &self.host {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// The networks of loopback addresses: 127.1.0.0/16 and 127.2.0.0/16.
pub(crate) const SERVERS: u8 = 1;
const PROXIES: u8 = 2;

/// Runs the proxy, until its standard input is closed.
pub(crate) fn run(host: &Host, server: &Host, round_trip: Duration) -> Result<(), BoxError> {
    // By default, the kernel may wake a thread 50 microseconds late.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let listener = host.listen()?;
    std::io::stdout().write_all(b"+")?;
    std::io::stdout().flush()?;
    Proxy {
        delay: round_trip / 2,
        server: server.clone(),
        epoll: epoll::create(CreateFlags::CLOEXEC)?,
        timer: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?,
        directions: HashMap::new(),
        next: FIRST_DIRECTION,
        on_the_way: VecDeque::new(),
    }
    .run(&listener)
}

const LISTENER: u64 = 0;
const INPUT: u64 = 1;
const TIMER: u64 = 2;
const FIRST_DIRECTION: u64 = 3;

/// Two sockets, from the first of which bytes reach the second. A file reads and writes either kind
/// of socket.
struct Direction {
    from: Arc<File>,
    to: Arc<File>,
}

struct Proxy {
    delay: Duration,
    server: Host,
    epoll: OwnedFd,
    /// `epoll` alone would wait for whole milliseconds.
    timer: OwnedFd,
    directions: HashMap<u64, Direction>,
    next: u64,
    /// In the order in which they are due, because every byte has the same delay. An empty part is
    /// the end of its direction.
    on_the_way: VecDeque<(Instant, u64, Vec<u8>)>,
}

impl Proxy {
    fn run(mut self, listener: &OwnedFd) -> Result<(), BoxError> {
        epoll::add(
            &self.epoll,
            listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )?;
        let input = std::io::stdin();
        epoll::add(
            &self.epoll,
            &input,
            EventData::new_u64(INPUT),
            EventFlags::IN,
        )?;
        epoll::add(
            &self.epoll,
            &self.timer,
            EventData::new_u64(TIMER),
            EventFlags::IN,
        )?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            if let Some((due, ..)) = self.on_the_way.front() {
                let wait = due.saturating_duration_since(Instant::now());
                self.wake_in(wait.max(Duration::from_nanos(1)))?;
            }
            let mut events = [MaybeUninit::uninit(); 64];
            let (events, _) = epoll::wait(&self.epoll, &mut events, None)?;
            let events: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
            self.deliver();
            for event in events {
                match event {
                    LISTENER => self.accept(listener)?,
                    INPUT => return Ok(()),
                    // Setting the timer again clears it.
                    TIMER if self.on_the_way.is_empty() => self.wake_in(Duration::ZERO)?,
                    TIMER => {}
                    direction => self.receive(direction, &mut buffer),
                }
            }
        }
    }

    /// Sets the timer; zero clears it.
    fn wake_in(&self, wait: Duration) -> Result<(), BoxError> {
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let timer = Itimerspec {
            it_interval: none,
            it_value: Timespec {
                tv_sec: wait.as_secs().cast_signed(),
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
        Ok(())
    }

    fn accept(&mut self, listener: &OwnedFd) -> Result<(), BoxError> {
        let client = Arc::new(File::from(accept(listener)?));
        let server = Arc::new(File::from(self.server.connect()?));
        for (from, to) in [(&client, &server), (&server, &client)] {
            let name = EventData::new_u64(self.next);
            epoll::add(&self.epoll, &**from, name, EventFlags::IN)?;
            let direction = Direction {
                from: Arc::clone(from),
                to: Arc::clone(to),
            };
            self.directions.insert(self.next, direction);
            self.next += 1;
        }
        Ok(())
    }

    fn receive(&mut self, name: u64, buffer: &mut [u8]) {
        let Some(direction) = self.directions.get(&name) else {
            return;
        };
        let read = (&*direction.from).read(buffer).unwrap_or(0);
        if read == 0 {
            let _ = epoll::delete(&self.epoll, &*direction.from);
        }
        let due = Instant::now() + self.delay;
        self.on_the_way
            .push_back((due, name, buffer[..read].to_vec()));
    }

    /// Delivers what is due.
    fn deliver(&mut self) {
        while self
            .on_the_way
            .front()
            .is_some_and(|(due, ..)| *due <= Instant::now())
        {
            let Some((_, name, part)) = self.on_the_way.pop_front() else {
                return;
            };
            let Some(direction) = self.directions.get(&name) else {
                continue;
            };
            // The messages are so small that a socket's buffer always has room for them.
            if part.is_empty() || (&*direction.to).write_all(&part).is_err() {
                let _ = shutdown(&*direction.to, Shutdown::Write);
                self.directions.remove(&name);
            }
        }
    }
}
