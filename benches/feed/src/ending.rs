//! Ends sessions in each way, and judges the results that were returned meanwhile.

use std::time::Duration;

use tower_user_session::{BoxError, feed::DEFAULT_LEASE, tokio_postgres::Client};

use crate::{
    clock,
    ground::{PROCESSES, Sessions},
    process::Process,
};

/// How a session is ended. The number is that of the process that ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    SignOut(usize),
    Revoke(usize),
    RevokeAll(usize),
    /// By a service without a feed.
    Elsewhere,
    Delete,
    DeleteUser,
    DisableUser,
}

impl Way {
    /// Each way in turn, each time in another process.
    pub(crate) const fn of(number: u64) -> Self {
        let process = (number / 7) as usize % PROCESSES;
        match number % 7 {
            0 => Self::SignOut(process),
            1 => Self::Revoke(process),
            2 => Self::RevokeAll(process),
            3 => Self::Elsewhere,
            4 => Self::Delete,
            5 => Self::DeleteUser,
            _ => Self::DisableUser,
        }
    }

    /// Each way that needs none of the processes.
    pub(crate) const fn from_outside(number: u64) -> Self {
        match number % 4 {
            0 => Self::Elsewhere,
            1 => Self::Delete,
            2 => Self::DeleteUser,
            _ => Self::DisableUser,
        }
    }

    const fn process(self) -> Option<usize> {
        match self {
            Self::SignOut(process) | Self::Revoke(process) | Self::RevokeAll(process) => {
                Some(process)
            }
            _ => None,
        }
    }
}

/// The measured end of a session.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From the start of the ending call to the last process that rejected the token, in
    /// milliseconds.
    pub(crate) last_refusal: f64,
    /// The same from the return of the call.
    pub(crate) after_return: f64,
    /// Processes that returned the session too late.
    pub(crate) late: u64,
    /// Processes that never answered from the cache.
    pub(crate) not_kept: u64,
}

/// Ends sessions, and watches them in all processes.
pub(crate) struct Ending<'a> {
    pub(crate) processes: &'a [Process],
    pub(crate) client: &'a Client,
    pub(crate) elsewhere: &'a Sessions,
}

impl Ending<'_> {
    /// Starts to look a session up in each process.
    pub(crate) async fn watch(&self, session: u64) -> Result<(), BoxError> {
        let watching: Vec<_> = self
            .processes
            .iter()
            .map(|process| process.expect(&format!("watching {session}")))
            .collect();
        for process in self.processes {
            process.order(&format!("watch {session}")).await?;
        }
        for expected in watching {
            expected.report().await?;
        }
        Ok(())
    }

    /// Ends a watched session, and waits until it is rejected everywhere. If a process was stopped,
    /// `continued` says when it continued, once that is known.
    pub(crate) async fn end(
        &self,
        session: u64,
        way: Way,
        continued: impl Fn(usize) -> Option<u64>,
    ) -> Result<Outcome, BoxError> {
        let refusals: Vec<_> = self
            .processes
            .iter()
            .map(|process| process.expect(&format!("refused {session}")))
            .collect();
        let (began, returned) = self.call(session, way).await?;
        let (mut last, mut late, mut not_kept) = (0, 0, 0);
        for (number, refusal) in refusals.into_iter().enumerate() {
            let [refused, last_live, hits] = refusal.report().await?[..] else {
                return Err("a report that is none".into());
            };
            let bound = match continued(number) {
                // Whatever it returns from then on, it has slept longer than a lease.
                Some(continued) => continued.max(returned),
                None if way.process() == Some(number) => returned,
                None => returned + nanos(DEFAULT_LEASE),
            };
            last = last.max(refused);
            late += u64::from(last_live > bound);
            not_kept += u64::from(hits == 0);
        }
        Ok(Outcome {
            last_refusal: clock::millis(last.saturating_sub(began)),
            after_return: clock::millis(last.saturating_sub(returned)),
            late,
            not_kept,
        })
    }

    /// When the call began and when it returned.
    async fn call(&self, session: u64, way: Way) -> Result<(u64, u64), BoxError> {
        let user = i64::try_from(session)?;
        let told = async |process: usize, order: &str| {
            let order = format!("{order} {session}");
            let ended = format!("ended {session}");
            match self.processes[process].ask(&order, &ended).await?[..] {
                [began, returned] => Ok((began, returned)),
                _ => Err("a report that is none".into()),
            }
        };
        let statement = match way {
            Way::SignOut(process) => return told(process, "sign_out").await,
            Way::Revoke(process) => return told(process, "revoke").await,
            Way::RevokeAll(process) => return told(process, "revoke_all").await,
            Way::Elsewhere => "",
            Way::Delete => "DELETE FROM sessions WHERE user_id = $1",
            Way::DeleteUser => "DELETE FROM users WHERE id = $1",
            Way::DisableUser => "UPDATE users SET disabled_at = now() WHERE id = $1",
        };
        let began = clock::now();
        let ended = if statement.is_empty() {
            self.elsewhere.revoke_all(&user).await?
        } else {
            self.client.execute(statement, &[&user]).await?
        };
        let returned = clock::now();
        if ended == 1 {
            Ok((began, returned))
        } else {
            Err(format!("{way:?} ended {ended} sessions").into())
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Four processes that follow the feed of a database directly.
pub(crate) async fn four(
    database: &ephemeral_postgres::TestDatabase,
) -> Result<Vec<Process>, BoxError> {
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(Process::start(database, None).await?);
    }
    Ok(processes)
}

/// Until all of these are answered from the cache in each process.
pub(crate) async fn keep(processes: &[Process], from: u64, to: u64) -> Result<(), BoxError> {
    let kept: Vec<_> = processes
        .iter()
        .map(|process| process.expect(&format!("kept {from}")))
        .collect();
    for process in processes {
        process.order(&format!("keep {from} {to}")).await?;
    }
    for expected in kept {
        expected.report().await?;
    }
    Ok(())
}
