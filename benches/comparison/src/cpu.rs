//! Processor time of this process, and of a server with all its children.

use std::{fs, time::Duration};

use rustix::time::{ClockId, clock_gettime};

pub(crate) fn client() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// A server process and its children, as Linux accounts them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server(pub(crate) u32);

/// In clock ticks, including children that have ended.
const TICK: Duration = Duration::from_millis(10);

impl Server {
    /// `None` without `/proc`.
    pub(crate) fn time(self) -> Option<Duration> {
        let own = on_cpu(self.0)?;
        let children: Duration = children(self.0).filter_map(on_cpu).sum();
        Some(own + children + ended(self.0)?)
    }
}

fn on_cpu(pid: u32) -> Option<Duration> {
    let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let nanos = schedstat.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

fn children(parent: u32) -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        (stat(pid)?.first()? == &parent.to_string()).then_some(pid)
    })
}

fn ended(pid: u32) -> Option<Duration> {
    let fields = stat(pid)?;
    let ticks = |place: usize| fields.get(place)?.parse::<u32>().ok();
    Some(TICK * (ticks(12)? + ticks(13)?))
}

/// The fields of `/proc/pid/stat` from the parent's id on. The name before them may contain spaces.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.rsplit_once(") ")?.1;
    Some(
        after
            .split_ascii_whitespace()
            .skip(1)
            .map(str::to_owned)
            .collect(),
    )
}
