//! A process that stands for a distance: it forwards bytes between a Unix socket and a server's,
//! and delays each of them.
//!
//! One thread does all of it. The kernel wakes it at the nanosecond for which the next byte is due,
//! because a runtime's timers have a resolution of milliseconds. It is a process of its own, so
//! that its processor time counts toward no contestant.

use std::{
    collections::{HashMap, VecDeque},
    io::{ErrorKind, Read as _, Write as _},
    mem::MaybeUninit,
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fd::OwnedFd,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use crate::BoxError;

/// The name of a server's socket in its directory, for the port that the servers here use.
const SOCKET: &str = ".s.PGSQL.5432";

/// A running proxy. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Distance {
    process: Child,
    directory: PathBuf,
}

impl Distance {
    /// Starts a proxy with this round trip to the server whose socket is in `server`.
    pub(crate) fn before(server: &Path, round_trip: Duration) -> Result<Self, BoxError> {
        let name = format!("distance-{}-{}", std::process::id(), round_trip.as_nanos());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory)?;
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--delaying-proxy")
            .arg(&directory)
            .arg(server)
            .arg(round_trip.as_nanos().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = [0];
        let mut output = process.stdout.take().ok_or("the proxy has no output")?;
        output.read_exact(&mut ready)?;
        Ok(Self { process, directory })
    }

    /// The directory to connect to instead of the server's.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Runs the proxy, until its standard input is closed.
pub(crate) fn run(directory: &Path, server: &Path, round_trip: Duration) -> Result<(), BoxError> {
    // By default, the kernel may wake a thread 50 microseconds late.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let path = directory.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::io::stdout().write_all(b"+")?;
    std::io::stdout().flush()?;
    Proxy {
        delay: round_trip / 2,
        server: server.join(SOCKET),
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

/// Two sockets, from the first of which bytes reach the second.
struct Direction {
    from: Arc<UnixStream>,
    to: Arc<UnixStream>,
}

struct Proxy {
    delay: Duration,
    server: PathBuf,
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
    fn run(mut self, listener: &UnixListener) -> Result<(), BoxError> {
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

    fn accept(&mut self, listener: &UnixListener) -> Result<(), BoxError> {
        let client = Arc::new(listener.accept()?.0);
        let server = Arc::new(UnixStream::connect(&self.server)?);
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
                let _ = direction.to.shutdown(Shutdown::Write);
                self.directions.remove(&name);
            }
        }
    }
}
